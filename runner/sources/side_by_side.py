"""Works that run side by side, and those that run beside all else that their source does.

The former not by ``asyncio.gather``: cut off while the last of its works has ended and another has not, it ends in a
cancellation that does not name the scope which asked for it, and takes more than that scope with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio

from runner.model import Problem, Reason


async def first_to_end(*works: Coroutine[Any, Any, None]) -> None:
    """Run ``works`` until one of them ends; cancel the others, and raise what was raised, by the first of them in this
    order if by several. Cancelled, it cancels all."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error


async def all_to_end(works: Iterable[Coroutine[Any, Any, None]], *, expected: tuple[type[Exception], ...]) -> None:
    """Returns when all have ended; those that raise one of ``expected`` have ended as well."""

    async def run(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except expected:
            return  # whoever calls has said that nothing follows from it

    async with anyio.create_task_group() as group:
        for work in works:
            group.start_soon(run, work)


def spawn(work: Coroutine[Any, Any, None], failed: Callable[[Problem], None]) -> asyncio.Task[None]:
    """Begin ``work`` in a task of its own, which nobody awaits: when it raises, ``failed`` is told what ends its source
    by that."""

    def note_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failed(Problem(Reason.INTERNAL_ERROR, f"a task of the source failed: {error!r}"))

    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(note_end)
    return task
