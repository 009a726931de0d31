"""When a partition must be paused and may be resumed."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class PauseReason(enum.StrEnum):
    """Which bound a paused partition reached; a metric's label."""

    BUFFER_RECORDS = "buffer_records"
    BUFFER_BYTES = "buffer_bytes"
    MAXIMUM_AHEAD = "maximum_ahead"
    PROCESS_BUFFER = "process_buffer"


RECORD_OVERHEAD = 256
"""Bytes of memory that an unsettled record is counted with besides its own, so that many small ones are bounded too."""


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """The high marks of one partition: unsettled records, their bytes, and the records from the lowest unsettled one to
    the highest that was started."""

    records: int
    bytes: int
    ahead: int


class ByteBudget:
    """The unsettled bytes of all partitions of this process against one limit."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def is_full(self) -> bool:
        return self.used >= self.limit

    @property
    def has_room(self) -> bool:
        return self.used <= self.limit // 2


class Flow:
    """Pauses at the high marks and resumes at half of the one that it was paused for: a client throws its fetched-ahead
    records away when it pauses, so a partition must not flutter.

    Where the process's budget is full, a partition without unsettled records is not paused: each can always go on by
    one fetch, and none starves behind the others.
    """

    __slots__ = ("_budget", "_limits", "reason")

    def __init__(self, limits: FlowLimits, budget: ByteBudget) -> None:
        self._limits = limits
        self._budget = budget
        self.reason: PauseReason | None = None  # why it is paused; None: it is not

    def update(self, *, records: int, size: int, ahead: int) -> bool:
        """Unsettled ``records`` of ``size`` bytes; one that is ``ahead`` records beyond the lowest of them was started.

        True: paused, paused for another reason, or resumed.
        """
        # The other marks need only not be reached: a blocked lane keeps ``ahead`` high for as long as it is blocked,
        # and must not turn a full buffer that has emptied into a pause without end.
        # What is held back because of it keeps the buffers full in turn, so it is the reason that counts.
        is_ahead = ahead >= self._limits.ahead
        if self.reason is not None and not is_ahead and not self._is_low(self.reason, records, size, ahead):
            return False
        before, self.reason = self.reason, self._over(records, size, ahead)
        return self.reason is not before

    def _over(self, records: int, size: int, ahead: int) -> PauseReason | None:
        limits = self._limits
        if ahead >= limits.ahead:
            return PauseReason.MAXIMUM_AHEAD
        if records >= limits.records:
            return PauseReason.BUFFER_RECORDS
        if size >= limits.bytes:
            return PauseReason.BUFFER_BYTES
        if records and self._budget.is_full:
            return PauseReason.PROCESS_BUFFER
        return None

    def _is_low(self, reason: PauseReason, records: int, size: int, ahead: int) -> bool:
        limits = self._limits
        match reason:
            case PauseReason.MAXIMUM_AHEAD:
                return ahead <= limits.ahead // 2
            case PauseReason.BUFFER_RECORDS:
                return records <= limits.records // 2
            case PauseReason.BUFFER_BYTES:
                return size <= limits.bytes // 2
            case PauseReason.PROCESS_BUFFER:
                return records == 0 or self._budget.has_room
