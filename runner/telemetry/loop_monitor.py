"""Measures how late the event loop runs its timers, which is how long something blocked it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

PERIOD: Final = 1.0
WINDOW: Final = 60.0


class LoopMonitor:
    """Sleeps for ``period`` seconds again and again, and remembers how much longer it took within ``window`` seconds.

    ``monotonic`` must be the clock that the loop's own timers run by.
    """

    def __init__(
        self, *, period: float = PERIOD, window: float = WINDOW, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._period = period
        self._monotonic = monotonic
        self._late: deque[float] = deque(maxlen=max(1, round(window / period)))
        self._due: float | None = None

    async def run(self) -> None:
        """Measure until cancelled."""
        try:
            while True:
                self._due = self._monotonic() + self._period
                await asyncio.sleep(self._period)
                self.measured(self._monotonic() - self._due)
        finally:
            self._due = None

    def measured(self, late: float) -> None:
        """A timer ran ``late`` seconds after it was due."""
        self._late.append(max(0.0, late))

    def lag_seconds(self) -> float:
        """The worst delay of the window, a timer that is due and has not run yet included; 0.0 when none was seen."""
        overdue = 0.0 if self._due is None else self._monotonic() - self._due
        return max(0.0, overdue, *self._late)
