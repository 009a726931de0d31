"""Calls that are each about several streams, of which one may spoil it for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import anyio

from runner.clients.redis import RedisClient
from runner.clients.redis_errors import FailureKind, RedisFailure
from runner.clients.redis_slots import slot_of
from runner.sources.redis_reader import StreamPlace

_Answer = TypeVar("_Answer")
_Ask: TypeAlias = Callable[[Sequence[StreamPlace]], Awaitable[Sequence[_Answer | RedisFailure]]]


class Together:
    """Which streams go together: outside of a cluster all, as one server has them, in a cluster those of a slot."""

    def __init__(self, client: RedisClient) -> None:
        self._is_cluster = client.is_cluster
        self._alone: set[StreamPlace] = set()  # together with them others are refused

    def parts(self, places: Iterable[StreamPlace]) -> list[list[StreamPlace]]:
        """Those that one call may be about, in the order of the first of each."""
        parts: defaultdict[object, list[StreamPlace]] = defaultdict(list)
        for place in places:
            where = slot_of(place.stream) if self._is_cluster else None
            parts[place if place in self._alone else where].append(place)
        return list(parts.values())

    async def of_each(self, places: Sequence[StreamPlace], ask: _Ask[_Answer]) -> Sequence[_Answer | RedisFailure]:
        """What ``ask`` answers of each place; they are of one part. Does not raise.

        Who has no rights to one of the keys is refused all: then by halves. While a slot moves, its keys are at two
        servers, and none answers of both: then each alone, at once, so that no heartbeat is lost to it."""
        try:
            answers = await ask(places)
        except RedisFailure as failure:
            is_one = len(places) == 1
            if failure.kind is FailureKind.TRY_AGAIN and not is_one:
                self._alone.update(places)  # until it answers: a server that is silent is no other's trouble
                return await self._apart(places, ask)
            if failure.kind is FailureKind.PERMISSION and not is_one:
                half = len(places) // 2
                return [*await self.of_each(places[:half], ask), *await self.of_each(places[half:], ask)]
            if failure.kind is FailureKind.PERMISSION:
                self._alone.update(places)
            return [failure] * len(places)
        self._alone.difference_update(places)
        return answers

    async def _apart(self, places: Sequence[StreamPlace], ask: _Ask[_Answer]) -> Sequence[_Answer | RedisFailure]:
        answers: dict[StreamPlace, _Answer | RedisFailure] = {}

        async def ask_of(place: StreamPlace) -> None:
            answers[place] = (await self.of_each([place], ask))[0]

        async with anyio.create_task_group() as calls:
            for place in places:
                calls.start_soon(ask_of, place)
        return [answers[place] for place in places]
