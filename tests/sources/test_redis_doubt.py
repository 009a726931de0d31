"""What an owner has given up on may still reach the server: by then it does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.late import arrives_late, calls
from redis_harness.proxy import Proxy
from redis_harness.replica import PATIENT, Replica, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.clients.redis_slots import companion_key
from runner.model import Partition
from runner.sources.redis_read_scripts import CHARGE, IDENTIFY, READ

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]


async def test_a_read_that_arrives_late_hands_nothing_to_nobody(
    redis_server: RedisServer, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(redis_server.flavour)
    stream, group = new_stream(), new_stream()
    async with Proxy(server.port) as proxy, connect(server.url) as client:
        added = await fill(client, stream, 3)
        replica = a_replica(proxy.url, [stream], group, lease=PATIENT["lease"])
        async with replica.running():
            await until(lambda: places(replica) == added, what="what is there is read")
            await pause_while_they_wait(client, stream, replica)
            added += await fill(client, stream, 1)
            await raw(client, "CONFIG", "SET", "maxmemory", "100kb")  # what is done about it must work on a full server
            swallowed = proxy.swallow(calls(READ, b">"))
            replica.source.resume(Partition(stream, 0))
            command = await swallowed
            await until(lambda: places(replica) == added, what="it is read again")
            await raw(client, "CONFIG", "SET", "maxmemory", "0")
            await pause_while_they_wait(client, stream, replica)
            added += await fill(client, stream, 5)
            assert b"$4\r\nlate\r\n" in await arrives_late(command, server)
            replica.source.resume(Partition(stream, 0))
            await until(lambda: places(replica) == added, what="everything is read, once")
            added += await fill(client, stream, 2)
            await until(lambda: places(replica) == added, what="it is read on")
        assert len({generation for *_, generation in replica.seen}) == 1
        added += await fill(client, stream, 2)
        await the_next_owner_reads_on(server, stream, group, added[-2:])


async def the_next_owner_reads_on(server: RedisServer, stream: str, group: str, left: list[tuple[str, str]]) -> None:
    replica = a_replica(server.url, [stream], group, **PATIENT)
    async with replica.running():
        await until(lambda: places(replica) == left, what="the next owner reads what is left")
    assert replica.problems == []
    assert replica.lost_streams == []


async def test_attempts_that_arrive_late_do_not_replace_newer_ones(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    async with Proxy(redis_server.port) as proxy, connect(redis_server.url) as client:
        added = await fill(client, stream, 1)
        tried = added[0][1]
        replica = a_replica(proxy.url, [stream], group, lease=PATIENT["lease"])
        replica.settles = False
        async with replica.running():
            await until(lambda: places(replica) == added, what="it is read")
            swallowed = proxy.swallow(calls(CHARGE))
            replica.source.attempted(partition, {tried: 1})
            command = await swallowed
            replica.source.attempted(partition, {tried: 2})
            await until_async(lambda: has_attempts(client, stream, group, [2]), what="the second is written")
            assert b"$4\r\nlate\r\n" in await arrives_late(command, redis_server)
            assert await has_attempts(client, stream, group, [2])


async def has_attempts(client: Redis, stream: str, group: str, expected: list[int]) -> bool:
    return [each.deliveries // 1_000 for each in await pending(client, stream, group)] == expected


async def test_a_checkpoint_that_arrives_late_does_not_replace_a_newer_one(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    lease_key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
    async with Proxy(redis_server.port) as proxy, connect(redis_server.url) as client:
        added = await fill(client, stream, 3)
        replica = a_replica(proxy.url, [stream], group, lease=PATIENT["lease"])
        replica.settles = False
        async with replica.running():
            await until(lambda: places(replica) == added, what="it is read")
            older, newer = added[1][1], added[2][1]
            swallowed = proxy.swallow(calls(READ, older.encode(), b""))
            given_up = asyncio.create_task(checkpoint_of(replica, stream, older))
            command = await swallowed
            given_up.cancel()
            await asyncio.wait([given_up])
            await checkpoint_of(replica, stream, newer)
            assert b"$4\r\nlate\r\n" in await arrives_late(command, redis_server)
            assert await raw(client, "HGET", lease_key, "checkpoint") == newer.encode()


async def checkpoint_of(replica: Replica, stream: str, position: str) -> None:
    await replica.source.checkpoint({Partition(stream, 0): position})


async def test_a_reader_that_identifies_itself_late_is_not_heard(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    lease_key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 1)
        replica = a_replica(redis_server.url, [stream], group, **PATIENT)
        async with replica.running():
            await until(lambda: places(replica) == added, what="it is read")
            owner, generation, reader = await raw(client, "HMGET", lease_key, "owner", "generation", "reader")
            assert reader == b"0"
            for number, kept in ((12, b"12"), (9, b"12")):
                answer = await raw(client, "EVAL", IDENTIFY.source, 2, lease_key, stream, owner, generation, number)
                assert answer[0] == b"ok"
                assert await raw(client, "HGET", lease_key, "reader") == kept
