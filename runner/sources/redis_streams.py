"""The ordered Redis Streams source: a stream is a partition, and each is read by one replica at a time."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import anyio

from runner.clients.redis_entries import compare_ids
from runner.clients.redis_errors import RedisFailure, problem_of
from runner.core.lease import HeldLease
from runner.model import Partition
from runner.sources.redis_holding import Holding
from runner.sources.redis_lease_calls import Seen, Taken
from runner.sources.redis_leases import LeaseListener, Leases
from runner.sources.redis_reader import BLOCK, AssignmentOver, StreamPlace
from runner.sources.redis_records import RecordMaker
from runner.sources.redis_scripts import CONSUMER
from runner.sources.redis_source import RedisSource, RedisStreamsSettings
from runner.sources.redis_stream import OwnedStream

_CLOSE_LIMIT: Final = 2.0
_DEFECT_PAUSE: Final = 2.0
"""Seconds before a stream that a defect ended is begun again, if no other replica has it by then."""


class _Owned:
    """A stream from its lease to its end. ``reading`` is what is cancelled when that comes, and never the task around
    it: one that is cancelled before its first step does nothing at all, and nobody would let the stream go."""

    def __init__(self, holding: Holding) -> None:
        self.holding = holding
        self.reading = anyio.CancelScope()
        self.ended = asyncio.Event()
        self.pause = 0.0  # seconds from the end until it may be taken again

    @property
    def place(self) -> StreamPlace:
        return self.holding.place

    @property
    def lease(self) -> HeldLease:
        return self.holding.owned.lease


class RedisStreamsSource(RedisSource):
    """Reads ``settings.streams`` as one of the replicas that share ``settings.group``; ``now`` is the clock's time.

    A lease in Redis says who owns a stream; every read and every acknowledgement is refused by the server once it is
    another's. Whatever shakes the trust in what was read (another history, a group that went, a restarted server) ends
    the assignment, and the stream is taken anew at what is not acknowledged.
    """

    def __init__(self, settings: RedisStreamsSettings, *, now: Callable[[], float]) -> None:
        super().__init__(settings, CONSUMER, now=now)
        self._owner = uuid.uuid4().hex.encode()
        self._leases: Leases | None = None
        self._owned: dict[str, _Owned] = {}  # by the name of the stream

    def _has_reached_its_end(self, partition: Partition) -> bool:
        holding = self._holdings.get(partition)
        if holding is not None:
            return holding.has_reached_its_end
        return self._leases is not None and partition.topic in self._leases.owned_by_others

    def _start(self, places: Sequence[StreamPlace]) -> None:
        leases = self._leases = Leases(
            places,
            _registry(self._settings),
            self._owner,
            self._client,
            self._settings.lease,
            LeaseListener(
                seen=self._on_seen,
                taken=self._begin,
                renewed=self._on_renewed,
                over=self._end,
                surplus=self._give_back,
                trouble=self._on_trouble,
                turned=self._join,
            ),
            now=self._now,
        )
        for work in (leases.keep_taking(), leases.keep_renewing(), leases.keep_fencing()):
            self._spawn(work)

    # --- owning

    def _begin(self, taken: Taken) -> None:
        assert self._listener is not None
        partition = taken.place.partition
        memory = self._memories[partition]
        memory.hear(was_owned=taken.was_owned)
        holding = self._holdings[partition] = Holding(
            self._stream(taken),
            taken.checkpoint,
            self._policy,
            memory,
            self._listener,
            partial(self._tell, partition, "start"),
        )
        owned = self._owned[partition.topic] = _Owned(holding)
        self._spawn(self._own(owned))

    def _stream(self, taken: Taken) -> OwnedStream:
        settings, partition = self._settings, taken.place.partition
        return OwnedStream(
            taken.place,
            self._owner,
            taken.lease,
            taken.run_id,
            self._client,
            self._client.dedicated(BLOCK + settings.command_timeout),
            RecordMaker(partition, settings.names, self._now),
            now=self._now,
            timeout=settings.command_timeout,
            end=self._ends.get(partition) if settings.stop_at_end else None,
            on_chunk=self._wake,
            on_problem=partial(self._tell, partition, "reading"),
        )

    async def _own(self, owned: _Owned) -> None:
        try:
            with owned.reading:
                await self._read(owned)
        finally:
            await self._finish(owned)

    async def _read(self, owned: _Owned) -> None:
        assert self._leases is not None
        holding = owned.holding
        try:
            await holding.prepare(on_tried=self._join)
            if holding.is_leaving:
                return  # given back in the turn in which the last answer came: too late to be cancelled
            holding.assign()
            self._tell(holding.partition, "reading", None)
            self._join()
            await holding.owned.run()
        except AssignmentOver as over:
            self._leases.forget(owned.place, owned.lease)
            self._tell(holding.partition, "reading", over.problem)
        except Exception as defect:
            self._leases.forget(owned.place, owned.lease)
            self._note_defect(holding.partition, defect)
            owned.pause = _DEFECT_PAUSE

    async def _finish(self, owned: _Owned) -> None:
        """The stream is not read any more: whatever ran for it does not count, unless it was drained."""
        holding = owned.holding
        await holding.owned.close()
        owned.ended.set()
        if self._holdings.get(holding.partition) is not holding:
            return  # drained and given back, or closed
        assert self._leases is not None
        assert self._listener is not None
        self._forget(owned)
        if holding.is_assigned:
            await self._listener.lost([holding.partition])
            self._tell_again(holding.partition)
        await anyio.sleep(owned.pause)
        self._leases.let_go(owned.place, owned.lease)

    def _forget(self, owned: _Owned) -> None:
        del self._holdings[owned.holding.partition]
        del self._owned[owned.holding.partition.topic]

    def _on_renewed(self, place: StreamPlace) -> None:
        holding = self._holdings.get(place.partition)
        if holding is not None:
            holding.tell_lease()

    def _end(self, place: StreamPlace) -> None:
        """The lease is over: what reads the stream is stopped, and takes care of the rest."""
        owned = self._owned.get(place.partition.topic)
        if owned is not None:
            owned.reading.cancel()

    # --- giving back

    def stop_taking(self) -> None:
        """What is not assigned yet will not be, but is given back now."""
        if self._leases is None:
            return
        self._leases.stop_taking()
        for owned in self._owned.values():
            if not owned.holding.is_assigned and not owned.holding.is_leaving:
                self._spawn(self._drain_and_release(owned))

    def _give_back(self, place: StreamPlace) -> None:
        owned = self._owned.get(place.partition.topic)
        if owned is not None and not owned.holding.is_leaving:
            self._spawn(self._drain_and_release(owned))

    async def _drain_and_release(self, owned: _Owned) -> None:
        assert self._leases is not None
        assert self._listener is not None
        holding = owned.holding
        holding.is_leaving = True
        holding.owned.set_paused(True)
        if holding.is_assigned:
            await self._listener.revoked([holding.partition])
        if self._holdings.get(holding.partition) is not holding:
            return  # the lease ran out meanwhile, and whoever noticed has let the stream go
        self._forget(owned)
        owned.reading.cancel()
        await owned.ended.wait()
        for origin in ("start", "reading"):
            self._tell(holding.partition, origin, None)  # what is wrong with it is the next owner's to say
        self._tell_again(holding.partition)
        try:
            await self._leases.release(owned.place, owned.lease, holding.owned.fetched_id)
        except RedisFailure as failure:
            self._on_trouble(owned.place, "taking", failure)  # the lease runs out by itself
        finally:
            self._leases.let_go(owned.place, owned.lease)

    # --- what the leases say

    def _on_seen(self, seen: Seen) -> None:
        """Of a stream that is not ours: whoever takes it after the server has lost everything knows what it was."""
        partition = seen.place.partition
        memory = self._memories[partition]
        memory.hear(was_owned=seen.was_owned)
        if seen.checkpoint is not None:
            if memory.checkpoint is not None and compare_ids(seen.checkpoint, memory.checkpoint) < 0:
                memory.begin_anew(seen.checkpoint)  # its owner reads another stream under the same name
            memory.learn(seen.checkpoint)
        self._tell(partition, "renewing", None)
        for origin in () if seen.owner is None else ("taking", "start", "reading"):
            self._tell(partition, origin, None)  # its owner's to say

    def _on_trouble(self, place: StreamPlace, origin: str, failure: RedisFailure | None) -> None:
        """The server does not let us look after the stream's lease, or (None) does so again."""
        self._tell(place.partition, origin, None if failure is None else problem_of(failure, self.description))

    def _join(self) -> None:
        """We have joined when our first share was taken, and all of it can be read or was found wanting."""
        assert self._leases is not None
        if self._has_joined or not self._leases.has_looked:
            return
        if all(holding.is_assigned or holding.was_tried for holding in self._holdings.values()):
            self._has_joined = True
            assert self._listener is not None
            self._listener.assigned([])
        self._wake()

    # --- closing

    async def close(self) -> None:
        if self._leases is not None:
            self._holdings.clear()
            self._leases.stop_taking()
            # A lease that is granted while nobody listens any more would keep others waiting for its end.
            await self._leases.end_takes(_CLOSE_LIMIT)
        await super().close()

    async def _leave(self) -> None:
        leases, self._leases = self._leases, None
        if leases is not None:
            with anyio.move_on_after(_CLOSE_LIMIT):
                await leases.leave({name: owned.holding.owned.fetched_id for name, owned in self._owned.items()})
            await leases.close()


def _registry(settings: RedisStreamsSettings) -> bytes:
    """Of the members that read the same streams: who reads others has no part in how these are spread."""
    digest = hashlib.blake2b("\0".join(sorted(settings.streams)).encode(), digest_size=8).hexdigest()
    return f"stream-runner:members:{settings.group}:{digest}".encode()
