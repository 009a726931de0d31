"""Dead letters that the destination holds although no checkpoint has passed their records yet."""

from __future__ import annotations

import weakref
from typing import Final, TypeAlias

from runner.engine.partition import PartitionWorker
from runner.model import Partition, Position, Record

MOST_REMEMBERED: Final = 10_000

_Place: TypeAlias = tuple[Partition, Position, int]


class StoredLetters:
    """Remembers them across assignments: when a partition is lost before its checkpoint could be stored, and comes
    back to this process, its records come again, and a letter that is stored must not be stored twice.

    Bounded: beyond ``MOST_REMEMBERED`` the oldest is forgotten, and is then stored again if it comes again.
    """

    def __init__(self) -> None:
        # Not the worker itself: a discarded one would keep all the records that it had.
        self._places: dict[_Place, tuple[weakref.ref[PartitionWorker], int]] = {}

    def __contains__(self, record: Record) -> bool:
        return _place(record) in self._places

    def add(self, record: Record, worker: PartitionWorker) -> None:
        """The letter of ``record``, which ``worker`` gave up, is stored."""
        place = _place(record)
        self._places.pop(place, None)
        self._places[place] = weakref.ref(worker), record.sequence
        if len(self._places) > MOST_REMEMBERED:
            del self._places[next(iter(self._places))]

    def forget_checkpointed(self) -> None:
        """Those whose records cannot come again."""
        gone = [
            place
            for place, (reference, sequence) in self._places.items()
            if (worker := reference()) is not None and sequence < worker.stored_sequence
        ]
        for place in gone:
            del self._places[place]


def _place(record: Record) -> _Place:
    """With the timestamp, so that a topic that was made anew is not taken for the old one."""
    return record.partition, record.position, record.timestamp_ms
