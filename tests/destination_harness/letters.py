"""Dead letters to be stored, and the reports of a store that takes too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from runner.model import (
    Condition,
    DeadLetter,
    ErrorKind,
    FunctionError,
    Headers,
    Partition,
    Position,
    Record,
    TimestampType,
)
from runner.ports import DestinationError, Observer

ERROR = FunctionError(kind=ErrorKind.ERROR, type="ValueError", text="no amount", stack="line 3")
AWKWARD_HEADERS: Headers = (
    ("a", b"1"),
    ("a", b"2"),
    ("binary", b"\xff\x00"),
    ("null", None),
    ("empty", b""),
    ("", b"nameless"),
)


class Overdue(Observer):
    """Notes of how many ``records`` each report says that their store is overdue."""

    def __init__(self) -> None:
        self.records: list[int] = []
        self._changed = asyncio.Event()

    def destination_overdue(self, text: str, records: int) -> None:
        self.records.append(records)
        self._changed.set()

    async def wait_for(self, reports: int, store: asyncio.Task[Sequence[DestinationError | None]]) -> None:
        """Returns when there were so many. Raises AssertionError when ``store`` ends before."""
        while len(self.records) < reports:
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({changed, store}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            assert not store.done(), f"it ended after {len(self.records)} reports: {store.result()}"


def letter_of(
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    *,
    headers: Headers = (),
    number: int = 0,
    position: Position = 0,
    timestamp_ms: int = 1_700_000_000_123,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
    error: FunctionError | None = ERROR,
    given_up_at_ms: int | None = None,
) -> DeadLetter:
    """As ``letter_for``, of a record of partition ``number`` of ``orders``."""
    record = Record(
        partition=Partition("orders", number),
        position=position,
        key=key,
        value=value,
        headers=headers,
        timestamp_ms=timestamp_ms,
        sequence=0,
        size=len(key or b"") + len(value or b""),
        timestamp_type=timestamp_type,
    )
    return letter_for(record, error=error, given_up_at_ms=given_up_at_ms)


def letter_for(record: Record, *, error: FunctionError | None = ERROR, given_up_at_ms: int | None = None) -> DeadLetter:
    """What is stored of a record that was given up after three attempts, now where no time is given."""
    return DeadLetter(
        record=record,
        mapping="orders-to-charge-card",
        function="charge-card",
        condition=Condition.RETRY_ATTEMPTS_EXHAUSTED,
        attempts=3,
        error=error,
        given_up_at_ms=int(time.time() * 1000) if given_up_at_ms is None else given_up_at_ms,
        source="kafka.example:9092",
        group="charge-card",
    )
