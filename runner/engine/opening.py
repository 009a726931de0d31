"""Opening what a mapping is made of, for as long as it is not told to stop."""

from __future__ import annotations

import anyio

from runner.ports import Destination, Function, FunctionNotValid, Source, SourceError, SourceListener


async def open_all(
    stop: anyio.Event, function: Function, destination: Destination | None, source: Source, listener: SourceListener
) -> bool:
    """False: told to stop before everything was open. Raises SourceError, FunctionNotValid."""
    is_open = False
    problem: SourceError | FunctionNotValid | None = None
    async with anyio.create_task_group() as group:

        async def cancel_when_stopped() -> None:
            await stop.wait()
            group.cancel_scope.cancel()

        group.start_soon(cancel_when_stopped)
        try:
            await function.open()
            if destination is not None:
                await destination.open()
            await source.open(listener)
            is_open = True
        except (SourceError, FunctionNotValid) as error:
            problem = error
        group.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return is_open
