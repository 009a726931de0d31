"""Which entries of a shared stream one consumer has, as far as it knows."""

from __future__ import annotations

from collections.abc import Collection, Sequence


class HeldEntries:
    """Entries by id, each from being taken to being acknowledged; what is in here is not taken once more.

    The server is asked who has what, by heartbeats and with every acknowledgement; this keeps what it has answered.
    """

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}  # in the order in which they were taken
        self._others: set[str] = set()  # another's, or done with by another
        self._gone: set[str] = set()  # deleted, and not pending any more: nobody else can have them
        self._doubtful: set[str] = set()  # acknowledged, perhaps, by a call that failed
        self._under_way: Collection[str] = ()  # the same by the last call, until its answer is there

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def has_all(self, ids: Sequence[str]) -> bool:
        return all(map(self._ids.__contains__, ids))

    def take(self, ids: Sequence[str]) -> None:
        """They have become ours."""
        self._ids.update(dict.fromkeys(ids))

    @property
    def to_keep(self) -> Sequence[str]:
        """What a heartbeat has to speak of."""
        return [entry_id for entry_id in self._ids if entry_id not in self._gone and entry_id not in self._others]

    def is_ours(self, entry_id: str) -> bool:
        return entry_id in self._ids and entry_id not in self._others

    def note(self, others: Collection[str], nobodys: Collection[str], gone: Collection[str]) -> None:
        """The server has said who has entries that we took for ours; ``gone`` are not in the stream any more."""
        self._gone.update(self._ids.keys() & gone)
        # An acknowledgement under way, or whose answer was lost, is a good reason for being nobody's.
        done = set(nobodys).difference(self._gone, self._doubtful, self._under_way)
        self._others.update(self._ids.keys() & (done.union(others)))

    def begin_to_acknowledge(self, ids: Collection[str]) -> Collection[str]:
        """One call after the other. Returns those for which it was tried before, nobody knows with what success."""
        self._doubtful.update(self._under_way)
        self._under_way = ids
        return self._doubtful.intersection(ids) if self._doubtful else ()

    def acknowledged(
        self, ids: Collection[str], tried: Collection[str], others: Collection[str], nobodys: Collection[str]
    ) -> int:
        """The server has acknowledged what of ``ids`` was ours, and has said what was not. ``tried``: what
        ``begin_to_acknowledge`` returned. Returns how many were another's by then, or done with by another."""
        late = len(others) + len([each for each in nobodys if each not in tried and each not in self._gone])
        self._under_way = ()
        self.drop(ids)
        return late

    def drop(self, ids: Collection[str]) -> None:
        """Nobody here works on them any more, and they will not be acknowledged."""
        for entry_id in ids:
            self._ids.pop(entry_id, None)
        for known in (self._others, self._gone, self._doubtful):
            if known:
                known.difference_update(ids)

    def lose_gone(self, settled: Collection[str]) -> Sequence[str]:
        """Deleted entries that were not settled, and will not come again; each is told once."""
        lost = sorted(self._gone.difference(settled))
        self._gone.clear()
        return lost
