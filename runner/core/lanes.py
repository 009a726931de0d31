"""Which records of a partition may run side by side."""

from __future__ import annotations

import enum
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from runner.model import Record

OWN_LANE = 0
"""The lane of records without a key: one for the whole partition, so that their order is kept."""


class Ordering(enum.StrEnum):
    """What order a mapping keeps: of the whole partition, of each key, or none."""

    PARTITION = "partition"
    KEY = "key"
    NONE = "none"


class Lanes:
    """Places fetched records into at most ``factor`` lanes of one partition; one batch of a lane runs at a time.

    A key's lane comes from Python's keyed hash of bytes (SipHash), which is independent of the producers' partitioners:
    CRC-32 or murmur2 of the key would send all keys of one partition into few lanes. It need not be the same in
    another process, because nothing of a lane outlives its assignment.
    """

    __slots__ = ("_batch_records", "_current", "_factor", "_load", "_ordering")

    def __init__(self, ordering: Ordering, factor: int, *, batch_records: int, load: Callable[[int], int]) -> None:
        """``load(lane)`` tells how many records a lane holds; asked for only where no order is kept."""
        self._ordering = ordering
        self._factor = factor
        self._batch_records = batch_records
        self._load = load
        self._current = 0

    def place(self, records: Sequence[Record]) -> Iterable[tuple[int, Sequence[Record]]]:
        """The records with their lanes, each lane's in fetch order."""
        if self._factor == 1 or self._ordering is Ordering.PARTITION:
            return ((OWN_LANE, records),) if records else ()
        if self._ordering is Ordering.KEY:
            return self._by_key(records)
        return self._freely(records)

    def _by_key(self, records: Sequence[Record]) -> Iterable[tuple[int, Sequence[Record]]]:
        factor = self._factor
        lanes: defaultdict[int, list[Record]] = defaultdict(list)
        for record in records:
            key = record.key
            lanes[OWN_LANE if key is None else hash(key) % factor].append(record)
        return lanes.items()

    def _freely(self, records: Sequence[Record]) -> Iterable[tuple[int, Sequence[Record]]]:
        # One open batch is filled at a time: a trickle spread over many lanes would make many batches of one record.
        # Loads are read once and counted on from there: the lanes may take their records before the next are placed.
        full = self._batch_records
        load = self._load(self._current)
        others: list[tuple[int, int]] | None = None
        start = 0
        while start < len(records):
            if load >= full:
                if others is None:
                    others = [(self._load(lane), lane) for lane in range(self._factor) if lane != self._current]
                    heapq.heapify(others)
                load, self._current = heapq.heappushpop(others, (load, self._current))
            part = records[start : start + full - load % full]
            load += len(part)
            start += len(part)
            yield self._current, part
