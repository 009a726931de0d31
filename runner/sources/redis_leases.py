"""Which streams are ours among all replicas: taking, renewing and giving back leases, evenly spread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import anyio

from runner.clients.redis import RedisClient, Script
from runner.clients.redis_errors import RedisFailure
from runner.clients.redis_wire import Reply
from runner.core.lease import HeldLease, LeaseTimes
from runner.core.spread import Plan, spread
from runner.sources.redis_scripts import ATTEMPT, LEAVE, LOOK, MEMBERS, RELEASE, RENEW, TAKE
from runner.sources.redis_stream import StreamPlace


class Taken(NamedTuple):
    """A lease that has just become ours, with what was kept beside it."""

    place: StreamPlace
    lease: HeldLease
    checkpoint: str | None
    was_owned: bool
    lost: int


class Leases:
    """Keeps the leases of one member of a group. Times are in seconds of ``now``.

    ``on_taken`` begins to read a stream; ``on_over`` is called once for a lease that has run out or is another's, and
    ``on_surplus`` for one that should be given back when its stream is drained. Either way the stream stays ours to
    look after until ``let_go``.
    """

    def __init__(
        self,
        places: Sequence[StreamPlace],
        registry: bytes,
        owner: bytes,
        client: RedisClient,
        times: LeaseTimes,
        *,
        now: Callable[[], float],
        on_taken: Callable[[Taken], None],
        on_renewed: Callable[[StreamPlace, HeldLease], None],
        on_over: Callable[[StreamPlace], None],
        on_surplus: Callable[[StreamPlace], None],
        on_trouble: Callable[[RedisFailure | None], None],
    ) -> None:
        self.has_looked = False  # whether everything free that is our share was taken once
        self._places = {place.partition.topic: place for place in places}
        self._registry = registry
        self._owner = owner
        self._client = client
        self._renewals = client.dedicated(times.heartbeat)
        self._times = times
        self._now = now
        self._on_taken = on_taken
        self._on_renewed = on_renewed
        self._on_over = on_over
        self._on_surplus = on_surplus
        self._on_trouble = on_trouble
        self._held: dict[str, HeldLease] = {}
        self._ending: set[str] = set()
        self._others: dict[str, str] = {}
        self._members: frozenset[str] = frozenset()
        self._run_ids: dict[str, bytes] = {}
        self._looked_at = asyncio.Event()  # set: look now, without waiting for the next heartbeat
        self._moved = asyncio.Event()

    @property
    def owned_by_others(self) -> Mapping[str, str]:
        """By the name of the stream, as of the last look."""
        return self._others

    # --- taking

    async def keep_taking(self) -> None:
        """Look at every heartbeat who owns what, take our share, and name what is more than that."""
        while True:
            self._looked_at.clear()
            try:
                await self._look()
            except RedisFailure as failure:
                self._on_trouble(failure)
            else:
                self.has_looked = True
                self._on_trouble(None)
            with anyio.move_on_after(self._times.heartbeat):
                await self._looked_at.wait()

    async def _look(self) -> None:
        plan = await self._plan()
        if plan is None:
            return
        for name in plan.release:
            if name not in self._ending and name in self._held:
                self._ending.add(name)
                self._on_surplus(self._places[name])
        await asyncio.gather(*[self._take(self._places[name]) for name in plan.take])

    async def _plan(self) -> Plan | None:
        """None: nothing is moved for now."""
        members = await self._call_registry()
        await self._check_servers()
        others = await asyncio.gather(
            *[self._look_at(place) for name, place in self._places.items() if name not in self._held]
        )
        self._others = {name: owner for name, owner in others if owner is not None}
        before, self._members = self._members, members
        me = self._owner.decode()
        if members == {me} and (before - members).intersection(self._others.values()):
            return None  # the registry was lost: those who own something will be in it again at their next heartbeat
        mine = dict.fromkeys((*self._held, *self._ending), me)
        return spread(list(self._places), self._others | mine, members, me)

    async def _call_registry(self) -> frozenset[str]:
        reply = await self._client.run(
            MEMBERS, [self._registry], [self._owner, self._milliseconds], timeout=self._patience
        )
        assert isinstance(reply, list)
        return frozenset([member.decode() for member in reply if isinstance(member, bytes)])

    async def _look_at(self, place: StreamPlace) -> tuple[str, str | None]:
        reply = await self._run(LOOK, place)
        owner, left = reply[1], reply[2]
        assert isinstance(owner, bytes)
        assert isinstance(left, bytes)
        is_free = not owner or owner == self._owner or int(left) <= 0
        return place.partition.topic, None if is_free else owner.decode("utf-8", "replace")

    async def _take(self, place: StreamPlace) -> None:
        name = place.partition.topic
        sent_at = self._now()
        reply = await self._run(TAKE, place, self._owner, self._milliseconds)
        if reply[0] != b"ok":
            return
        texts = [each.decode() for each in reply if isinstance(each, bytes)]
        lease = HeldLease(int(texts[1]), sent_at, self._times)
        if lease.is_over(self._now()):
            return
        self._held[name] = lease
        self._moved.set()
        self._on_taken(Taken(place, lease, texts[2] or None, bool(texts[3]), int(texts[4])))

    # --- keeping

    async def keep_renewing(self) -> None:
        while True:
            await anyio.sleep(self._times.heartbeat)
            await asyncio.gather(*[self._renew(name, lease) for name, lease in self._held.items()])

    async def _renew(self, name: str, lease: HeldLease) -> None:
        sent_at = self._now()
        place = self._places[name]
        arguments = [self._owner, b"%d" % lease.generation, self._milliseconds]
        try:
            reply = await self._renewals.run(RENEW, place.keys, arguments)
        except RedisFailure:
            return  # whatever the reason: the lease runs out if the next one fails as well, and taking says why
        assert isinstance(reply, list)
        if reply[0] != b"ok":
            lease.end()
        elif lease.renewed(sent_at, self._now()):
            self._on_renewed(place, lease)
        self._moved.set()

    async def keep_fencing(self) -> None:
        """End each lease when its time is over, whatever the server does."""
        while True:
            self._moved.clear()
            now = self._now()
            for name, lease in list(self._held.items()):
                if lease.is_over(now):
                    self.end(self._places[name])
            next_end = min([lease.until for lease in self._held.values()], default=None)
            with anyio.move_on_after(None if next_end is None else max(next_end - now, 0.0)):
                await self._moved.wait()

    async def _check_servers(self) -> None:
        """A server that was restarted may have gone back to an older state: nothing that was read before counts."""
        # Outside of a cluster one server has all streams: any of them will do.
        for name in list(self._held)[: None if self._client.is_cluster else 1]:
            stream = self._places[name].stream
            info = await self._client.execute("INFO", "server", key=stream, timeout=self._patience)
            server = name if self._client.is_cluster else ""
            run_id = _run_id(info)
            if self._run_ids.setdefault(server, run_id) != run_id:
                self._run_ids[server] = run_id
                for held in [name] if self._client.is_cluster else list(self._held):
                    self.end(self._places[held])

    def end(self, place: StreamPlace) -> None:
        """The lease is over, or what was read by it does not count any more."""
        if place.partition.topic in self._held:
            self.forget(place)
            self._on_over(place)

    def forget(self, place: StreamPlace) -> None:
        """As ``end``, by who knows it already."""
        name = place.partition.topic
        lease = self._held.pop(name, None)
        if lease is not None:
            lease.end()
            self._ending.add(name)

    # --- giving back

    async def release(self, place: StreamPlace) -> None:
        """Give the lease back, so that nobody has to wait for its end. Raises RedisFailure; then that is waited for."""
        lease = self._held.pop(place.partition.topic, None)
        if lease is not None and not lease.is_over(self._now()):
            lease.end()
            generation = b"%d" % lease.generation
            await self._run(RELEASE, place, self._owner, generation, place.group, place.consumer, b"%d" % ATTEMPT)

    def let_go(self, place: StreamPlace) -> None:
        """The stream may be taken again, by us too."""
        name = place.partition.topic
        self._held.pop(name, None)
        self._ending.discard(name)
        self._run_ids.pop(name, None)
        self._looked_at.set()

    async def leave(self) -> None:
        """Give everything back; what the server does not take ends by itself."""
        places = [self._places[name] for name in self._held]
        goodbye = self._client.run(LEAVE, [self._registry], [self._owner], timeout=self._times.heartbeat)
        results = await asyncio.gather(*[self.release(place) for place in places], goodbye, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, RedisFailure):
                raise result

    async def close(self) -> None:
        await self._renewals.close()

    @property
    def _patience(self) -> float:
        """Seconds for a call: whoever is cut off says so before its leases are over."""
        return self._times.duration / 2

    @property
    def _milliseconds(self) -> bytes:
        return b"%d" % int(self._times.duration * 1000)

    async def _run(self, script: Script, place: StreamPlace, *arguments: bytes) -> list[Reply]:
        reply = await self._client.run(script, place.keys, arguments, timeout=self._patience)
        assert isinstance(reply, list)
        return reply


def _run_id(info: Reply) -> bytes:
    assert isinstance(info, bytes)
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line
    return b""
