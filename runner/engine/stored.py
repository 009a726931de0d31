"""Dead letters that the destination holds although no checkpoint has passed their records yet."""

from __future__ import annotations

from typing import Final, TypeAlias

from runner.engine.partition import PartitionWorker
from runner.model import Partition, Position, Record

MOST_REMEMBERED: Final = 10_000

_Place: TypeAlias = tuple[Partition, Position, int, int]


class StoredLetters:
    """Remembers them across assignments: when a partition is lost before its checkpoint could be stored, and comes
    back to this process, its records come again, and a letter that is stored must not be stored twice.

    Bounded: beyond ``MOST_REMEMBERED`` the oldest is forgotten, and is then stored again if it comes again.
    """

    def __init__(self) -> None:
        # The worker until it was seen discarded: it keeps all the records that it had, and its checkpoint is its last.
        self._places: dict[_Place, tuple[PartitionWorker | None, int]] = {}

    def __contains__(self, record: Record) -> bool:
        return _place(record) in self._places

    def add(self, record: Record, worker: PartitionWorker) -> None:
        """The letter of ``record``, which ``worker`` gave up, is stored."""
        place = _place(record)
        self._places.pop(place, None)
        self._places[place] = worker, record.sequence
        if len(self._places) > MOST_REMEMBERED:
            del self._places[next(iter(self._places))]

    def forget_checkpointed(self) -> None:
        """Those whose records cannot come again. To be called now and then: it lets go of discarded workers."""
        for place, (worker, sequence) in list(self._places.items()):
            if worker is None:
                continue
            if sequence < worker.stored_sequence:
                del self._places[place]
            elif worker.is_discarded:
                self._places[place] = None, sequence


def _place(record: Record) -> _Place:
    """With what the record is, so that a topic or stream that was made anew is not taken for the old one."""
    return record.partition, record.position, record.timestamp_ms, hash((record.key, record.value))
