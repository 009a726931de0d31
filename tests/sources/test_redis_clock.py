"""A server's clock that goes back, as after a failover to a host with another one, keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import clock_ms, raw
from redis_harness.clocks import set_ahead
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.replica import LEASE, LONGER, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.clients.redis_slots import companion_key
from runner.model import Partition
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_streams import _registry

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]

HOUR_MS = 3_600_000


def lease_key(stream: str, group: str) -> bytes:
    return companion_key(stream.encode(), b":stream-runner:" + group.encode())


async def lend(client: Redis, key: bytes, owner: str, expires_at: int, lasts: int | None) -> None:
    """Let ``owner`` have a lease until ``expires_at``, which is its generation as well."""
    said: list[str | int] = [] if lasts is None else ["lasts", lasts]
    await raw(client, "HSET", key, "owner", owner, "generation", expires_at, "expires_at", expires_at, *said)


async def end_of(client: Redis, key: bytes) -> int:
    return int(await raw(client, "HGET", key, "expires_at"))


@ON_EVERY_FLAVOUR
@pytest.mark.parametrize("says_how_long", [True, False])
async def test_what_a_dead_owner_had_is_taken_after_a_lease(
    says_how_long: bool, redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 3)
    ahead = await clock_ms(client) + HOUR_MS
    await lend(client, lease_key(stream, group), "dead", ahead, lasts=2_000 if says_how_long else None)
    replica = a_replica(redis_server.url, [stream], group)
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is taken")
        assert {generation for *_, generation in replica.seen} == {ahead + 1}


@ON_EVERY_FLAVOUR
async def test_who_shares_a_stream_does_not_wait_longer_for_one_who_read_it_in_order(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 3)
    ahead = await clock_ms(client) + HOUR_MS
    await lend(client, lease_key(stream, group), "dead", ahead, lasts=2_000)
    replica = a_replica(redis_server.url, [stream], group, SharedStreamsSource)
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is read")


@ON_EVERY_FLAVOUR
async def test_a_live_owner_keeps_what_it_has(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 3)
    owner, other = [a_replica(redis_server.url, [stream], group, lease=LONGER) for _ in range(2)]
    key = lease_key(stream, group)
    async with owner.running():
        await until(lambda: places(owner) == added, what="it is read")
        async with other.running():
            ahead = await clock_ms(client) + HOUR_MS
            await client.hset(key, "expires_at", str(ahead))
            await anyio.sleep(2 * LONGER.duration)
            assert await end_of(client, key) < ahead
            added += await fill(client, stream, 3)
            await until(lambda: places(owner) == added, what="it is read on")
            assert (owner.lost_streams, other.seen) == ([], [])


@ON_EVERY_FLAVOUR
async def test_who_has_a_shorter_lease_does_not_cut_short_a_longer_one(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    await fill(client, stream, 3)
    expires_at = await clock_ms(client) + 50_000
    await lend(client, lease_key(stream, group), "slow", expires_at, lasts=60_000)
    replica = a_replica(redis_server.url, [stream], group)
    async with replica.running():
        await anyio.sleep(2 * LEASE.duration)
        assert replica.owned == set()
    assert await end_of(client, lease_key(stream, group)) == expires_at


@ON_EVERY_FLAVOUR
async def test_a_dead_member_is_forgotten_after_a_lease(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    streams, group = [new_stream(), new_stream()], new_stream()
    for stream in streams:
        await fill(client, stream, 1)
    replica = a_replica(redis_server.url, streams, group)
    registry = _registry(replica.ordered._settings)
    await client.hset(registry, "dead", str(await clock_ms(client) + HOUR_MS))

    async def is_alone() -> bool:
        return await client.hkeys(registry) == [replica.ordered._owner]

    async with replica.running():
        await until_async(is_alone, what="the other is gone from the registry")
        await until(lambda: replica.owned == set(streams), what="its share is taken")


@ON_EVERY_FLAVOUR
async def test_what_a_dead_consumer_had_is_taken_over_after_a_lease(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 6)
    await raw(client, "XGROUP", "CREATE", stream, group, 0)
    await raw(client, "XREADGROUP", "GROUP", group, "stream-runner:dead", "COUNT", 5, "STREAMS", stream, ">")
    await raw(client, "XREADGROUP", "GROUP", group, "stream-runner", "COUNT", 1, "STREAMS", stream, ">")
    await raw(client, "XTRIM", stream, "MAXLEN", 4)
    await set_ahead(client, stream, HOUR_MS)
    replica = a_replica(redis_server.url, [stream], group, SharedStreamsSource)
    async with replica.running():
        await until(lambda: sorted(places(replica)) == added[2:], what="they are taken over")
        await until(lambda: sum(count or 0 for _, count in replica.losses) == 2, what="what was trimmed is told")


@ON_EVERY_FLAVOUR
async def test_live_consumers_keep_what_they_have_and_find_what_they_do_not_know_of(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    added = await fill(client, stream, 50)
    one, other = [a_replica(redis_server.url, [stream], group, SharedStreamsSource, lease=LONGER) for _ in range(2)]
    one.settles = other.settles = False
    async with one.running():
        await until(lambda: places(one) == added, what="it is read")
        async with other.running():
            await until(lambda: other.owned == {stream}, what="another reads it, too")
            await pause_while_they_wait(client, stream, one, other)
            added += await fill(client, stream, 1)
            # As of a read that it has given up on.
            await raw(client, "XREADGROUP", "GROUP", group, one.source._consumer, "STREAMS", stream, ">")
            await set_ahead(client, stream, HOUR_MS)
            for replica in (one, other):
                replica.source.resume(partition)
            await until(lambda: places(one) == added, what="it finds what is its own")
            await anyio.sleep(2 * LONGER.duration)
            assert (other.seen, one.lost_streams, other.lost_streams) == ([], [], [])
