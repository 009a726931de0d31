"""Daemon threads for handlers that block: a handler that never returns cannot keep the process from ending."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from runner.functions import left_behind

T = TypeVar("T")


class ThreadNotStarted(Exception):
    """The system gives no further thread; nothing was called."""


class _Thread:
    """One thread and the call that it runs."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, finished: Callable[[_Thread], None]) -> None:
        self._loop = loop
        self._finished = finished
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._running = False
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except RuntimeError as error:
            raise ThreadNotStarted(f"no thread for the handler: {error}") from error

    def start(self, call: Callable[[], Any], result: asyncio.Future[Any]) -> None:
        self._running = True
        self._calls.put((call, result))

    def stop(self) -> None:
        self._calls.put(None)

    def leave_behind(self) -> None:
        left_behind.add(self)
        if not self._running:  # it ended in this very moment, perhaps before it was added
            left_behind.discard(self)

    def _serve(self) -> None:
        while (entry := self._calls.get()) is not None:
            call, result = entry
            try:
                value, error = call(), None
            except BaseException as raised:  # handed to whoever waits for the result
                value, error = None, raised
            self._running = False
            left_behind.discard(self)
            try:
                self._loop.call_soon_threadsafe(self._deliver, result, value, error)
            except RuntimeError:
                return  # the loop is closed: nobody is left to wait for this result
            del call, result, entry, value, error

    def _deliver(self, result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        if not result.cancelled():
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)
        self._finished(self)


class HandlerThreads:
    """As many threads as calls run at once; the engine bounds those. All methods are the loop's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count(1)
        self._idle: list[_Thread] = []
        self._closed = False

    async def run(self, call: Callable[[], T], *, timeout: float, overdue: Callable[[], None]) -> tuple[T, bool]:
        """The result of ``call``, however late, and whether it came after ``timeout`` seconds. Raises what it raises.

        ``overdue`` is called once, at the timeout. Cancelled, it leaves the call behind and its result is discarded.
        ``call`` must not raise StopIteration. Raises ThreadNotStarted.
        """
        loop = asyncio.get_running_loop()
        thread = (
            self._idle.pop() if self._idle else _Thread(f"{self._name}-{next(self._numbers)}", loop, self._finished)
        )
        result: asyncio.Future[T] = loop.create_future()
        late = False

        def report() -> None:
            nonlocal late
            # A loop that was late itself may find both at once; then the call was in time.
            if not result.done():
                late = True
                overdue()

        timer = loop.call_later(timeout, report)
        thread.start(call, result)
        try:
            return await result, late
        except asyncio.CancelledError:
            thread.leave_behind()
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """Idle threads end now, the others after their call."""
        self._closed = True
        while self._idle:
            self._idle.pop().stop()

    def _finished(self, thread: _Thread) -> None:
        if self._closed:
            thread.stop()
        else:
            self._idle.append(thread)
