"""Entries of a stream as records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.clients.redis_entries import ContentReader, Entry, FieldNames, timestamp_ms_of
from runner.model import Partition, Record


class RecordMaker:
    """Makes the records of one stream; ``names`` says which fields hold key and value (see ``content_of``)."""

    def __init__(self, partition: Partition, names: FieldNames, now: Callable[[], float]) -> None:
        self._partition = partition
        self._content = ContentReader(names)
        self._now = now

    def make(self, entries: Sequence[Entry], sequence: int) -> list[Record]:
        """The records of ``entries``, which have fields; the first one gets ``sequence``. Raises MalformedReply."""
        now_ms = int(self._now() * 1000)
        partition, read = self._partition, self._content.read
        records = []
        for number, (entry_id, parts) in enumerate(entries, sequence):
            assert parts is not None
            key, value, headers, size = read(parts)
            time_ms = timestamp_ms_of(entry_id, now_ms)
            records.append(Record(partition, entry_id, key, value, headers, time_ms, number, size))
        return records
