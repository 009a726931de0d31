"""Everything of one mapping that waits for a time: one task, one heap."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import anyio

from runner.ports import Clock


class Timer:
    """One waiting callback; ``cancel`` it when it is not wanted any more."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Timers:
    """Callbacks run in ``run``'s task, so that what they raise ends the mapping instead of vanishing in the loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()
        self._sooner = anyio.Event()

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``when`` (the clock's seconds), or soon when that is past."""
        timer = Timer(callback)
        heapq.heappush(self._heap, (when, next(self._number), timer))
        if self._heap[0][2] is timer:
            self._sooner.set()
        return timer

    async def run(self) -> None:
        while True:
            self._fire_due()
            self._sooner = anyio.Event()
            if not self._heap:
                await self._sooner.wait()
                continue
            with anyio.move_on_after(max(0.0, self._heap[0][0] - self._clock.now())):
                await self._sooner.wait()

    def _fire_due(self) -> None:
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2].fire()
