"""A progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

import anyio

from runner.telemetry.snapshot import MappingSnapshot

_PERIOD = 0.2
_WIDTH = 30


class Progress:
    """One line that is drawn again and again, and wiped away at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    async def run(self, snapshots: Callable[[], Sequence[MappingSnapshot]], settled: Callable[[], int]) -> None:
        """Until cancelled. ``settled`` tells how many records were settled so far."""
        started = anyio.current_time()
        try:
            while True:
                await anyio.sleep(_PERIOD)
                left = sum(each.lag_records or 0 for mapping in snapshots() for each in mapping.partitions)
                self._draw(settled(), left, anyio.current_time() - started)
        finally:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _draw(self, settled: int, left: int, seconds: float) -> None:
        total = settled + left
        filled = _WIDTH * settled // total if total else 0
        bar = "#" * filled + "-" * (_WIDTH - filled)
        self._stream.write(f"\r\x1b[K[{bar}] {settled:,} of {total:,} records, {settled / seconds:,.0f} records/s")
        self._stream.flush()
