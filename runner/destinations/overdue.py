"""Says again and again that a store has not ended, for as long as it lasts past its deadline."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from runner.ports import Observer


class ReportedWhenOverdue:
    """A block of code: ``observer`` is told after ``timeout`` seconds, and after as many again, until it is left."""

    def __init__(self, observer: Observer, description: str, records: int, timeout: float) -> None:
        self._observer = observer
        self._description = description
        self._records = records
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._entered_at = self._loop.time()
        self._next_report: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._entered_at = self._loop.time()
        self._wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._next_report is not None:
            self._next_report.cancel()

    def _wait(self) -> None:
        self._next_report = self._loop.call_later(self._timeout, self._report)

    def _report(self) -> None:
        waited = self._loop.time() - self._entered_at
        self._observer.destination_overdue(
            f"{self._description} has not confirmed after {waited:.1f} s; still waiting, since the write may yet "
            "succeed and to send it again could store it twice",
            self._records,
        )
        self._wait()
