"""A server's clock that goes back, as after a failover to a host with another one, keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import clock_ms, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.replica import LEASE, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis_slots import companion_key
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
    owner, other = [a_replica(redis_server.url, [stream], group) for _ in range(2)]
    key = lease_key(stream, group)
    async with owner.running():
        await until(lambda: places(owner) == added, what="it is read")
        async with other.running():
            ahead = await clock_ms(client) + HOUR_MS
            await client.hset(key, "expires_at", str(ahead))
            await anyio.sleep(2 * LEASE.duration)
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
