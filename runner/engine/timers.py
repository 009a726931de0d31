"""Everything of one mapping that waits for a time: one task, one heap."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import anyio

from runner.ports import Clock

_FORGET_AT = 64


class Timer:
    """One waiting callback; ``cancel`` it when it is not wanted any more."""

    __slots__ = ("_callback", "_on_cancel")

    def __init__(self, callback: Callable[[], None], on_cancel: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback
        self._on_cancel = on_cancel

    @property
    def is_over(self) -> bool:
        """Whether it was fired or cancelled."""
        return self._callback is None

    def cancel(self) -> None:
        if self._callback is not None:
            self._callback = None
            self._on_cancel()

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
        self._cancelled = 0  # of those in the heap

    def __len__(self) -> int:
        """How many are kept, those cancelled and not yet forgotten included."""
        return len(self._heap)

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``when`` (the clock's seconds), or soon when that is past."""
        timer = Timer(callback, self._note_cancelled)
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
            timer = heapq.heappop(self._heap)[2]
            if timer.is_over:
                self._cancelled -= 1
            else:
                timer.fire()

    def _note_cancelled(self) -> None:
        self._cancelled += 1
        # Batches that fill long before their window closes leave one timer each: they must not pile up until then.
        if self._cancelled > _FORGET_AT and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].is_over]
            heapq.heapify(self._heap)
            self._cancelled = 0
