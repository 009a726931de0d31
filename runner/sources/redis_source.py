"""What every Redis source is to the engine, whoever reads its streams beside us."""

from __future__ import annotations

import asyncio
import traceback
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_entries import FieldNames
from runner.clients.redis_errors import RedisFailure, problem_of
from runner.clients.redis_slots import companion_key
from runner.core.lease import LeaseTimes
from runner.model import Backlog, Fetched, Partition, Position, Problem, Reason, Record, WholeTopic
from runner.ports import CheckpointFailed, CheckpointFenced, SourceError, SourceListener
from runner.sources.redis_holding import Holding, Memory, StartPolicy, absent
from runner.sources.redis_reader import BEGINNING, StreamPlace
from runner.sources.redis_servers import eviction_warnings
from runner.sources.side_by_side import spawn
from runner.sources.starting import StartingPosition

FETCH_WAIT: Final = 1.0
"""Seconds that a fetch waits for records."""

_LAG_INTERVAL: Final = 5.0


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
    trims: bool = False
    command_timeout: float = 5.0
    stop_at_end: bool = False


class RedisSource(ABC):
    """Reads ``settings.streams``, each by a Holding for as long as it is ours; ``now`` is the clock's time."""

    def __init__(self, settings: RedisStreamsSettings, consumer: bytes, *, now: Callable[[], float]) -> None:
        self._settings = settings
        self._consumer = consumer
        self._now = now
        self._client = RedisClient(settings.connection)
        self._policy = StartPolicy(
            server=str(settings.connection),
            starting=settings.starting,
            starting_timestamp=settings.starting_timestamp,
            continue_after_loss=settings.continue_after_loss,
            trims=settings.trims,
        )
        self._listener: SourceListener | None = None
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
            and all(self._has_reached_its_end(WholeTopic(stream, 0)) for stream in self._settings.streams)
        )

    @abstractmethod
    def _has_reached_its_end(self, partition: Partition) -> bool:
        """Everything up to the end, as it was at ``open``, was fetched or is another's to fetch."""

    @abstractmethod
    def _start(self, places: Sequence[StreamPlace]) -> None:
        """Begin to read, in tasks of our own."""

    # --- opening

    async def open(self, listener: SourceListener) -> None:
        """Raises SourceError: the server cannot be reached, the login is refused; with ``stop_at_end`` also whatever
        keeps the end of a stream from being known."""
        self._listener = listener
        settings = self._settings
        places = [self._place(stream) for stream in settings.streams]
        try:
            await self._reach_some()
        except RedisFailure as failure:
            raise SourceError(problem_of(failure, self.description)) from failure
        for place in places if settings.stop_at_end else ():
            self._ends[place.partition] = await self._end_of(place)
        self._start(places)
        self._spawn(self._watch_lag())
        self._spawn(self._warn())

    async def _reach_some(self) -> None:
        """Returns when a server of our streams answers: that others do not is their streams' trouble. Raises
        RedisFailure."""
        # Outside of a cluster one server has all streams: any of them will do.
        asked = self._settings.streams if self._client.is_cluster else self._settings.streams[:1]
        timeout = self._settings.command_timeout
        failures: list[RedisFailure] = []

        async def ping(stream: str) -> None:
            try:
                await self._client.execute("PING", key=stream.encode(), timeout=timeout)
            except RedisFailure as failure:
                failures.append(failure)
            else:
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for stream in asked:
                group.start_soon(ping, stream)
        if len(failures) == len(asked):
            raise failures[0]

    def _place(self, stream: str) -> StreamPlace:
        name, group = stream.encode(), self._settings.group.encode()
        lease_key = companion_key(name, b":stream-runner:" + group)
        return StreamPlace(WholeTopic(stream, 0), name, lease_key, group, self._consumer)

    async def _end_of(self, place: StreamPlace) -> str:
        """The last id of a stream now, BEGINNING of an empty one. Raises SourceError: there is no such stream."""
        try:
            end = await self._last_id_of(place)
        except RedisFailure as failure:
            where = f"stream {place.partition.topic!r} on {self.description}"
            raise SourceError(problem_of(failure, where)) from failure
        if end is None:
            raise SourceError(absent(place.partition, self.description))
        return end

    async def _last_id_of(self, place: StreamPlace) -> str | None:
        """As ``_end_of``; None without a stream. Raises RedisFailure."""
        timeout = self._settings.command_timeout
        reply = await self._client.execute(
            "XREVRANGE", place.stream, "+", "-", "COUNT", 1, key=place.stream, timeout=timeout
        )
        assert isinstance(reply, list)
        if not reply:
            kind = await self._client.execute("TYPE", place.stream, key=place.stream, timeout=timeout)
            return None if kind == b"none" else BEGINNING
        last = reply[0]
        assert isinstance(last, list)
        assert isinstance(last[0], bytes)
        return last[0].decode()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin what ends with the source, and the source with it when it fails."""
        task = spawn(work, self._fail)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail(self, problem: Problem) -> None:
        self._failure = problem
        self._wake()

    async def _warn(self) -> None:
        assert self._listener is not None
        settings = self._settings
        for text in await eviction_warnings(self._client, settings.streams, settings.command_timeout):
            self._listener.source_warning(text)

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
        self._memories[partition].attempts.note(attempts)
        holding = self._holdings.get(partition)
        if holding is not None and not holding.is_writing:
            holding.is_writing = True
            self._spawn(holding.write_attempts())

    async def charge(self, partition: Partition, attempts: Mapping[Position, int]) -> None:
        await self._held(partition).owned.charge(attempts)

    async def still_ours(self, partition: Partition, records: Sequence[Record]) -> Sequence[bool]:
        holding = self._holdings.get(partition)
        if holding is None:
            return [False] * len(records)
        return await holding.owned.still_ours(records)

    def _held(self, partition: Partition) -> Holding:
        holding = self._holdings.get(partition)
        if holding is None:
            raise CheckpointFenced(f"{partition.topic} is not ours any more")
        return holding

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        fenced: dict[Partition, str] = {}
        failed: dict[Partition, str] = {}

        async def store(partition: Partition, position: Position) -> None:
            try:
                await self._store(partition, position)
            except CheckpointFenced as error:
                fenced[partition] = str(error)
            except CheckpointFailed as error:
                failed[partition] = str(error)

        # Not by asyncio.gather: cut off, it may end in a cancellation that the scope which asked for it does not know.
        async with anyio.create_task_group() as group:
            for each in positions.items():
                group.start_soon(store, *each)
        if fenced:
            raise CheckpointFenced("; ".join(fenced.values()), frozenset(fenced), failed)
        if failed:
            raise CheckpointFailed("; ".join(failed.values()))

    async def _store(self, partition: Partition, position: Position) -> None:
        holding = self._held(partition)
        await holding.owned.store(position)
        holding.memory.learn(holding.owned.kept_checkpoint)

    def backlog(self, partition: Partition) -> Backlog | None:
        holding = self._holdings.get(partition)
        return None if holding is None else holding.owned.backlog

    # --- problems

    def _tell(self, partition: Partition, origin: str, problem: Problem | None) -> None:
        """Each origin has its own problem; the first of them is told."""
        known = self._problems[partition]
        before = next(iter(known.values()), None)
        if problem is None:
            known.pop(origin, None)
        else:
            known[origin] = problem  # in its place, if it has one
        now = next(iter(known.values()), None)
        if now != before:
            assert self._listener is not None
            self._listener.partition_problem(partition, now)

    def _note_defect(self, partition: Partition, defect: Exception) -> None:
        """Of ours or of a client library, met while one stream was read: the others' business goes on."""
        name = partition.topic
        what = f"reading {name!r} failed unexpectedly: {type(defect).__name__}: {defect}"
        self._tell(partition, "reading", Problem(Reason.INTERNAL_ERROR, what, "it is begun again after a pause"))
        assert self._listener is not None
        self._listener.source_warning(f"a defect: {what}\n{''.join(traceback.format_exception(defect))}")

    def _tell_again(self, partition: Partition) -> None:
        """Who was told that the partition is gone has forgotten what is wrong with it."""
        problem = next(iter(self._problems[partition].values()), None)
        if problem is not None:
            assert self._listener is not None
            self._listener.partition_problem(partition, problem)

    # --- closing

    async def close(self) -> None:
        """Leave the group, free everything. Takes a few seconds at most, never raises."""
        self._holdings.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._leave()
        await self._client.close()

    @abstractmethod
    async def _leave(self) -> None:
        """Let others know that we are gone, when no task of ours runs any more. Takes a few seconds at most, never
        raises."""
