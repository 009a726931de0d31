"""What the delivery counts of pending entries say of earlier owners' attempts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from runner.clients.redis_wire import Reply
from runner.model import Record
from runner.sources.redis_scripts import ATTEMPT

MOST_HANDED_OUT: Final = 3
"""How often an entry may be handed out without that an attempt was charged; after more it may kill its function."""


@dataclass(frozen=True, slots=True)
class History:
    """By entry id: ``attempts`` that were charged, where there are any; ``suspects`` may have killed their function;
    ``known`` were handed out before."""

    attempts: Mapping[str, int] = field(default_factory=dict)
    suspects: Collection[str] = ()
    known: Collection[str] = ()

    def of(self, records: Sequence[Record]) -> tuple[Mapping[int, int], Collection[int], int]:
        """The attempts of ``records``, and the suspects among them, by sequence; how many were handed out before."""
        if not self.known:
            return {}, (), 0
        sequences = {str(record.position): record.sequence for record in records}
        return (
            {sequences[each]: count for each, count in self.attempts.items() if each in sequences},
            [sequences[each] for each in self.suspects if each in sequences],
            len(sequences.keys() & self.known),
        )


def suspected(attempts: int) -> int:
    """The delivery count of an entry that was charged so many, and is a suspect."""
    return attempts * ATTEMPT + MOST_HANDED_OUT + 1


def history_of(counts: Reply) -> History:
    """``counts`` are ids and delivery counts in turn, this delivery included."""
    assert isinstance(counts, list)
    attempts: dict[str, int] = {}
    suspects: set[str] = set()
    known: set[str] = set()
    for entry_id, count in zip(counts[::2], counts[1::2], strict=True):
        assert isinstance(entry_id, bytes)
        assert isinstance(count, int)
        charged, handed_out = divmod(count, ATTEMPT)
        if count > 1:
            known.add(entry_id.decode())
        if charged:
            attempts[entry_id.decode()] = charged
        if handed_out > MOST_HANDED_OUT:
            suspects.add(entry_id.decode())
    return History(attempts, suspects, known)
