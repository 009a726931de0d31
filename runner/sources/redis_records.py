"""Entries of a stream as records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.clients.redis_entries import Entry, FieldNames, content_of, timestamp_ms_of
from runner.model import Partition, Record


class RecordMaker:
    """Makes the records of one stream; ``names`` says which fields hold key and value (see ``content_of``)."""

    def __init__(self, partition: Partition, names: FieldNames, now: Callable[[], float]) -> None:
        self._partition = partition
        self._names = names
        self._now = now

    def make(self, entries: Sequence[Entry], sequence: int) -> list[Record]:
        """The records of ``entries``, which have fields; the first one gets ``sequence``."""
        now_ms = int(self._now() * 1000)
        records = []
        for index, entry in enumerate(entries):
            assert entry.fields is not None
            content = content_of(entry.fields, self._names)
            records.append(
                Record(
                    self._partition,
                    entry.id,
                    content.key,
                    content.value,
                    content.headers,
                    timestamp_ms_of(entry.id, now_ms),
                    sequence + index,
                    content.size,
                )
            )
        return records
