"""When enough records of a lane have gathered."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from runner.model import Record

_sequence_of = attrgetter("sequence")


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """``window`` is in seconds from a batch's first record; ``maximum_bytes`` bounds the encoded body.

    ``size_of`` tells a record's bytes in that body; it is called only when the cheap bound
    ``expansion * bytes + overhead * records`` does not settle the question.
    """

    records: int
    window: float
    maximum_bytes: int
    size_of: Callable[[Record], int]
    fixed_bytes: int = 0
    expansion: float = 1.0
    overhead_bytes: int = 0


class Batcher:
    """The records of one lane that wait for their batch, in order.

    A record that alone is larger than the limit still goes, alone: what happens to it is decided after it was encoded.
    """

    __slots__ = ("_arrivals", "_bytes", "_encoded", "_policy", "_records")

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._records: list[Record] = []
        self._bytes = 0
        self._encoded: int | None = None  # exact, once it was asked for; None: not known
        self._arrivals: deque[tuple[int, float]] = deque()  # (records, when)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def first(self) -> Record | None:
        return self._records[0] if self._records else None

    def add(self, records: Sequence[Record], now: float) -> None:
        if not records:
            return
        self._records += records
        self._bytes += sum([record.size for record in records])
        self._arrivals.append((len(records), now))
        if self._encoded is not None:
            self._encoded += sum(map(self._policy.size_of, records))

    def due_at(self) -> float | None:
        """The time in seconds at which the next batch is due; minus infinity when it is full; None when empty."""
        if not self._records:
            return None
        if len(self._records) >= self._policy.records or self._is_full():
            return float("-inf")
        return self._arrivals[0][1] + self._policy.window

    def _is_full(self) -> bool:
        """Whether the bytes are used up; asked only of less than a batch, so that a long backlog is not measured."""
        if self._surely_has_room(len(self._records), self._bytes):
            return False
        if self._encoded is None:
            self._encoded = self._policy.fixed_bytes + sum(map(self._policy.size_of, self._records))
        return self._encoded >= self._policy.maximum_bytes

    def take(self, before: int | None = None) -> list[Record]:
        """The next batch, due or not, of records whose sequence is lower than ``before``."""
        count = min(len(self._records), self._policy.records)
        if before is not None and count and self._records[count - 1].sequence >= before:
            count = bisect_left(self._records, before, hi=count, key=_sequence_of)
        batch = self._records[:count]
        size = self._bytes if count == len(self._records) else sum([record.size for record in batch])
        if not self._surely_has_room(count, size):
            count = self._fitting(batch)
            batch = batch[:count]
            size = sum([record.size for record in batch])
        del self._records[:count]
        self._bytes -= size
        self._forget_first_arrivals(count)
        self._encoded = None
        return batch

    def drop_after(self, sequence: int) -> int:
        """Drop the records that come after ``sequence`` in fetch order; return how many."""
        records = self._records
        keep = len(records)
        while keep and records[keep - 1].sequence > sequence:
            keep -= 1
        dropped = len(records) - keep
        if dropped:
            self._bytes -= sum([record.size for record in records[keep:]])
            del records[keep:]
            self._encoded = None
            self._forget_last_arrivals(dropped)
        return dropped

    def _surely_has_room(self, count: int, size: int) -> bool:
        policy = self._policy
        bound = policy.fixed_bytes + policy.expansion * size + policy.overhead_bytes * count
        return bound < policy.maximum_bytes

    def _fitting(self, records: Sequence[Record]) -> int:
        room = self._policy.maximum_bytes - self._policy.fixed_bytes
        for index, record in enumerate(records):
            room -= self._policy.size_of(record)
            if room < 0:
                return max(index, 1)
        return len(records)

    def _forget_first_arrivals(self, count: int) -> None:
        arrivals = self._arrivals
        while count:
            records, when = arrivals.popleft()
            if records > count:
                arrivals.appendleft((records - count, when))
                return
            count -= records

    def _forget_last_arrivals(self, count: int) -> None:
        arrivals = self._arrivals
        while count:
            records, when = arrivals.pop()
            if records > count:
                arrivals.append((records - count, when))
                return
            count -= records
