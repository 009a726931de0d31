"""The clock of a running event loop."""

from __future__ import annotations

import asyncio
import time

import anyio


class LoopClock:
    """A ports.Clock: the wall clock's seconds as they were when it was made, carried on by the loop's monotonic time.

    Ages, lags and waits share it; a step of the wall clock neither expires records nor stops timers. Under a virtual
    time loop it is virtual as well. Made inside the running loop.
    """

    def __init__(self, *, epoch: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._offset = (time.time() if epoch is None else epoch) - self._loop.time()

    def now(self) -> float:
        return self._loop.time() + self._offset

    async def sleep_until(self, time: float) -> None:
        await anyio.sleep(max(0.0, time - self.now()))
