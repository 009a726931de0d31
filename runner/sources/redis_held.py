"""Which entries of a shared stream one consumer has, as far as it knows."""

from __future__ import annotations

from collections.abc import Collection, Sequence


class HeldEntries:
    """Entries by id, each from being taken to being acknowledged; what is in here is not taken once more.

    The server is asked who has what, by heartbeats and with every acknowledgement; this keeps what it has answered.
    """

    def __init__(self) -> None:
        self._ids: dict[bytes, None] = {}  # in the order in which they were taken
        self._others: set[bytes] = set()  # another's, or done with by another
        self._gone: set[bytes] = set()  # deleted, and not pending any more: nobody else can have them
        self._doubtful: set[bytes] = set()  # acknowledged, perhaps

    def __contains__(self, entry_id: bytes) -> bool:
        return entry_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def has_all(self, ids: Sequence[bytes]) -> bool:
        return self._ids.keys() >= set(ids)

    def take(self, ids: Sequence[bytes]) -> None:
        """They have become ours."""
        self._ids.update(dict.fromkeys(ids))

    @property
    def to_keep(self) -> Sequence[bytes]:
        """What a heartbeat has to speak of."""
        return [entry_id for entry_id in self._ids if entry_id not in self._gone and entry_id not in self._others]

    def is_ours(self, entry_id: bytes) -> bool:
        return entry_id in self._ids and entry_id not in self._others

    def note(self, others: Collection[bytes], nobodys: Collection[bytes], gone: Collection[bytes]) -> None:
        """The server has said who has entries that we took for ours; ``gone`` are not in the stream any more."""
        self._gone.update(self._ids.keys() & gone)
        # An acknowledgement under way, or whose answer was lost, is a good reason for being nobody's.
        done = set(nobodys) - self._gone - self._doubtful
        self._others.update(self._ids.keys() & (done.union(others)))

    def begin_to_acknowledge(self, ids: Collection[bytes]) -> Collection[bytes]:
        """Returns those for which it was tried before, nobody knows with what success."""
        doubtful = self._doubtful.intersection(ids)
        self._doubtful.update(ids)
        return doubtful

    def acknowledged(
        self, ids: Collection[bytes], tried: Collection[bytes], others: Collection[bytes], nobodys: Collection[bytes]
    ) -> int:
        """The server has acknowledged what of ``ids`` was ours, and has said what was not. ``tried``: what
        ``begin_to_acknowledge`` returned. Returns how many were another's by then, or done with by another."""
        late = len(others) + len([each for each in nobodys if each not in tried and each not in self._gone])
        self.drop(ids)
        return late

    def drop(self, ids: Collection[bytes]) -> None:
        """Nobody here works on them any more, and they will not be acknowledged."""
        for entry_id in ids:
            self._ids.pop(entry_id, None)
        for known in (self._others, self._gone, self._doubtful):
            known.difference_update(ids)

    def lose_gone(self, settled: Collection[bytes]) -> Sequence[bytes]:
        """Deleted entries that were not settled, and will not come again; each is told once."""
        lost = sorted(self._gone.difference(settled))
        self._gone.clear()
        return lost
