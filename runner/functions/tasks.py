"""Tasks of their own for handlers on the loop: one that swallows its cancellation cannot hold up who called it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio

from runner.functions import left_behind
from runner.functions.errors import error_of
from runner.model import Failed, Outcome

LEAVE_SECONDS: Final = 2.0
"""What a call whose result no longer counts may take to unwind before it is left behind."""
# A cancelled coroutine needs a moment to unwind; only what takes longer resists.
_UNWIND_SECONDS: Final = 0.1


async def run(call: Coroutine[Any, Any, Outcome], *, timeout: float, overdue: Callable[[], None]) -> Outcome | None:
    """The outcome of ``call``; None when it had to be cancelled after ``timeout`` seconds, once it has ended.

    ``overdue`` is called when it resists that. Cancelled itself, this cancels ``call`` once and leaves it behind when
    it has not ended LEAVE_SECONDS later. ``call`` raises nothing but KeyboardInterrupt.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(call)
    # Not the task itself is awaited: each cancellation of the waiter would be passed on to it.
    ended: asyncio.Future[None] = loop.create_future()
    late = False
    timer: asyncio.TimerHandle

    def end(_: asyncio.Task[Outcome]) -> None:
        if not ended.done():
            ended.set_result(None)

    def expire() -> None:
        nonlocal late, timer
        # A loop that was late itself may find both at once; then the call was in time.
        if not task.done():
            late = True
            task.cancel()
            timer = loop.call_later(_UNWIND_SECONDS, overdue)

    task.add_done_callback(end)
    timer = loop.call_later(timeout, expire)
    try:
        await ended
    except asyncio.CancelledError:
        timer.cancel()
        await _withdraw(task)
        raise
    finally:
        timer.cancel()
    if late:
        return None
    if task.cancelled():  # by the handler itself, with its last step
        return Failed(error_of(asyncio.CancelledError()))
    return task.result()


async def _withdraw(task: asyncio.Task[Outcome]) -> None:
    left_behind.add(task)
    task.add_done_callback(_ended)
    task.cancel()
    # Shielded, or the scope that cancelled us would do so again at every turn of the loop.
    with anyio.CancelScope(shield=True):
        await asyncio.wait({task}, timeout=LEAVE_SECONDS)


def _ended(task: asyncio.Task[Outcome]) -> None:
    left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved: the loop itself raises the one that there can be
