"""Entries of a stream as records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from runner.clients.redis_entries import ContentReader, Entry, FieldNames, timestamp_ms_of
from runner.model import Partition, Record

_MOST_SHOWN: Final = 8
_LONGEST_SHOWN: Final = 60


class RecordMaker:
    """Makes the records of one stream; ``names`` says which fields hold key and value (see ``content_of``).

    ``on_absent_field``, where it is set, hears of each of these, once, that no entry has had up to the end of the first
    call that brings any: the field's name, and a warning."""

    def __init__(self, partition: Partition, names: FieldNames, now: Callable[[], float]) -> None:
        self._partition = partition
        self._content = ContentReader(names)
        self._now = now
        self._names = names
        self.on_absent_field: Callable[[bytes, str], None] | None = None

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
        if entries and self.on_absent_field is not None:
            for field in sorted(self._content.never_found):
                self.on_absent_field(field, self._warning(field, entries))
            self.on_absent_field = None
        return records

    def _warning(self, field: bytes, entries: Sequence[Entry]) -> str:
        """It may be misspelt, and nothing but a null would tell."""
        setting = "key_field" if field == self._names.key else "value_field"
        there = list(dict.fromkeys([name for _, parts in entries for name in (parts or ())[::2]]))
        shown = [_shown(name) for name in there[:_MOST_SHOWN]] + ["..."] * (len(there) > _MOST_SHOWN)
        return (
            f"none of the first {len(entries)} entries of {self._partition.topic!r} has the field {_shown(field)} "
            f"({setting}); they have: {', '.join(shown)}"
        )


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "backslashreplace")[:_LONGEST_SHOWN])
