"""One replica that reads streams in this process and settles at once what it reads, without an engine around it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import anyio
import pytest
from redis.asyncio import Redis, RedisCluster

from kafka_harness.waiting import until_async
from redis_harness.client import add
from runner.clients.redis import RedisConnection
from runner.clients.redis_entries import FieldNames
from runner.clients.redis_url import parse_redis_url
from runner.core.lease import LeaseTimes
from runner.model import Lease, Partition, Position, Problem, Record
from runner.ports import CheckpointFailed, CheckpointFenced, TakesPartitions
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_source import RedisStreamsSettings
from runner.sources.redis_streams import RedisStreamsSource

LEASE = LeaseTimes(2.0, 0.4)
LONGER = LeaseTimes(4.0, 0.4)
"""For who is to keep its lease while others' end is waited for, on a machine that stands still for a second or two."""
PATIENT: Final[dict[str, Any]] = {"lease": LeaseTimes(20.0, 0.4), "command_timeout": 10.0}
"""Settings where no lease is to end and no call to be given up on, however long the machine stands still."""

_INTERVAL = 0.05
_NUMBERS = count()
_EPOCH = time.time() - time.monotonic()


class Replica:
    """``seen`` are (stream, id, generation) in the order in which they were read, with 0 for no generation; ``settles``
    False lets them pend; ``attempted`` is told to the source of every partition that is lost; ``on_lost`` is called
    before anything else can happen after a loss."""

    def __init__(self, source: RedisStreamsSource | SharedStreamsSource, client_name: str) -> None:
        self.source = source
        self.client_name = client_name
        self.settles = True
        self.attempted: dict[Position, int] = {}
        self.seen: list[tuple[str, str, int]] = []
        self.owned: set[str] = set()
        self.on_lost: Callable[[], None] = lambda: None
        self.lost_streams: list[str] = []
        self.revoked_streams: list[str] = []
        self.fenced = 0
        self.taken_from = 0
        self.problems: list[Problem | None] = []
        self.losses: list[tuple[str, int | None]] = []
        self.trimmed_entries = 0
        self.warnings: list[str] = []
        self.attempts: dict[str, int] = {}  # by id, as they came
        self.suspects: set[str] = set()
        self.largest = 0  # bytes of what one fetch brought of one stream
        self._leases: dict[str, Lease] = {}
        self._unsettled: dict[Partition, list[Record]] = {}
        self._next: dict[Partition, Position] = {}
        self._storing = anyio.Lock()

    @property
    def ordered(self) -> RedisStreamsSource:
        """The source of one that reads in order."""
        assert isinstance(self.source, RedisStreamsSource)
        return self.source

    async def stop_settling(self) -> None:
        """Returns when no checkpoint is on its way any more."""
        self.settles = False
        async with self._storing:
            pass

    def unsettled(self, partition: Partition) -> list[Record]:
        """What was read of it and is not settled, in order."""
        return list(self._unsettled.get(partition, []))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Replica]:
        """Raises what the source raises."""
        try:
            await self.source.open(self)
            async with anyio.create_task_group() as group:
                group.start_soon(self._fetch)
                group.start_soon(self._checkpoint)
                yield self
                group.cancel_scope.cancel()
            if isinstance(self.source, TakesPartitions):
                self.source.stop_taking()
            await self.revoked([Partition(stream, 0) for stream in self.owned])
        finally:
            with anyio.CancelScope(shield=True):
                await self.source.close()

    async def _fetch(self) -> None:
        while True:
            for fetched in await self.source.fetch():
                name = fetched.partition.topic
                assert name in self.owned, "fetched, and not ours"
                self.largest = max(self.largest, fetched.size)
                generation = self._leases[name].generation or 0
                self.seen += [(name, str(each.position), generation) for each in fetched.records]
                self.attempts |= {
                    str(each.position): fetched.attempts[each.sequence]
                    for each in fetched.records
                    if each.sequence in fetched.attempts
                }
                self.suspects |= {str(each.position) for each in fetched.records if each.sequence in fetched.suspects}
                self._unsettled.setdefault(fetched.partition, []).extend(fetched.records)
                self._next[fetched.partition] = fetched.next_position

    async def _checkpoint(self) -> None:
        while True:
            await anyio.sleep(_INTERVAL)
            if self.settles:
                async with self._storing:
                    await self._store(list(self._next))

    async def _store(self, partitions: Collection[Partition]) -> None:
        positions = {partition: self._next[partition] for partition in partitions if partition in self._next}
        for partition in positions:
            self.source.settled(partition, self._unsettled.pop(partition, []))
        try:
            await self.source.checkpoint(positions)
        except CheckpointFenced:
            self.fenced += 1
        except CheckpointFailed:
            return

    # --- ports.SourceListener

    def assigned(self, partitions: Collection[Partition]) -> None:
        self.owned |= {partition.topic for partition in partitions}

    async def revoked(self, partitions: Collection[Partition]) -> None:
        if self.settles:
            await self._store(partitions)
        self.revoked_streams += [partition.topic for partition in partitions]
        self._forget(partitions)

    def leased(self, partition: Partition, lease: Lease) -> None:
        self._leases[partition.topic] = lease

    def acknowledged(self, partition: Partition, records: int) -> None:
        """Not looked at: everything is settled at once."""

    def taken(self, partition: Partition, records: int) -> None:
        self.taken_from += records

    async def lost(self, partitions: Collection[Partition]) -> None:
        self.lost_streams += [partition.topic for partition in partitions]
        self.on_lost()
        for partition in partitions:
            if self.attempted:
                self.source.attempted(partition, self.attempted)
        self._forget(partitions)

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None:
        self.problems.append(problem)

    def data_lost(self, partition: Partition, first: Position, next_available: Position, records: int | None) -> None:
        self.losses.append((partition.topic, records))

    def trimmed(self, partition: Partition, records: int) -> None:
        self.trimmed_entries += records

    def source_warning(self, text: str) -> None:
        self.warnings.append(text)

    def _forget(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self.owned.discard(partition.topic)
            self._unsettled.pop(partition, None)
            self._next.pop(partition, None)


def give_time_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who leaves give everything back, however slow the machine is."""
    monkeypatch.setattr("runner.sources.redis_leases._GIVE_BACK_LIMIT", 20.0)
    monkeypatch.setattr("runner.sources.redis_streams._CLOSE_LIMIT", 20.0)
    monkeypatch.setattr("runner.sources.redis_shared._CLOSE_LIMIT", 20.0)


def now() -> float:
    """As the product's clock, which does not follow the steps of the machine's."""
    return _EPOCH + time.monotonic()


def a_replica(
    connection: RedisConnection | str,
    streams: Sequence[str],
    group: str,
    kind: type[RedisStreamsSource | SharedStreamsSource] = RedisStreamsSource,
    **settings: Any,
) -> Replica:
    """One that reads ``streams``, of which the field ``v`` is the value. ``settings`` are RedisStreamsSettings'."""
    if isinstance(connection, str):
        connection = RedisConnection(url=parse_redis_url(connection), client_name=f"replica-{next(_NUMBERS)}")
    defaults: dict[str, Any] = {"lease": LEASE, "names": FieldNames(None, b"v"), "command_timeout": 1.0}
    made = RedisStreamsSettings(connection=connection, streams=tuple(streams), group=group, **(defaults | settings))
    return Replica(kind(made, now=now), connection.client_name)


async def pause_while_they_wait(client: Redis, stream: str, *replicas: Replica) -> None:
    """Pause each of ``replicas``, which have read all there is, where it has no read under way: what is added from now
    on is read by none of them until it is resumed. ``client`` is of the server that they read from."""
    names = {replica.client_name for replica in replicas}

    async def are_waiting() -> bool:
        connections = await client.client_list()
        return names <= {each["name"] for each in connections if "b" in each["flags"]}

    while True:
        await until_async(are_waiting, what="they wait for more", every=0.01)
        for replica in replicas:
            replica.source.pause(Partition(stream, 0))
        if await are_waiting():
            return  # what follows a wait looks first at whether it is paused
        for replica in replicas:
            replica.source.resume(Partition(stream, 0))


async def fill(client: Redis | RedisCluster, stream: str, count: int) -> list[tuple[str, str]]:
    """Add ``count`` entries; returns (stream, id) of each."""
    return [(stream, (await add(client, stream, [(b"v", b"%d" % n)])).decode()) for n in range(count)]


def places(replica: Replica) -> list[tuple[str, str]]:
    """(stream, id) of all that was read, in order."""
    return [(stream, position) for stream, position, _ in replica.seen]
