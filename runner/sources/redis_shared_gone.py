"""Entries of a shared stream that can only be let go: they are pending, and not in the stream any more."""

from __future__ import annotations

from collections.abc import Sequence

from runner.sources.redis_replies import ids_in
from runner.sources.redis_shared_takeover_scripts import LET_GO
from runner.sources.redis_turns import Turns


class GoneEntries:
    """From being found to being let go. Of several consumers that have found the same one, that tells of it which has
    let it go: the server says which."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._ids: dict[str, None] = {}  # in the order in which they were found
        self._tried: frozenset[str] = frozenset()  # let go by a call that failed, perhaps

    def __bool__(self) -> bool:
        """Whether some are to be let go."""
        return bool(self._ids)

    def found(self, ids: Sequence[str]) -> None:
        """At most MOST_IDS before the next ``let_go``."""
        self._ids.update(dict.fromkeys(ids))

    async def let_go(self, least_idle: bytes) -> Sequence[str]:
        """Returns those that are lost by that, to be told. Raises AssignmentOver, RedisFailure; then they are kept."""
        tried, self._tried = self._tried, self._tried.union(self._ids)
        reply = await self._turns.call(LET_GO, least_idle, *self._ids)
        done, missing = map(ids_in, reply[1:])
        told = {*done, *tried.intersection(missing)}
        lost = [entry_id for entry_id in self._ids if entry_id in told]
        self._ids.clear()
        self._tried = frozenset()
        return lost

    def lose_tried(self) -> Sequence[str]:
        """Those that nobody else will tell of, perhaps; each is told once."""
        lost = [entry_id for entry_id in self._ids if entry_id in self._tried]
        self._ids.clear()
        self._tried = frozenset()
        return lost
