"""Consumers that share a stream go on by themselves, whatever happens to the server, and lose nothing that it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.naming import NewStream
from kafka_harness.waiting import until, until_async
from redis_harness.client import add, connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import RedisOptions
from redis_harness.replica import PATIENT, Replica, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_entries import following_id
from runner.clients.redis_slots import companion_key
from runner.clients.redis_url import parse_redis_url
from runner.clients.redis_wire import Reply
from runner.core.lease import LeaseTimes
from runner.sources.redis_scripts import ATTEMPT
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_shared_scripts import READ_SHARED
from runner.sources.redis_shared_takeover_scripts import HAND_BACK, SCAN

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

RECOVERY = 10.0
"""Seconds within which everything goes on after a fault has healed."""

a_sharer = partial(a_replica, kind=SharedStreamsSource)
Fault = Callable[[Redis, str, str], Awaitable[None]]


async def nothing_pending(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


async def is_kept(client: Redis, stream: str, group: str, wanted: list[str]) -> bool:
    """Whether just these are pending, and the group would be made again at the first of them."""
    lease_key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
    ids = [each.id.decode() for each in await pending(client, stream, group)]
    return ids == wanted and await raw(client, "HGET", lease_key, "checkpoint") == wanted[0].encode()


async def _flush(client: Redis, stream: str, group: str) -> None:
    await client.flushall()


async def _delete(client: Redis, stream: str, group: str) -> None:
    await client.delete(stream)


async def _destroy_group(client: Redis, stream: str, group: str) -> None:
    await raw(client, "XGROUP", "DESTROY", stream, group)


async def _flush_scripts(client: Redis, stream: str, group: str) -> None:
    await raw(client, "SCRIPT", "FLUSH")


async def _kill_connections(client: Redis, stream: str, group: str) -> None:
    await raw(client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def all_places(*replicas: Replica) -> list[tuple[str, str]]:
    return [place for replica in replicas for place in places(replica)]


@ON_EVERY_FLAVOUR
@pytest.mark.parametrize("fault", [_flush, _delete, _destroy_group, _flush_scripts, _kill_connections])
async def test_they_go_on_by_themselves_after(
    fault: Fault, redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    before = await fill(client, stream, 50)
    one, two = [a_sharer(redis_server.url, [stream], group, **PATIENT) for _ in range(2)]
    async with one.running(), two.running():
        await until(lambda: sorted(all_places(one, two)) == sorted(before), what="everything is read")
        await until_async(partial(nothing_pending, client, stream, group), what="everything is acknowledged")
        await fault(client, stream, group)
        after = await fill(client, stream, 50)
        await until(lambda: set(after) <= set(all_places(one, two)), what="what came since is read", timeout=RECOVERY)
        await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged", timeout=RECOVERY)
        for replica in (one, two):
            await until(lambda: replica.problems[-1:] in ([], [None]), what="nothing is wrong")  # noqa: B023
    assert one.losses == two.losses == []
    if fault in (_flush_scripts, _kill_connections):
        assert sorted(all_places(one, two)) == sorted(before + after), "each once"


@ON_EVERY_FLAVOUR
async def test_a_group_that_went_is_made_again_where_somebody_still_worked(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    slow, quick = [a_sharer(redis_server.url, [stream], group, **PATIENT) for _ in range(2)]
    slow.settles = False
    async with slow.running():
        first = await fill(client, stream, 10)
        await until(lambda: places(slow) == first, what="some are in work")
        await pause_while_they_wait(client, stream, slow)
        async with quick.running():
            rest = await fill(client, stream, 50)
            await until(lambda: len(quick.seen) == 50, what="later ones are done")
            in_work = [entry_id for _, entry_id in first]
            await until_async(partial(is_kept, client, stream, group, in_work), what="they are acknowledged")
            await raw(client, "XGROUP", "DESTROY", stream, group)
            await until(lambda: slow.lost_streams == [stream], what="what was in work does not count", timeout=RECOVERY)
            slow.settles = True
            wanted = set(first)
            await until(
                lambda: wanted <= set(places(slow)[10:] + places(quick)), what="it comes again", timeout=RECOVERY
            )
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert set(first + rest) == set(all_places(slow, quick))


@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("aof", ["always", None])
@pytest.mark.parametrize("flavour", list(Flavour))
async def test_they_go_on_after_a_restart_of_the_server(
    flavour: Flavour, aof: str | None, kill: bool, new_redis: NewRedis, new_stream: NewStream
) -> None:
    server = new_redis(flavour, RedisOptions(aof="always" if aof else None))
    stream, group = new_stream(), new_stream()
    one, two = [a_sharer(server.url, [stream], group, **PATIENT) for _ in range(2)]
    async with connect(server.url) as client:
        before = await fill(client, stream, 50)
        async with one.running(), two.running():
            await until(lambda: sorted(all_places(one, two)) == sorted(before), what="everything is read")
            await until_async(partial(nothing_pending, client, stream, group), what="everything is acknowledged")
            if kill:
                server.kill()
            else:
                await server.shut_down(10)
            await server.restart()
            await client.connection_pool.disconnect()
            after = await fill(client, stream, 50)
            await until(lambda: set(after) <= set(all_places(one, two)), what="they read on", timeout=RECOVERY)
            await until_async(
                partial(nothing_pending, client, stream, group), what="all is acknowledged", timeout=RECOVERY
            )
    if aof:
        assert sorted(all_places(one, two)) == sorted(before + after), "nothing comes again"


@ON_EVERY_FLAVOUR
async def test_a_full_server_is_read_on(redis_server: RedisServer, new_redis: NewRedis, new_stream: NewStream) -> None:
    server = new_redis(redis_server.flavour)
    stream, other_stream, group = new_stream(), new_stream(), new_stream()
    lease = LeaseTimes(4.0, 0.4)
    one, two = [a_sharer(server.url, [stream], group, lease=lease) for _ in range(2)]
    two.settles = False
    async with connect(server.url) as client:
        added = await fill(client, stream, 50)
        async with one.running():
            await until(lambda: len(one.seen) == 50, what="everything is read")
            added += await fill(client, stream, 500)
            await raw(client, "CONFIG", "SET", "maxmemory", "100kb")
            with pytest.raises(Exception, match="maxmemory"):
                await add(client, other_stream, [(b"v", b"x")])
            await until(lambda: len(one.seen) == 550, what="the backlog is read")
            await until_async(partial(nothing_pending, client, stream, group), what="and acknowledged")
            one.settles = False
            await raw(client, "CONFIG", "SET", "maxmemory", "0")
            added += await fill(client, stream, 20)
            await until(lambda: len(one.seen) == 570, what="more are in work")
            await raw(client, "CONFIG", "SET", "maxmemory", "100kb")
            await anyio.sleep(2 * lease.duration)  # they are kept all the while
            assert one.lost_streams == []
        two.settles = True
        async with two.running():
            await until(lambda: len(two.seen) == 20, what="what was handed back is read")
            await until_async(partial(nothing_pending, client, stream, group), what="and acknowledged")
        await raw(client, "CONFIG", "SET", "maxmemory", "0")
    assert places(one) == added
    assert sorted(places(two)) == sorted(added[550:])


@pytest.mark.parametrize("held", [0, 20])
@ON_EVERY_FLAVOUR
async def test_a_server_that_refuses_writes_is_a_problem_until_it_takes_them(
    held: int, redis_server: RedisServer, new_redis: NewRedis, new_stream: NewStream
) -> None:
    server = new_redis(redis_server.flavour)
    stream, group = new_stream(), new_stream()
    replica = a_sharer(server.url, [stream], group)
    async with connect(server.url) as client:
        added = await fill(client, stream, 20)
        async with replica.running():
            await until(lambda: places(replica) == added, what="everything is read")
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
            replica.settles = False
            added += await fill(client, stream, held)
            await until(lambda: places(replica) == added, what="some are in work")
            await client.config_set("min-replicas-to-write", "1")
            await until(lambda: replica.lost_streams.count(stream) >= 2, what="it has begun anew, twice")
            told = [problem for problem in replica.problems if problem is None or "NOREPLICAS" not in problem.text]
            assert (told, len(replica.problems) > 0) == ([], True)
            await client.config_set("min-replicas-to-write", "0")
            await until(lambda: replica.problems[-1] is None, what="it goes on", timeout=RECOVERY)
            replica.settles = True
            added += await fill(client, stream, 1)
            await until(lambda: set(places(replica)) == set(added), what="all is read", timeout=RECOVERY)


async def consumers(client: Redis, stream: str, group: str) -> set[str]:
    shown = await raw(client, "XINFO", "CONSUMERS", stream, group)
    return {each[each.index(b"name") + 1].decode() for each in shown}


@pytest.fixture
async def own_client(redis_server: RedisServer) -> AsyncIterator[RedisClient]:
    made = RedisClient(RedisConnection(url=parse_redis_url(redis_server.url), client_name="test"))
    try:
        yield made
    finally:
        await made.close()


@ON_EVERY_FLAVOUR
@pytest.mark.parametrize(
    "last",
    [
        "0-1",
        "5-9",
        "7-9007199254740993",
        "7-18446744073709551614",
        "1-18446744073709551615",
        "1999-18446744073709551615",
        "9007199254740993-18446744073709551615",
        "18446744073709551614-199",
    ],
)
async def test_the_checkpoint_is_exact(
    last: str, redis_server: RedisServer, client: Redis, own_client: RedisClient, new_stream: NewStream
) -> None:
    stream, lease = new_stream().encode(), new_stream().encode()
    await add(client, stream, [(b"v", b"x")], entry_id=last)
    await raw(client, "XGROUP", "CREATE", stream, "g", "0")
    arguments = (b"c", b"g", 0, b"1", b">", 1, b"0-0", b"", b"")
    reply = await own_client.run(READ_SHARED, [lease, stream], arguments, timeout=5.0)
    assert isinstance(reply, list)
    assert reply[3] == b"0-1", "nothing was read before"
    reply = await own_client.run(READ_SHARED, [lease, stream], arguments, timeout=5.0)
    assert isinstance(reply, list)
    assert reply[3] == last.encode(), "the lowest that is pending"
    acknowledge = (b"c", b"g", 0, b"1", b"", 0, b"0-0", b"", b"", last)
    reply = await own_client.run(READ_SHARED, [lease, stream], acknowledge, timeout=5.0)
    assert reply == [b"ok", [], [], following_id(last).encode()]
    assert await raw(client, "HGET", lease, "checkpoint") == following_id(last).encode()


@ON_EVERY_FLAVOUR
async def test_only_silent_consumers_of_ours_without_entries_are_deleted(
    redis_server: RedisServer, client: Redis, own_client: RedisClient, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 2)
    await raw(client, "XGROUP", "CREATE", stream, group, "0")
    for consumer in ("stream-runner:me", "stream-runner:silent", "stream-runner", "by hand"):
        await raw(client, "XGROUP", "CREATECONSUMER", stream, group, consumer)
    await raw(client, "XREADGROUP", "GROUP", group, "stream-runner:killed", "COUNT", 1, "STREAMS", stream, ">")

    async def scan(forget_ms: int) -> set[str]:
        names = (b"stream-runner", b"stream-runner:")
        arguments = (b"stream-runner:me", group, 0, "-", b"", "-", 10, *names, forget_ms, b"")
        reply = await own_client.run(SCAN, [b"lease", stream.encode()], arguments, timeout=5.0)
        assert isinstance(reply, list)
        assert reply[4] == [added[0][1].encode()]
        return await consumers(client, stream, group)

    everybody = {"stream-runner:me", "stream-runner:silent", "stream-runner", "by hand", "stream-runner:killed"}
    assert await scan(3_600_000) == everybody
    assert await scan(0) == everybody - {"stream-runner:silent"}
    assert len(await pending(client, stream, group)) == 1


@ON_EVERY_FLAVOUR
async def test_consumers_that_a_full_server_does_not_delete_hold_up_nothing(
    redis_server: RedisServer, new_redis: NewRedis, new_stream: NewStream
) -> None:
    server = new_redis(redis_server.flavour)
    stream, group, us = new_stream(), new_stream(), b"stream-runner:me"
    keys = [b"lease", stream.encode()]
    own_client = RedisClient(RedisConnection(url=parse_redis_url(server.url), client_name="test"))

    async def scan(client: Redis) -> tuple[Reply, set[str]]:
        arguments = (us, group, 1_000, "-", b"", "-", 10, b"stream-runner", b"stream-runner:", 0, b"")
        reply = await own_client.run(SCAN, keys, arguments, timeout=5.0)
        assert isinstance(reply, list)
        return reply[4], await consumers(client, stream, group)

    async with connect(server.url) as client:
        [(_, added)] = await fill(client, stream, 1)
        await raw(client, "XGROUP", "CREATE", stream, group, "0")
        await raw(client, "XREADGROUP", "GROUP", group, "by hand", "STREAMS", stream, ">")
        await raw(client, "XCLAIM", stream, group, "by hand", 0, added, "IDLE", 9_999_999, "JUSTID")
        for consumer in (us, b"stream-runner:silent"):
            await raw(client, "XGROUP", "CREATECONSUMER", stream, group, consumer)
        await raw(client, "CONFIG", "SET", "maxmemory", "100kb")
        found, _ = await scan(client)
        assert found == [added.encode()]
        arguments = (us, group, b"stream-runner", 3_600_000, ATTEMPT)
        assert await own_client.run(HAND_BACK, keys, arguments, timeout=5.0) == [b"ok", [], b"1"]
        await raw(client, "CONFIG", "SET", "maxmemory", "0")
        found, left = await scan(client)
        assert (found, "stream-runner:silent" in left) == ([added.encode()], False)
    await own_client.close()
