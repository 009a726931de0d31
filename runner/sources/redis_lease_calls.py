"""What one member of a group asks the servers about the leases of its streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from runner.clients.redis import RedisClient, Script
from runner.clients.redis_errors import RedisFailure
from runner.clients.redis_wire import Reply
from runner.core.lease import HeldLease, LeaseTimes
from runner.sources.redis_lease_scripts import GIVE_BACK, LOOK, MOST_LEASES, RELEASE, RENEW, TAKE
from runner.sources.redis_read_scripts import MOST_LOOKED_AT
from runner.sources.redis_reader import BEGINNING, StreamPlace
from runner.sources.redis_scripts import ATTEMPT
from runner.sources.redis_together import Together

_CALLS_A_CONNECTION: Final = 50
"""How many renewals go one after another over one connection in each heartbeat, about."""

_Answers: TypeAlias = Sequence[Reply | RedisFailure]


class Seen(NamedTuple):
    """A stream that was not ours when it was looked at; ``owner`` is None when it was free to take."""

    place: StreamPlace
    owner: str | None
    was_owned: bool
    checkpoint: str | None


class Taken(NamedTuple):
    """A lease that has just become ours, with what was kept beside it, and which run of which server granted it."""

    place: StreamPlace
    lease: HeldLease
    checkpoint: str | None
    was_owned: bool
    run_id: bytes


class LeaseCalls:
    """All fail after half a lease when nothing answers: whoever is cut off says so before it is over.

    Renewals have a heartbeat, and connections of their own, enough of them for ``streams``. ``now`` is in seconds.
    """

    def __init__(
        self, client: RedisClient, owner: bytes, times: LeaseTimes, now: Callable[[], float], streams: int = 1
    ) -> None:
        self.timeout = times.duration / 2
        self._client = client
        calls = streams if client.is_cluster else math.ceil(streams / MOST_LEASES)
        self._renewals = client.dedicated(times.heartbeat, connections=math.ceil(calls / _CALLS_A_CONNECTION))
        self._together = Together(client)
        self._owner = owner
        self._times = times
        self._now = now

    def groups(self, places: Iterable[StreamPlace]) -> list[tuple[StreamPlace, ...]]:
        """Those that one call may be about, in the order of the first of each."""
        return [each for part in self._together.parts(places) for each in _batched(part, MOST_LEASES)]

    async def look(self, places: Sequence[StreamPlace]) -> Sequence[Seen | RedisFailure]:
        """Of each place; they are one of ``groups``. Does not raise."""

        async def ask(asked: Sequence[StreamPlace]) -> _Answers:
            keys = [place.lease_key for place in asked]
            reply = await self._client.run(LOOK, keys, [self._milliseconds], timeout=self.timeout)
            assert isinstance(reply, list)
            return [self._client.refused(each) if isinstance(each, bytes) else each for each in reply]

        answers = await self._together.of_each(places, ask)
        return [
            answer if isinstance(answer, RedisFailure) else self._seen(place, answer)
            for place, answer in zip(places, answers, strict=True)
        ]

    def _seen(self, place: StreamPlace, answer: Reply) -> Seen:
        assert isinstance(answer, list)
        owner, left, was_owned, checkpoint = [each.decode("utf-8", "replace") for each in _texts(answer)]
        is_free = owner in ("", self._owner.decode()) or int(left) <= 0
        return Seen(place, None if is_free else owner, bool(was_owned), checkpoint or None)

    async def renew(self, group: Sequence[Taken]) -> Sequence[bytes | RedisFailure | None]:
        """Of each the server's run id, empty where it is not told; None: the lease is another's, or gone. Their places
        are one of ``groups``. Does not raise."""
        generations = {taken.place: b"%d" % taken.lease.generation for taken in group}

        async def ask(asked: Sequence[StreamPlace]) -> _Answers:
            arguments = [self._owner, self._milliseconds, *[generations[place] for place in asked]]
            reply = await self._renewals.run(RENEW, [place.lease_key for place in asked], arguments)
            assert isinstance(reply, list)
            run_id, *answers = reply
            return [self._renewed(answer, run_id) for answer in answers]

        return [
            answer if isinstance(answer, RedisFailure | bytes) else None
            for answer in await self._together.of_each(list(generations), ask)
        ]

    def _renewed(self, answer: Reply, run_id: Reply) -> Reply | RedisFailure:
        if isinstance(answer, bytes):
            return self._renewals.refused(answer)
        return run_id if answer else None

    async def take(self, place: StreamPlace) -> Taken | None:
        """None: another was faster. Raises RedisFailure, as all below."""
        sent_at = self._now()
        reply = await self._run(TAKE, place, self._owner, self._milliseconds)
        if reply[0] != b"ok":
            return None
        _, generation, checkpoint, was_owned, run_id = _texts(reply)
        lease = HeldLease(int(generation), sent_at, self._times)
        return Taken(place, lease, checkpoint.decode() or None, bool(was_owned), run_id)

    async def give_back(self, taken: Taken, handed_out: str) -> None:
        """Let what is still pending of the entries up to ``handed_out`` count as not handed out; more were not, by this
        lease. As many calls as it takes: each stops the server."""
        place, first = taken.place, "-"
        while handed_out != BEGINNING:
            page = [each.encode() for each in (first, handed_out, str(MOST_LOOKED_AT))]
            claim = self._claim(taken)
            reply = await self._run(GIVE_BACK, place, *claim, place.group, place.consumer, b"%d" % ATTEMPT, *page)
            match reply:
                case [b"ok", bytes(last)] if last not in (b"", handed_out.encode()):
                    first = f"({last.decode()}"
                case [b"error", bytes(text)]:
                    raise self._client.refused(text)
                case _:  # all of it, or the lease is another's
                    return

    async def release(self, taken: Taken) -> None:
        await self._run(RELEASE, taken.place, *self._claim(taken))

    async def close(self) -> None:
        await self._renewals.close()

    @property
    def _milliseconds(self) -> bytes:
        return b"%d" % int(self._times.duration * 1000)

    def _claim(self, taken: Taken) -> tuple[bytes, bytes]:
        return self._owner, b"%d" % taken.lease.generation

    async def _run(self, script: Script, place: StreamPlace, *arguments: bytes) -> list[Reply]:
        reply = await self._client.run(script, place.keys, arguments, timeout=self.timeout)
        assert isinstance(reply, list)
        return reply


def _batched(places: Sequence[StreamPlace], most: int) -> list[tuple[StreamPlace, ...]]:
    return [tuple(places[first : first + most]) for first in range(0, len(places), most)]


def _texts(reply: Sequence[Reply]) -> list[bytes]:
    return [each for each in reply if isinstance(each, bytes)]
