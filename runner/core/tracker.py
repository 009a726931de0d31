"""How far a partition is settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner.model import Position, Record

_TRIM_AT = 4096


class Tracker:
    """What was fetched in one assignment of one partition, in fetch order, and which of it is settled.

    Records are known by their ``sequence``, a dense number in fetch order, so that holes in the positions (compaction,
    transaction markers) need no code. The settled flags are one byte a record: finding the lowest unsettled record
    behind a long settled run is one search in C and does not pause the event loop.
    """

    __slots__ = ("_base", "_flags", "_head", "_next_position", "_positions", "_settled")

    def __init__(self) -> None:
        self._positions: list[Position] = []
        self._flags = bytearray()
        self._base = 0  # sequence of the first record that is still kept
        self._head = 0  # index of the lowest unsettled record, len(flags) when there is none
        self._settled = 0
        self._next_position: Position | None = None

    def fetched(self, positions: Sequence[Position], next_position: Position) -> None:
        """``positions`` are those of the records with the next sequences; ``next_position`` comes after them all."""
        self._positions += positions
        self._flags += bytes(len(positions))
        self._next_position = next_position

    def settle(self, records: Iterable[Record]) -> None:
        """Each record exactly once, in any order."""
        flags = self._flags
        base = self._base
        count = 0
        for record in records:
            index = record.sequence - base
            # What was trimmed is settled: a negative index would mark another record from the end.
            assert index >= 0, "a record is settled once"
            assert not flags[index], "a record is settled once"
            flags[index] = 1
            count += 1
        self._settled += count
        if flags[self._head : self._head + 1] == b"\x01":
            self._advance()

    def _advance(self) -> None:
        head = self._flags.find(0, self._head)
        self._head = len(self._flags) if head < 0 else head
        if self._head >= _TRIM_AT:
            del self._positions[: self._head]
            del self._flags[: self._head]
            self._base += self._head
            self._head = 0

    @property
    def checkpoint(self) -> Position | None:
        """The position of the lowest unsettled record; when all is settled, the position after the last fetch.

        None before the first fetch."""
        if self._head < len(self._positions):
            return self._positions[self._head]
        return self._next_position

    @property
    def head(self) -> int:
        """The sequence of the lowest unsettled record, or the next one to come when all is settled."""
        return self._base + self._head

    @property
    def fetched_records(self) -> int:
        return self._base + len(self._flags)

    @property
    def settled_records(self) -> int:
        return self._settled

    @property
    def unsettled_records(self) -> int:
        return self._base + len(self._flags) - self._settled

    @property
    def ahead_records(self) -> int:
        """Settled beyond the lowest unsettled record. A crash repeats them, and those settled since the last commit."""
        return self._settled - self._base - self._head
