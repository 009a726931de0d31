"""A stream in memory: what outlives the sources that read it, as a broker does."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import anyio

from runner.model import NO_TIMESTAMP, Headers, Partition, Position, Record


class Log:
    """One partition. Positions are integers that only grow; some may be holes."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.records: list[Record] = []
        self.start = 0
        self.end = 0
        self.unreadable: int | None = None
        """The position that nobody can read past, for as long as it is set."""

    def index_of(self, position: int) -> int:
        """The index of the first record at or after ``position``."""
        return bisect_left(self.records, position, key=_offset)


def _offset(record: Record) -> int:
    assert isinstance(record.position, int)
    return record.position


class MemoryStream:
    """A topic's partitions with their records, the checkpoints of one group, and the faults of a broker.

    ``available``: while False nothing can be fetched and no checkpoint stored. ``history``: every checkpoint stored, in
    order, starting positions included.
    """

    def __init__(self, partitions: int = 1, *, topic: str = "orders") -> None:
        self.topic = topic
        self.logs: dict[Partition, Log] = {}
        self.checkpoints: dict[Partition, Position] = {}
        self.history: list[Mapping[Partition, Position]] = []
        self.owners: dict[Partition, object] = {}
        self.available = True
        self._changed = anyio.Event()
        self.add_partitions(partitions)

    @property
    def partitions(self) -> Sequence[Partition]:
        return list(self.logs)

    def add_partitions(self, count: int) -> None:
        """Add empty partitions behind the last one. Sources take them with their next ``rebalance``."""
        for number in range(len(self.logs), len(self.logs) + count):
            partition = Partition(self.topic, number)
            self.logs[partition] = Log(partition)

    def append(
        self,
        partition: Partition | int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> int:
        """Append a record at the partition's end; returns its position."""
        log = self.log(partition)
        size = (len(key) if key else 0) + (len(value) if value else 0)
        size += sum([1 + len(name) + (len(content) if content else 0) for name, content in headers])
        position = log.end
        log.records.append(Record(log.partition, position, key, value, headers, timestamp_ms, -1, size))
        log.end += 1
        self.changed()
        return position

    def append_hole(self, partition: Partition | int, length: int = 1) -> None:
        """Append positions that hold no record, as transaction markers and compaction leave them."""
        self.log(partition).end += length
        self.changed()

    def lose_prefix(self, partition: Partition | int, records: int) -> None:
        """Forget the first ``records`` records that are still there, as retention does."""
        log = self.log(partition)
        log.start = _offset(log.records[records]) if records < len(log.records) else log.end
        del log.records[:records]
        self.changed()

    def corrupt(self, partition: Partition | int, position: int) -> None:
        """Make the record at ``position`` unreadable until ``repair``."""
        self.log(partition).unreadable = position
        self.changed()

    def repair(self, partition: Partition | int) -> None:
        self.log(partition).unreadable = None
        self.changed()

    def store(self, positions: Mapping[Partition, Position]) -> None:
        """Store checkpoints, without asking whose they are."""
        self.checkpoints.update(positions)
        self.history.append(dict(positions))

    def log(self, partition: Partition | int) -> Log:
        """The partition, also by its number. Raises KeyError."""
        return self.logs[Partition(self.topic, partition) if isinstance(partition, int) else partition]

    def changed(self) -> None:
        """Wake every source that waits for something new."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_for_change(self, timeout: float) -> None:
        """Return when something has changed, or after ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            await self._changed.wait()
