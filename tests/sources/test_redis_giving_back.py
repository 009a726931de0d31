"""A lease that is given back leaves its stream as if what was not settled had never been handed out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until
from redis_harness.client import connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.replica import a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis_slots import companion_key

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120), ON_EVERY_FLAVOUR]

MANY = 1_250
"""More than one script looks at."""


async def test_of_many_entries_and_of_a_full_server(
    redis_server: RedisServer, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(redis_server.flavour)
    stream, group = new_stream(), new_stream()
    replica = a_replica(server.url, [stream], group)
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
    replica = a_replica(redis_server.url, [stream], group)
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
        first = a_replica(redis_server.url, [stream], group)
        first.settles = False
        async with first.running():
            await until(lambda: places(first) == added, what="all is read")
            await raw(client, "XTRIM", stream, "MAXLEN", "2")
        assert len(await pending(client, stream, group)) == 5
        second = a_replica(redis_server.url, [stream], group)
        async with second.running():
            await until(lambda: places(second) == added[3:], what="what is left is read")
        assert second.losses == [(stream, 3)]
        assert await pending(client, stream, group) == []


async def owner_of(server: RedisServer, stream: str, group: str) -> bytes:
    key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
    async with connect(server.url) as client:
        return bytes(await raw(client, "HGET", key, "owner"))
