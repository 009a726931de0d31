"""A lease that is given back leaves its stream as if what was not settled had never been handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import ClassVar

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until
from redis_harness.client import connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.replica import PATIENT, Replica, a_replica, fill, give_time_to_leave, places
from redis_harness.server import RedisServer
from runner.clients.redis import Script
from runner.clients.redis_slots import companion_key
from runner.clients.redis_wire import Reply
from runner.model import Partition
from runner.sources import redis_streams
from runner.sources.redis_reader import StreamPlace
from runner.sources.redis_scripts import INSPECT, StreamScript
from runner.sources.redis_stream import OwnedStream

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120), ON_EVERY_FLAVOUR]

MANY = 1_250
"""More than one script looks at."""


@pytest.fixture(autouse=True)
def time_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    give_time_to_leave(monkeypatch)


async def test_of_many_entries_and_of_a_full_server(
    redis_server: RedisServer, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(redis_server.flavour)
    stream, group = new_stream(), new_stream()
    replica = a_replica(server.url, [stream], group, **PATIENT)
    replica.settles = False
    async with connect(server.url) as client:
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(MANY):
                pipeline.execute_command("XADD", stream, "*", "v", number)
            await pipeline.execute()
        async with replica.running():
            await until(lambda: len(replica.seen) == MANY, what="all is read")
            assert {each.deliveries for each in await pending(client, stream, group)} == {1}
            await raw(client, "CONFIG", "SET", "maxmemory", "100kb")
        assert [each.deliveries for each in await pending(client, stream, group)] == [0] * MANY
        assert await owner_of(server, stream, group) == b""


async def test_what_it_never_got_is_left_as_it_was(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group, **PATIENT)
    replica.settles = False
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 3)
        async with replica.running():
            await until(lambda: places(replica) == added, what="it is read")
            await added_and_handed_out(client, stream, group)
        assert [each.deliveries for each in await pending(client, stream, group)] == [0, 0, 0, 1]


async def added_and_handed_out(client: Redis, stream: str, group: str) -> None:
    """As by an owner that has died since."""
    async with client.pipeline(transaction=True) as at_once:
        at_once.execute_command("XADD", stream, "*", "v", "another's")
        at_once.xreadgroup(group, "stream-runner", {stream: ">"})
        await at_once.execute()


async def test_entries_that_are_gone_stay_pending_for_who_reports_them(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 5)
        first = a_replica(redis_server.url, [stream], group, **PATIENT)
        first.settles = False
        async with first.running():
            await until(lambda: places(first) == added, what="all is read")
            await raw(client, "XTRIM", stream, "MAXLEN", "2")
        assert len(await pending(client, stream, group)) == 5
        second = a_replica(redis_server.url, [stream], group, **PATIENT)
        async with second.running():
            await until(lambda: places(second) == added[3:], what="what is left is read")
        assert second.losses == [(stream, 3)]
        assert await pending(client, stream, group) == []


async def owner_of(server: RedisServer, stream: str, group: str) -> bytes:
    key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
    async with connect(server.url) as client:
        return bytes(await raw(client, "HGET", key, "owner"))


class GivenBackMeanwhile(OwnedStream):
    """Is given back in the turn of the loop in which the server's first look at the stream arrives."""

    give_back: ClassVar[list[Callable[[StreamPlace], None]]] = []

    async def call(
        self, script: Script | StreamScript, *arguments: bytes | str, allowed: Collection[bytes] = ()
    ) -> list[Reply]:
        reply = await super().call(script, *arguments, allowed=allowed)
        if script is INSPECT and GivenBackMeanwhile.give_back:
            loop = asyncio.get_running_loop()
            arrived = loop.create_future()
            loop.call_soon(arrived.set_result, None)
            GivenBackMeanwhile.give_back.pop()(self.place)
            await arrived
        return reply


class Assigned(Replica):
    """Notes what of what it is told to have its source does not have."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica.source, replica.client_name)
        self.orphans: list[str] = []

    def assigned(self, partitions: Collection[Partition]) -> None:
        super().assigned(partitions)
        self.orphans += [each.topic for each in partitions if each not in self.source._holdings]


async def test_a_stream_that_is_given_back_as_it_is_about_to_be_read_is_not_assigned(
    redis_server: RedisServer, new_stream: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_streams, "OwnedStream", GivenBackMeanwhile)
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 3)
        await raw(client, "XGROUP", "CREATE", stream, group, "0")
    replica = Assigned(a_replica(redis_server.url, [stream], group, **PATIENT))
    monkeypatch.setattr(GivenBackMeanwhile, "give_back", [replica.ordered._give_back])
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is taken again, and read")
    assert replica.orphans == []
    assert replica.problems == []
