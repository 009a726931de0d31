"""A node of a cluster that falls silent is the trouble of its own streams only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import anyio
import pytest
from redis.asyncio import RedisCluster

from kafka_harness.waiting import until
from redis_harness.client import connect, connect_cluster, raw
from redis_harness.cluster import RedisCluster as Nodes
from redis_harness.fixtures import NewRedis, NewRedisCluster, NewSentinel
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.proxy import Proxy
from redis_harness.replica import LEASE, PATIENT, Replica, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.sources.redis_streams import _registry

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

COMMAND_TIMEOUT = 8.0
"""What waits for a silent node waits much longer than a busy machine needs for the others."""


async def group_whose_registry_is_at(
    cluster: Nodes, node: RedisServer, streams: list[str], name: Callable[[], str]
) -> str:
    while True:
        group = name()
        settings = a_replica(cluster.cluster_url, streams, group).source._settings
        if await cluster.owner_of(await cluster.slot_of(_registry(settings))) is node:
            return group


async def test_the_others_streams_go_on(new_redis_cluster: NewRedisCluster, new_stream: Callable[[], str]) -> None:
    cluster = await new_redis_cluster(node_timeout_ms=60_000)  # nobody but us notices
    silent, other = cluster.nodes[:2]
    gone = await cluster.names_at(silent, new_stream, 3)
    there = await cluster.names_at(other, new_stream, 3)
    group = await group_whose_registry_is_at(cluster, silent, gone + there, new_stream)
    one, two = [a_replica(cluster.cluster_url, gone + there, group, command_timeout=COMMAND_TIMEOUT) for _ in range(2)]
    async with connect_cluster(cluster.nodes[2].url) as client:
        for stream in gone + there:
            await fill(client, stream, 5)
        async with one.running():
            await until(lambda: len(one.seen) == 30, what="all is read")
            silent.pause()
            try:
                await until(lambda: one.owned == set(there), what="what cannot be renewed is given up")
                assert sorted(one.lost_streams) == sorted(gone)
                await _goes_on(one, client, there, 10)
                async with two.running():
                    await until(lambda: bool(two.problems), what="what cannot be reached is told")
                    assert two.source.joined
                    await _goes_on(one, client, there, 15)
                assert one.revoked_streams == []
            finally:
                silent.resume()
            await until(lambda: one.owned == {*gone, *there}, what="it is taken again")
            await until(lambda: one.problems[-1] is None, what="nothing is wrong any more")
            assert sorted(one.lost_streams) == sorted(gone)
            await _goes_on(one, client, gone, 10)


async def _goes_on(replica: Replica, client: RedisCluster, streams: list[str], total: int) -> None:
    """For longer than a lease, and at once."""
    await anyio.sleep(2 * LEASE.duration)
    began = time.monotonic()
    for stream in streams:
        await fill(client, stream, 5)
    expected = total * len(streams)
    await until(lambda: len({each for each in places(replica) if each[0] in streams}) == expected, what="it is read")
    assert time.monotonic() - began < COMMAND_TIMEOUT / 2


async def test_two_silent_nodes_cost_the_others_no_lease(
    new_redis_cluster: NewRedisCluster, new_stream: Callable[[], str]
) -> None:
    cluster = await new_redis_cluster(nodes=4, node_timeout_ms=60_000)
    *silent, other = cluster.nodes[:3]
    gone = [name for node in silent for name in await cluster.names_at(node, new_stream, 2)]
    there = await cluster.names_at(other, new_stream, 4)
    group = await group_whose_registry_is_at(cluster, other, gone + there, new_stream)
    one = a_replica(cluster.cluster_url, gone + there, group, command_timeout=COMMAND_TIMEOUT)
    async with connect_cluster(cluster.url) as client:
        for stream in gone + there:
            await fill(client, stream, 1)
    async with one.running():
        await until(lambda: len(one.seen) == len(gone + there), what="all is read")
        for node in silent:
            node.pause()
        await until(lambda: one.owned == set(there), what="what cannot be renewed is given up")
        await anyio.sleep(2 * LEASE.duration)
        assert one.owned == set(there)
        assert sorted(one.lost_streams) == sorted(gone)
        for node in silent:
            node.resume()
        await until(lambda: one.owned == {*gone, *there}, what="it is taken again", timeout=10)


async def test_a_master_falls_silent_together_with_the_sentinel_that_is_asked_first(
    new_sentinel: NewSentinel, new_stream: Callable[[], str]
) -> None:
    watched, stream = await new_sentinel(), new_stream()
    port = watched.sentinels[0].port
    async with Proxy(port) as first, Proxy(port) as second:
        url = f"redis+sentinel://{first.address},{second.address}/{watched.service}"
        replica = a_replica(url, [stream], new_stream())
        async with connect((await watched.master()).url) as client:
            await fill(client, stream, 1)
        async with replica.running():
            await until(lambda: len(replica.seen) == 1, what="it reads")
            first.stall()
            promoted = await watched.failover(freeze=True)
            async with connect(promoted.url) as client:
                added = await fill(client, stream, 1)
            await until(lambda: set(added) <= set(places(replica)), what="it reads on", timeout=10)


async def test_commands_for_a_silent_node_hold_up_no_others(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(node_timeout_ms=60_000)
    silent, other = cluster.nodes[:2]
    numbers = iter(range(1_000))
    gone, there = [(await cluster.names_at(each, lambda: f"k{next(numbers)}", 1))[0] for each in (silent, other)]
    client = RedisClient(RedisConnection(url=parse_redis_url(cluster.cluster_url), client_name="test"), connections=2)
    await client.execute("PING", key=gone.encode(), timeout=5)
    silent.pause()
    try:
        waiting = [asyncio.create_task(client.execute("PING", key=gone.encode(), timeout=50)) for _ in range(5)]
        await asyncio.sleep(0)
        for _ in range(5):
            assert await client.execute("PING", key=there.encode(), timeout=8) == b"PONG"
    finally:
        silent.resume()
    assert await asyncio.gather(*waiting) == [b"PONG"] * 5
    await client.close()


@pytest.mark.parametrize("flavour", list(Flavour))
async def test_a_server_that_evicts_is_warned_about_once(
    flavour: Flavour, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(flavour, RedisOptions(maxmemory_policy="allkeys-lru"))
    streams, group = [new_stream(), new_stream()], new_stream()
    replica = a_replica(server.url, streams, group, **PATIENT)
    async with replica.running():
        await until(lambda: replica.warnings, what="it is told")
        async with connect(server.url) as client:
            await raw(client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await anyio.sleep(LEASE.duration)
    (text,) = replica.warnings
    assert f"{server.address}: maxmemory-policy is allkeys-lru: a full server evicts leases, streams and groups" in text
    assert "set maxmemory-policy noeviction" in text


async def test_a_server_that_keeps_everything_is_not_warned_about(
    new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    users = (AclUser("runner", "secret", "+@all -info ~*"),)
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(users=users))
    stream = new_stream()
    replica = a_replica(server.url, [stream], stream, **PATIENT)
    url = parse_redis_url(f"redis://{server.address}")
    connection = RedisConnection(url=url, client_name="test", username="runner", password=Secret(literal="secret"))
    kept_from_asking = a_replica(connection, [stream], stream, **PATIENT)
    async with replica.running(), kept_from_asking.running():
        await until(lambda: kept_from_asking.warnings, what="what is not known is told")
        await until(lambda: replica.owned or replica.problems, what="it has begun")
    assert replica.warnings == []
    (text,) = kept_from_asking.warnings
    assert "could not be checked" in text
    assert "info" in text


async def test_each_node_of_a_cluster_is_asked(
    new_redis_cluster: NewRedisCluster, new_stream: Callable[[], str]
) -> None:
    cluster = await new_redis_cluster()
    evicting, other = cluster.nodes[:2]
    async with connect(evicting.url) as client:
        await raw(client, "CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    first = await cluster.names_at(evicting, new_stream, 2)
    streams = first + await cluster.names_at(other, new_stream, 2)
    replica = a_replica(cluster.cluster_url, streams, new_stream(), **PATIENT)
    async with replica.running():
        await until(lambda: replica.warnings, what="it is told")
    (text,) = replica.warnings
    assert ", the nodes of " + ", ".join(first) + ": maxmemory-policy is volatile-ttl" in text
