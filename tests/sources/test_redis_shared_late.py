"""What a consumer of a shared stream has given up on changes nothing when it reaches the server after all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import clock_ms, connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.late import arrives_late, calls
from redis_harness.proxy import Proxy
from redis_harness.replica import Replica, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection, Script
from runner.clients.redis_url import parse_redis_url
from runner.core.lease import LeaseTimes
from runner.model import Partition
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_shared_scripts import FORGET_MS, IDENTIFY_SHARED, READ_SHARED
from runner.sources.redis_shared_takeover_scripts import HAND_BACK, LET_GO, TAKE_OVER

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR, pytest.mark.timeout(60)]

RECOVERY = 10.0
"""Seconds within which everything goes on after a fault has healed."""

LONG = LeaseTimes(60.0, 15.0)  # nothing is looked for meanwhile

a_sharer = partial(a_replica, kind=SharedStreamsSource)
NewStream = Callable[[], str]


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with connect(redis_server.url) as connected:
        yield connected


async def owners(client: Redis, stream: str, group: str) -> dict[str, bytes]:
    return {each.id.decode(): each.consumer for each in await pending(client, stream, group)}


async def nothing_pending(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


def told(*replicas: Replica) -> int:
    """How many entries were told to be lost."""
    return sum(count or 0 for replica in replicas for _, count in replica.losses)


async def test_an_acknowledgement_of_an_assignment_that_is_over_takes_nothing_from_another(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    [(_, first)] = await fill(client, stream, 1)
    async with Proxy(redis_server.port) as proxy:
        slow, other = a_sharer(proxy.url, [stream], group), a_sharer(redis_server.url, [stream], group)
        slow.settles = other.settles = False
        async with slow.running():
            await until(lambda: len(slow.seen) == 1, what="the first is read")
            swallowed = proxy.swallow(calls(READ_SHARED, first.encode()))
            slow.settles = True
            command = await swallowed
            slow.settles = False
            proxy.stall()
            async with other.running():
                await until(lambda: len(other.seen) == 1, what="another takes the first over")
                await until(lambda: slow.lost_streams == [stream], what="it is lost")
                await pause_while_they_wait(client, stream, other)
                [(_, second)] = await fill(client, stream, 1)
                await proxy.resume()
                await until(lambda: places(slow)[1:] == [(stream, second)], what="the next assignment has as many")
                before = await owners(client, stream, group)
                assert len(set(before.values())) == 2
                assert b"$4\r\nlate\r\n" in await arrives_late(command, redis_server)
                assert await owners(client, stream, group) == before
                slow.settles = other.settles = True


async def test_who_closes_while_a_read_is_cut_off_takes_nothing_from_another(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    added = await fill(client, stream, 10)
    stolen = added[4][1]
    async with Proxy(redis_server.port) as proxy:
        replica = a_sharer(proxy.url, [stream], group, lease=LONG, command_timeout=30.0)
        replica.settles = False
        async with replica.running():
            await until(lambda: places(replica) == added, what="everything is read")
            await pause_while_they_wait(client, stream, replica)
            [(_, more)] = await fill(client, stream, 1)
            swallowed = proxy.swallow(calls(READ_SHARED, b">"))
            replica.source.resume(partition)
            command = await swallowed
            await raw(client, "XCLAIM", stream, group, "thief", 0, stolen, "JUSTID")
            assert b"$2\r\nok\r\n" in await arrives_late(command, redis_server)
            owned = list((await owners(client, stream, group)).values())
            assert owned.count(b"thief") == 1, "there are as many of its own as it knows of"
            replica.source.settled(partition, replica.unsettled(partition))
    assert await owners(client, stream, group) == {stolen: b"thief", more: b"stream-runner"}


async def test_an_acknowledgement_that_was_cut_off_is_followed_by_none_that_comes_late(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    [(_, first)] = await fill(client, stream, 1)
    async with Proxy(redis_server.port) as proxy:
        replica = a_sharer(proxy.url, [stream], group, lease=LONG)
        replica.settles = False
        async with replica.running():
            await until(lambda: len(replica.seen) == 1, what="it is read")
            swallowed = proxy.swallow(calls(READ_SHARED, first.encode()))
            replica.source.pause(partition)
            replica.settles = True
            command = await swallowed
            proxy.stall()  # what is tried again must not be faster than the thief
            await raw(client, "XCLAIM", stream, group, "thief", 0, first, "JUSTID")
            await proxy.resume()
            await until(lambda: replica.taken_from == 1, what="it tries again, and hears that it was late")
            replica.settles = False
            replica.source.resume(partition)
            [(_, second)] = await fill(client, stream, 1)
            await until(lambda: len(replica.seen) == 2, what="it has as many as before")
            assert b"$4\r\nlate\r\n" in await arrives_late(command, redis_server)
            assert (await owners(client, stream, group))[first] == b"thief"
            assert second in await owners(client, stream, group)
    assert replica.lost_streams == []


async def test_turns_are_forgotten_when_nothing_can_be_on_its_way(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    lease, stream = new_stream(), new_stream()
    old = await clock_ms(client) - FORGET_MS - 1
    own = RedisClient(RedisConnection(url=parse_redis_url(redis_server.url), client_name="test"))

    async def identify(consumer: str, turn: int) -> object:
        arguments = (f"stream-runner:{consumer}", "g", turn)
        return await own.run(IDENTIFY_SHARED, [lease.encode(), stream.encode()], arguments, timeout=5.0)

    await raw(client, "HSET", lease, "checkpoint", "1-1", "stream-runner:dead", f"7 {old}")
    assert await identify("one", 2) == [b"ok"]
    assert await identify("two", 1) == [b"ok"]
    assert await identify("one", 1) == [b"late"]
    kept = await raw(client, "HGETALL", lease)
    found = dict(zip(kept[::2], kept[1::2], strict=True))
    assert found.pop(b"checkpoint") == b"1-1"
    assert {name: value.split()[0] for name, value in found.items()} == {
        b"stream-runner:one": b"2",
        b"stream-runner:two": b"1",
    }
    await own.close()


async def test_what_is_ours_is_looked_for_from_the_beginning_after_each_failure(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 1_100)

    def looks_from(start: bytes) -> Callable[[bytes], bool]:
        return lambda data: b"XPENDING" in data and b"\r\n" + start in data

    async with Proxy(redis_server.port) as proxy:
        replica = a_sharer(proxy.url, [stream], group, lease=LONG)
        replica.settles = False
        async with replica.running():
            await until(lambda: len(replica.seen) == len(added), what="everything is read")
            second_page = proxy.swallow(looks_from(b"("))
            await proxy.drop_connections()
            with anyio.fail_after(RECOVERY):
                await second_page
                await proxy.swallow(looks_from(b"-\r\n"))
    assert replica.lost_streams == []


@pytest.mark.parametrize("lost", [TAKE_OVER, LET_GO])
async def test_what_was_deleted_is_told_when_the_reply_about_it_is_lost(
    lost: Script, redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    await fill(client, stream, 10)
    await raw(client, "XGROUP", "CREATE", stream, group, "0")
    await raw(client, "XREADGROUP", "GROUP", group, "stream-runner:killed", "STREAMS", stream, ">")
    await raw(client, "XTRIM", stream, "MAXLEN", 0)
    async with Proxy(redis_server.port) as proxy:
        replica = a_sharer(proxy.url, [stream], group)
        await raw(client, "SCRIPT", "LOAD", lost.source)
        swallowed = proxy.swallow(calls(lost))
        async with replica.running():
            with anyio.fail_after(RECOVERY):
                assert b"$2\r\nok\r\n" in await arrives_late(await swallowed, redis_server)
            await proxy.drop_connections()
            await until(lambda: told(replica) >= 10, what="it is told")
            await until_async(partial(nothing_pending, client, stream, group), what="nothing is left")
    assert told(replica) == 10


async def test_what_was_deleted_is_told_when_the_reply_to_handing_it_back_is_lost(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 10)
    async with Proxy(redis_server.port) as proxy:
        one, other = a_sharer(proxy.url, [stream], group, lease=LONG), a_sharer(redis_server.url, [stream], group)
        one.settles = False
        async with anyio.create_task_group() as tasks, one.running():
            await until(lambda: places(one) == added, what="all is read")
            await raw(client, "XTRIM", stream, "MAXLEN", 0)
            await raw(client, "SCRIPT", "LOAD", HAND_BACK.source)
            swallowed = proxy.swallow(calls(HAND_BACK))

            async def loses_the_reply() -> None:
                assert b"$2\r\nok\r\n" in await arrives_late(await swallowed, redis_server)
                await proxy.drop_connections()

            tasks.start_soon(loses_the_reply)
        async with other.running():
            await until(lambda: told(one, other) >= 10, what="it is told")
            await until_async(partial(nothing_pending, client, stream, group), what="nothing is left")
    assert told(one, other) == 10
