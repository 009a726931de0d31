"""The ordered Redis Streams source: a stream is a partition, and each is read by one replica at a time."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio

from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_entries import FieldNames
from runner.clients.redis_errors import FailureKind, RedisFailure, problem_of
from runner.clients.redis_slots import companion_key
from runner.core.lease import HeldLease, LeaseTimes
from runner.model import Backlog, Fetched, Partition, Position, Problem, Reason, Record
from runner.ports import CheckpointFenced, SourceError, SourceListener
from runner.sources.redis_holding import Holding, Memory, StartPolicy, absent
from runner.sources.redis_leases import Leases, Taken
from runner.sources.redis_records import RecordMaker
from runner.sources.redis_stream import BEGINNING, BLOCK, AssignmentOver, OwnedStream, StreamPlace
from runner.sources.starting import StartingPosition

FETCH_WAIT: Final = 1.0
"""Seconds that a fetch waits for records."""

CONSUMER: Final = b"stream-runner"
"""The one consumer of the group: who owns the stream reads on where the last owner was."""

_LAG_INTERVAL: Final = 5.0
_CLOSE_LIMIT: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class RedisStreamsSettings:
    """What the source is told. Times are in seconds, ``starting_timestamp`` since the epoch."""

    connection: RedisConnection
    streams: tuple[str, ...]
    group: str
    lease: LeaseTimes
    names: FieldNames
    starting: StartingPosition = StartingPosition.TRIM_HORIZON
    starting_timestamp: float | None = None
    continue_after_loss: bool = False
    command_timeout: float = 5.0
    stop_at_end: bool = False


class RedisStreamsSource:
    """Reads ``settings.streams`` as one of the replicas that share ``settings.group``; ``now`` is the clock's time.

    A lease in Redis says who owns a stream; every read and every acknowledgement is refused by the server once it is
    another's. Whatever shakes the trust in what was read (another history, a group that went, a restarted server) ends
    the assignment, and the stream is taken anew at what is not acknowledged.
    """

    def __init__(self, settings: RedisStreamsSettings, *, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._owner = uuid.uuid4().hex.encode()
        self._client = RedisClient(settings.connection)
        self._policy = StartPolicy(
            server=str(settings.connection),
            starting=settings.starting,
            starting_timestamp=settings.starting_timestamp,
            continue_after_loss=settings.continue_after_loss,
        )
        self._listener: SourceListener | None = None
        self._leases: Leases | None = None
        self._holdings: dict[Partition, Holding] = {}
        self._memories: defaultdict[Partition, Memory] = defaultdict(Memory)
        self._ends: dict[Partition, str] = {}
        self._problems: defaultdict[Partition, dict[str, Problem]] = defaultdict(dict)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Problem | None = None
        self._arrived = asyncio.Event()
        self._has_joined = False
        self._was_caught_up = False

    @property
    def description(self) -> str:
        return str(self._settings.connection)

    @property
    def group(self) -> str:
        return self._settings.group

    @property
    def joined(self) -> bool:
        return self._has_joined

    @property
    def caught_up(self) -> bool:
        return (
            self._settings.stop_at_end
            and self._has_joined
            and all(self._has_reached_its_end(Partition(stream, 0)) for stream in self._settings.streams)
        )

    def _has_reached_its_end(self, partition: Partition) -> bool:
        holding = self._holdings.get(partition)
        if holding is not None:
            return holding.has_reached_its_end
        return self._leases is not None and partition.topic in self._leases.owned_by_others

    # --- opening

    async def open(self, listener: SourceListener) -> None:
        """Raises SourceError: the server cannot be reached, the login is refused."""
        self._listener = listener
        settings = self._settings
        places = [self._place(stream) for stream in settings.streams]
        try:
            await self._client.execute("PING", timeout=settings.command_timeout)
            for place in places if settings.stop_at_end else ():
                end = await self._end_of(place)
                if end is None:
                    raise SourceError(absent(place.partition, self.description))
                self._ends[place.partition] = end
        except RedisFailure as failure:
            raise SourceError(problem_of(failure, self.description)) from failure
        leases = self._leases = Leases(
            places,
            _registry(settings),
            self._owner,
            self._client,
            settings.lease,
            now=self._now,
            on_taken=self._begin,
            on_renewed=self._on_renewed,
            on_over=self._end,
            on_surplus=self._give_back,
            on_trouble=self._on_trouble,
        )
        for work in (leases.keep_taking(), leases.keep_renewing(), leases.keep_fencing(), self._watch_lag()):
            self._spawn(work)

    def _place(self, stream: str) -> StreamPlace:
        name, group = stream.encode(), self._settings.group.encode()
        lease_key = companion_key(name, b":stream-runner:" + group)
        return StreamPlace(Partition(stream, 0), name, lease_key, group, CONSUMER)

    async def _end_of(self, place: StreamPlace) -> str | None:
        """The last id of a stream now, BEGINNING of an empty one, None without a stream. Raises RedisFailure."""
        timeout = self._settings.command_timeout
        try:
            reply = await self._client.execute(
                "XREVRANGE", place.stream, "+", "-", "COUNT", 1, key=place.stream, timeout=timeout
            )
        except RedisFailure as failure:
            if failure.kind is not FailureKind.WRONG_TYPE:
                raise
            return BEGINNING  # its own problem, told when it is to be read
        assert isinstance(reply, list)
        if not reply:
            kind = await self._client.execute("TYPE", place.stream, key=place.stream, timeout=timeout)
            return None if kind == b"none" else BEGINNING
        last = reply[0]
        assert isinstance(last, list)
        assert isinstance(last[0], bytes)
        return last[0].decode()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task whose unexpected end is the end of the source."""

        def note_end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failure = Problem(Reason.INTERNAL_ERROR, f"a task of the source failed: {error!r}")
                self._arrived.set()

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(note_end)
        return task

    # --- owning

    def _begin(self, taken: Taken) -> None:
        assert self._listener is not None
        settings, partition = self._settings, taken.place.partition
        owned = OwnedStream(
            taken.place,
            self._owner,
            taken.lease,
            self._client,
            self._client.dedicated(BLOCK + settings.command_timeout),
            RecordMaker(partition, settings.names, self._now),
            now=self._now,
            timeout=settings.command_timeout,
            end=self._ends.get(partition) if settings.stop_at_end else None,
            on_chunk=self._wake,
            on_problem=partial(self._tell, partition, "reading"),
        )
        holding = self._holdings[partition] = Holding(
            taken,
            owned,
            self._policy,
            self._memories[partition],
            self._listener,
            partial(self._tell, partition, "start"),
        )
        holding.task = self._spawn(self._own(holding))

    async def _own(self, holding: Holding) -> None:
        assert self._leases is not None
        try:
            await holding.prepare(on_tried=self._join)
            holding.assign()
            self._tell(holding.partition, "reading", None)
            self._join()
            await holding.owned.run()
        except AssignmentOver as over:
            self._leases.forget(holding.place)
            self._tell(holding.partition, "reading", over.problem)
        finally:
            await self._finish(holding)

    async def _finish(self, holding: Holding) -> None:
        """The stream is not read any more: whatever ran for it does not count, unless it was drained."""
        assert self._leases is not None
        assert self._listener is not None
        await holding.owned.close()
        if self._holdings.get(holding.partition) is not holding:
            return  # drained and given back, or closed
        del self._holdings[holding.partition]
        if holding.is_assigned:
            await self._listener.lost([holding.partition])
        self._leases.let_go(holding.place)

    def _on_renewed(self, place: StreamPlace, lease: HeldLease) -> None:
        holding = self._holdings.get(place.partition)
        if holding is not None:
            holding.tell_lease(lease)

    def _end(self, place: StreamPlace) -> None:
        """The lease is over: what reads the stream is stopped, and takes care of the rest."""
        holding = self._holdings.get(place.partition)
        if holding is not None and holding.task is not None:
            holding.task.cancel()

    def _give_back(self, place: StreamPlace) -> None:
        holding = self._holdings.get(place.partition)
        if holding is not None:
            self._spawn(self._drain_and_release(holding))

    async def _drain_and_release(self, holding: Holding) -> None:
        assert self._leases is not None
        assert self._listener is not None
        holding.is_leaving = True
        holding.owned.set_paused(True)
        if holding.is_assigned:
            await self._listener.revoked([holding.partition])
        if self._holdings.get(holding.partition) is not holding:
            return  # the lease ran out meanwhile, and whoever noticed has let the stream go
        del self._holdings[holding.partition]
        if holding.task is not None:
            holding.task.cancel()
            await asyncio.wait({holding.task})
        try:
            await self._leases.release(holding.place)
        except RedisFailure as failure:
            self._on_trouble(failure)  # the lease runs out by itself
        finally:
            self._leases.let_go(holding.place)

    async def _watch_lag(self) -> None:
        while True:
            await anyio.sleep(_LAG_INTERVAL)
            for holding in [each for each in self._holdings.values() if each.is_read]:
                await holding.look()

    # --- what the engine asks

    async def fetch(self) -> Sequence[Fetched]:
        """Raises SourceError: a defect."""
        with anyio.move_on_after(FETCH_WAIT):
            while True:
                if self._failure is not None:
                    raise SourceError(self._failure)
                self._arrived.clear()
                holdings = [each for each in self._holdings.values() if each.is_read]
                fetched = [chunk for each in holdings if (chunk := each.owned.take_chunk()) is not None]
                was_caught_up, self._was_caught_up = self._was_caught_up, self.caught_up
                if fetched or self._was_caught_up != was_caught_up:  # the caller waits for either
                    return fetched
                await self._arrived.wait()
        return []

    def _wake(self) -> None:
        self._arrived.set()

    def pause(self, partition: Partition) -> None:
        self._set_paused(partition, True)

    def resume(self, partition: Partition) -> None:
        self._set_paused(partition, False)

    def _set_paused(self, partition: Partition, paused: bool) -> None:
        holding = self._holdings.get(partition)
        if holding is not None and not holding.is_leaving:
            holding.owned.set_paused(paused)
            self._wake()

    def settled(self, partition: Partition, records: Sequence[Record]) -> None:
        holding = self._holdings.get(partition)
        if holding is not None:
            holding.owned.settled(records)

    def attempted(self, partition: Partition, attempts: Mapping[Position, int]) -> None:
        holding = self._holdings.get(partition)
        if holding is not None:
            holding.owned.attempted(attempts)
            if not holding.is_writing:
                holding.is_writing = True
                self._spawn(holding.write_attempts())

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        results = await asyncio.gather(*[self._store(*each) for each in positions.items()], return_exceptions=True)
        fenced: dict[Partition, CheckpointFenced] = {}
        for partition, result in zip(positions, results, strict=True):
            if isinstance(result, CheckpointFenced):
                fenced[partition] = result
            elif isinstance(result, BaseException):
                raise result
        if fenced:
            raise CheckpointFenced("; ".join(map(str, fenced.values())), frozenset(fenced))

    async def _store(self, partition: Partition, position: Position) -> None:
        holding = self._holdings.get(partition)
        if holding is None:
            raise CheckpointFenced(f"{partition.topic} is not ours any more")
        await holding.owned.store(position)
        holding.memory.checkpoint = str(position)

    def backlog(self, partition: Partition) -> Backlog | None:
        holding = self._holdings.get(partition)
        return None if holding is None else holding.owned.backlog

    # --- problems

    def _on_trouble(self, failure: RedisFailure | None) -> None:
        """The server does not let us look after the leases, or (None) does so again."""
        problem = None if failure is None else problem_of(failure, self.description)
        for stream in self._settings.streams:
            self._tell(Partition(stream, 0), "leases", problem)
        if failure is None:
            self._join()

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

    def _tell(self, partition: Partition, origin: str, problem: Problem | None) -> None:
        """Each origin has its own problem; the first of them is told."""
        known = self._problems[partition]
        before = next(iter(known.values()), None)
        known.pop(origin, None)
        if problem is not None:
            known[origin] = problem
        now = next(iter(known.values()), None)
        if now != before:
            assert self._listener is not None
            self._listener.partition_problem(partition, now)

    # --- closing

    async def close(self) -> None:
        self._holdings.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        leases, self._leases = self._leases, None
        if leases is not None:
            with anyio.move_on_after(_CLOSE_LIMIT):
                await leases.leave()
            await leases.close()
        await self._client.close()


def _registry(settings: RedisStreamsSettings) -> bytes:
    """Of the members that read the same streams: who reads others has no part in how these are spread."""
    digest = hashlib.blake2b("\0".join(sorted(settings.streams)).encode(), digest_size=8).hexdigest()
    return f"stream-runner:members:{settings.group}:{digest}".encode()
