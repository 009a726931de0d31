"""Which streams are ours among all replicas: taking, renewing and giving back leases, evenly spread."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import anyio
import anyio.abc

from runner.clients.redis import RedisClient
from runner.clients.redis_errors import RedisFailure
from runner.core.lease import HeldLease, LeaseTimes
from runner.core.spread import Plan, spread, were_lost
from runner.sources.redis_calls import Calls
from runner.sources.redis_lease_calls import LeaseCalls, Seen, Taken
from runner.sources.redis_members import Members
from runner.sources.redis_reader import BEGINNING, StreamPlace
from runner.sources.side_by_side import all_to_end

_REGISTRY: Final = "registry"
_GIVE_BACK_LIMIT: Final = 1.0
"""Seconds for the counts of what is given back: with some of them wrong the stream goes on; with a lease that is not
given back it waits."""
_RESCUE_AFTER: Final = 2
"""How many leases long a free stream is left to whose share it is, who may not reach its server."""


class LeaseListener(NamedTuple):
    """Who hears what of the leases.

    ``taken`` begins to read a stream; ``over`` is called once for a lease that has run out, is another's, or was
    granted by a server that was restarted since, and ``surplus`` for one that should be given back when its stream is
    drained. Either way the stream stays ours to look after until ``let_go``. ``trouble`` says what keeps us from
    looking after a stream's lease, or (None) that nothing does any more: its second argument is what we were about, of
    which each has its own trouble. ``turned`` is called when everything within reach was looked at, and our share of
    it taken.
    """

    seen: Callable[[Seen], None]
    taken: Callable[[Taken], None]
    renewed: Callable[[StreamPlace], None]
    over: Callable[[StreamPlace], None]
    surplus: Callable[[StreamPlace], None]
    trouble: Callable[[StreamPlace, str, RedisFailure | None], None]
    turned: Callable[[], None]


class Leases:
    """Keeps the leases of one member of a group. Times are in seconds of ``now``.

    A server that does not answer is the trouble of its own streams only: nothing of the others waits for it for longer
    than a heartbeat, and nothing at all that keeps what is held.
    """

    def __init__(
        self,
        places: Sequence[StreamPlace],
        registry: bytes,
        owner: bytes,
        client: RedisClient,
        times: LeaseTimes,
        listener: LeaseListener,
        *,
        now: Callable[[], float],
    ) -> None:
        self.has_looked = False  # whether everything free that is our share, and within reach, was taken once
        self._places = {place.partition.topic: place for place in places}
        self._me = owner.decode()
        self._calls = LeaseCalls(client, owner, times, now, len(places))
        self._times = times
        self._listener = listener
        self._now = now
        self._members = Members(client, registry, owner, lifetime=times.duration, timeout=self._calls.timeout)
        self._held: dict[str, Taken] = {}
        self._ending: dict[str, HeldLease] = {}
        self._looks = Calls()
        self._takes = Calls()
        self._registering = Calls()
        self._answered: set[str] = set()  # whose last look went well
        self._others: dict[str, str] = {}
        self._free_since: dict[str, float] = {}
        self._rescued: set[str] = set()  # another's share, which it did not take
        self._robbed: set[str] = set()  # since the last plan: whose lease was gone, though it was not given back
        self._still_until = -math.inf
        self._unreleased: dict[str, Taken] = {}  # being given back, or cut off while they were
        self._look_now = asyncio.Event()
        self._moved = asyncio.Event()
        self._is_stopped = False

    @property
    def owned_by_others(self) -> Mapping[str, str]:
        """By the name of the stream, as of the last look."""
        return self._others

    # --- taking

    async def keep_taking(self) -> None:
        """Look at every heartbeat who owns what, take our share, and name what is more than that. Returns some time
        after ``stop_taking``, when nothing more can become ours and we are out of the registry."""
        async with anyio.create_task_group() as calls:
            while not self._is_stopped:
                self._look_now.clear()
                next_turn = anyio.current_time() + self._times.heartbeat
                await self._turn(calls)
                with anyio.move_on_after(max(next_turn - anyio.current_time(), 0.0)):
                    await self._look_now.wait()
            for under_way in (self._takes, self._registering):
                await under_way.wait(under_way.names, self._calls.timeout)
            calls.cancel_scope.cancel()
        await self._leave_registry()

    def stop_taking(self) -> None:
        """For good, while what is held is kept. What is granted from now on is given back at once."""
        self._is_stopped = True
        self._look_now.set()

    async def _turn(self, calls: anyio.abc.TaskGroup) -> None:
        heartbeat, began = self._times.heartbeat, self._now()
        looked_at = [name for name in self._places if not self._is_ours(name) and name not in self._looks.names]
        for group in self._calls.groups([self._places[name] for name in looked_at]):
            self._looks.start(calls, [place.partition.topic for place in group], partial(self._look_at, group))
        await self._looks.wait(looked_at, heartbeat)
        self._registering.start(calls, [_REGISTRY], self._register)
        await self._registering.wait([_REGISTRY], heartbeat)
        plan = None if self._is_stopped else self._plan(began)
        if plan is None:
            return
        for name in plan.release:
            taken = self._held[name]
            self._ending[name] = taken.lease
            self._listener.surplus(taken.place)
        for name in plan.take:
            self._takes.start(calls, [name], partial(self._take, self._places[name]))
        await self._takes.wait(plan.take, heartbeat)
        if self._answered or self._held:
            self.has_looked = True
            self._listener.turned()

    def _is_ours(self, name: str) -> bool:
        """Or may become so, or was so and is still looked after."""
        return name in self._held or name in self._ending or name in self._takes.names

    async def _look_at(self, group: Sequence[StreamPlace]) -> None:
        for place, seen in zip(group, await self._calls.look(group), strict=True):
            if isinstance(seen, Seen):
                self._note_seen(seen)
            else:
                self._answered.discard(place.partition.topic)
                self._free_since.pop(place.partition.topic, None)  # who knows whose it was meanwhile
                self._listener.trouble(place, "looking", seen)

    def _note_seen(self, seen: Seen) -> None:
        place, name = seen.place, seen.place.partition.topic
        self._answered.add(name)
        if seen.owner is None:
            owner = self._others.pop(name, None)
            if owner is not None and not seen.was_owned:
                self._robbed.add(owner)
            self._free_since.setdefault(name, self._now())
        else:
            self._others[name] = seen.owner
            self._free_since.pop(name, None)
        self._listener.trouble(place, "looking", None)
        self._listener.seen(seen)

    async def _register(self) -> None:
        """Who can read nothing is not to be counted on, and gets no share."""
        trouble = None
        try:
            await self._members.call(register=bool(self._answered or self._held))
        except RedisFailure as failure:
            trouble = failure
        if self._members.have_changed:
            self._rescued.clear()  # shares are others now, and so is who can take them
        for place in self._places.values():
            self._listener.trouble(place, _REGISTRY, trouble)

    async def _leave_registry(self) -> None:
        try:
            await self._members.leave()
        except RedisFailure as failure:  # we are gone from it when our time is over
            for place in self._places.values():
                self._listener.trouble(place, _REGISTRY, failure)

    def _plan(self, began: float) -> Plan | None:
        """Of the turn that ``began`` then. None: nothing is moved for now. Nothing is taken whose server does not
        answer."""
        members = self._members
        robbed, self._robbed = self._robbed, set()
        # The owner of a stream that is out of our reach counts for as long as it is there.
        others = {
            name: owner for name, owner in self._others.items() if name in self._answered or owner in members.current
        }
        if were_lost(members.before, members.current, self._me, owners=others.values(), robbed=robbed):
            self._still_until = began + self._times.heartbeat
        if self._now() < self._still_until:  # there are turns before the next heartbeat, too
            return None
        mine = dict.fromkeys((*self._held, *self._ending, *self._takes.names), self._me)
        plan = spread(
            list(self._places), others | mine, members.current, self._me, first=self._ending, last=self._rescued
        )
        free = self._free_since.keys() & self._answered - self._looks.names - mine.keys()
        take = [name for name in plan.take if name in free]
        # Nobody would take what was taken in another's place: it is not part of our share.
        surplus = plan.release[len(self._rescued & self._held.keys()) :]
        left_since = self._now() - _RESCUE_AFTER * self._times.duration
        overdue = [name for name in free if name not in take and self._free_since[name] < left_since]
        self._rescued.update(overdue)
        return Plan(
            take=[*take, *overdue],
            release=[name for name in surplus if name in self._held and name not in self._ending],
        )

    async def _take(self, place: StreamPlace) -> None:
        try:
            taken = await self._calls.take(place)
            if taken is not None and self._is_stopped:
                await self._release(taken)
                taken = None
        except RedisFailure as failure:
            self._rescued.discard(place.partition.topic)
            self._listener.trouble(place, "taking", failure)
            return
        self._listener.trouble(place, "taking", None)
        if taken is not None and not taken.lease.is_over(self._now()):
            self._begin(taken)
        else:
            self._rescued.discard(place.partition.topic)  # should it come to us later, it is our share

    def _begin(self, taken: Taken) -> None:
        name = taken.place.partition.topic
        self._held[name] = taken
        self._answered.discard(name)
        self._others.pop(name, None)
        self._free_since.pop(name, None)
        self._moved.set()
        self._listener.taken(taken)

    # --- keeping

    async def keep_renewing(self) -> None:
        """At fixed times, however long a renewal takes; those that could not be sent in one heartbeat are the first of
        the next."""
        due = anyio.current_time()
        async with anyio.create_task_group() as renewals:
            while True:
                due = max(due + self._times.heartbeat, anyio.current_time())
                await anyio.sleep_until(due)
                held = {taken.place: taken for taken in sorted(self._held.values(), key=_end_of)}
                for group in self._calls.groups(held):
                    renewals.start_soon(self._renew, [held[place] for place in group])

    async def _renew(self, group: Sequence[Taken]) -> None:
        sent_at = self._now()
        for taken, answer in zip(group, await self._calls.renew(group), strict=True):
            if not self._is_held(taken):
                continue
            if isinstance(answer, RedisFailure):
                self._note_failure(taken, answer)
            else:
                self._note_renewal(taken, answer, sent_at)

    def _note_failure(self, taken: Taken, failure: RedisFailure) -> None:
        """Whatever the reason: the lease runs out if the next renewals fail as well."""
        if taken.lease.until - self._now() < self._times.duration / 2 - self._times.margin:
            self._listener.trouble(taken.place, "renewing", failure)

    def _note_renewal(self, taken: Taken, run_id: bytes | None, sent_at: float) -> None:
        """``run_id``: of the server that granted it; None: the lease is another's."""
        place, lease = taken.place, taken.lease
        self._listener.trouble(place, "renewing", None)
        if run_id is None:
            lease.end()
        elif run_id not in (b"", taken.run_id):
            # The server may have gone back to an older state: nothing that was read before counts.
            self.end(place, lease)
        elif lease.renewed(sent_at, self._now()):
            self._listener.renewed(place)
        self._moved.set()

    async def keep_fencing(self) -> None:
        """End each lease when its time is over, whatever the server does."""
        while True:
            self._moved.clear()
            now = self._now()
            for place, lease, *_ in list(self._held.values()):
                if lease.is_over(now):
                    self.end(place, lease)
            next_end = min([taken.lease.until for taken in self._held.values()], default=None)
            with anyio.move_on_after(None if next_end is None else max(next_end - now, 0.0)):
                await self._moved.wait()

    def end(self, place: StreamPlace, lease: HeldLease) -> None:
        """The lease is over, or what was read by it does not count any more."""
        if self._drop(place, lease):
            self._listener.over(place)

    def forget(self, place: StreamPlace, lease: HeldLease) -> None:
        """As ``end``, by who knows it already."""
        self._drop(place, lease)

    def _drop(self, place: StreamPlace, lease: HeldLease) -> bool:
        """Whether it was held until now."""
        name = place.partition.topic
        taken = self._held.get(name)
        if taken is None or taken.lease is not lease:
            return False
        del self._held[name]
        lease.end()
        self._ending[name] = lease
        return True

    # --- giving back

    async def release(self, place: StreamPlace, lease: HeldLease, handed_out: str) -> None:
        """Give the lease back, so that nobody has to wait for its end. What is still pending of the entries up to
        ``handed_out`` counts as not handed out. Raises RedisFailure; then the lease's end is waited for."""
        taken = self._held.get(place.partition.topic)
        if taken is None or taken.lease is not lease or lease.is_over(self._now()):
            return
        self._drop(place, lease)
        self._unreleased[place.partition.topic] = taken
        trouble = None
        with anyio.move_on_after(_GIVE_BACK_LIMIT):
            try:
                await self._calls.give_back(taken, handed_out)
            except RedisFailure as failure:
                trouble = failure
        await self._release(taken)
        if trouble is not None:
            raise trouble

    async def _release(self, taken: Taken) -> None:
        self._unreleased[taken.place.partition.topic] = taken
        await self._calls.release(taken)
        self._unreleased.pop(taken.place.partition.topic, None)

    def let_go(self, place: StreamPlace, lease: HeldLease) -> None:
        """The stream may be taken again, by us too."""
        name = place.partition.topic
        self._drop(place, lease)
        if self._ending.get(name) is lease:
            del self._ending[name]
            self._rescued.discard(name)
            self._look_now.set()

    async def leave(self, handed_out: Mapping[str, str]) -> None:
        """Give everything back; what the server does not take ends by itself. ``handed_out``: as in ``release``, by the
        name of the stream."""
        releases = [self._release(taken) for taken in self._unreleased.values()]
        releases += [
            self.release(taken.place, taken.lease, handed_out.get(name, BEGINNING))
            for name, taken in self._held.items()
        ]
        await all_to_end([*releases, self._members.leave()], expected=(RedisFailure,))

    async def end_takes(self, seconds: float) -> None:
        """Wait so long for what may be granted just now, which is given back at once. After ``stop_taking``."""
        await self._takes.wait(self._takes.names, seconds)

    async def close(self) -> None:
        await self._calls.close()

    def _is_held(self, taken: Taken) -> bool:
        return self._held.get(taken.place.partition.topic) is taken


def _end_of(taken: Taken) -> float:
    return taken.lease.until
