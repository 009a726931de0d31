"""Where commands go is found though servers are silent or know nothing, and however little time a caller has."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from kafka_harness.waiting import until, until_async
from redis_harness import client as bare
from redis_harness.cluster import RedisCluster
from redis_harness.fixtures import NewRedis, NewRedisCluster, NewSentinel, Stoppable
from redis_harness.flavour import Flavour
from redis_harness.options import RedisOptions
from redis_harness.proxy import Proxy
from redis_harness.sentinel import SentinelProcess
from redis_harness.server import RedisServer
from redis_harness.slots import identity
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_errors import FailureKind, RedisFailure
from runner.clients.redis_url import parse_redis_url

pytestmark = pytest.mark.redis

SHORT = 0.15
"""Seconds that a caller has: less than two silent servers cost."""
NOBODY_BUT_US_NOTICES = 60_000
RECOVERY = 10.0


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisClient]:
    client = RedisClient(RedisConnection(url=parse_redis_url(url), client_name="test"))
    try:
        yield client
    finally:
        await client.close()


def url_of(addresses: Sequence[Proxy | RedisServer]) -> str:
    return "redis+cluster://" + ",".join([each.address for each in addresses])


async def keys_by_node(cluster: RedisCluster) -> list[bytes]:
    """A key at each of the nodes, in their order."""
    found: dict[RedisServer, bytes] = {}
    number = 0
    while len(found) < len(cluster.nodes):
        key = b"key%d" % number
        found.setdefault(await cluster.owner_of(await cluster.slot_of(key)), key)
        number += 1
    return [found[node] for node in cluster.nodes]


async def is_served(client: RedisClient, key: bytes, timeout: float) -> bool:
    try:
        return await client.execute("GET", key, key=key, timeout=timeout) is None
    except RedisFailure:
        return False


def open_sockets() -> int:
    """Of this process."""
    return sum(
        os.path.realpath(each.path).rpartition("/")[2].startswith("socket:") for each in os.scandir("/proc/self/fd")
    )


async def test_what_a_server_closed_is_closed_here_too_when_nobody_goes_there_any_more(
    new_redis: NewRedis, kept: Callable[[Stoppable], None]
) -> None:
    old, new = new_redis(), new_redis()
    sentinel = SentinelProcess(Flavour.VALKEY, [f"sentinel monitor main 127.0.0.1 {old.port} 2"])
    kept(sentinel)
    sentinel.start()
    async with connected(f"redis+sentinel://{sentinel.address}/main") as client:
        other = client.dedicated(5)
        before = open_sockets()
        await asyncio.gather(*[client.execute("PING", timeout=5) for _ in range(5)], other.execute("PING"))
        assert open_sockets() == before + 6
        async with bare.connect(f"redis://{sentinel.address}") as redis:
            await bare.raw(redis, "SENTINEL", "REMOVE", "main")
            await bare.raw(redis, "SENTINEL", "MONITOR", "main", "127.0.0.1", new.port, 2)
        old.kill()
        with pytest.raises(RedisFailure):
            await other.execute("PING")
        await client.execute("PING", timeout=5)
        await until(lambda: open_sockets() == before + 1, what="the connections to the old one are closed")
        await other.close()


async def test_silent_sentinels_do_not_use_up_a_callers_time(new_sentinel: NewSentinel) -> None:
    sentinel = await new_sentinel()
    port = sentinel.sentinels[0].port
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(port)) for _ in range(4)]
        for proxy in proxies[:3]:
            proxy.stall()
        addresses = ",".join([proxy.address for proxy in proxies])
        client = await stack.enter_async_context(connected(f"redis+sentinel://{addresses}/{sentinel.service}"))
        found = partial(is_served, client, b"a", SHORT)
        await until_async(found, what="the master is found", timeout=RECOVERY)

        # The next that is asked first is the one that has answered, until it is silent too.
        master = await sentinel.master()
        master.kill()
        assert not await is_served(client, b"a", 5)
        proxies[3].stall()
        await proxies[2].resume()
        await master.restart()  # or the replica has taken its place by now
        await until_async(found, what="the master is found by another", timeout=RECOVERY)


@pytest.mark.parametrize("is_back", [False, True])
async def test_a_sentinel_that_has_not_heard_of_a_failover_is_not_believed_for_ever(
    is_back: bool, new_redis: NewRedis, kept: Callable[[Stoppable], None]
) -> None:
    demoted, promoted = new_redis(), new_redis()
    sentinels = []
    for master in (demoted, demoted, promoted):
        sentinels.append(SentinelProcess(Flavour.VALKEY, [f"sentinel monitor main 127.0.0.1 {master.port} 2"]))
        kept(sentinels[-1])
        sentinels[-1].start()
    if is_back:
        async with bare.connect(demoted.url) as redis:
            await bare.raw(redis, "REPLICAOF", "127.0.0.1", promoted.port)
    else:
        demoted.kill()
    url = f"redis+sentinel://{','.join([each.address for each in sentinels])}/main"
    async with connected(url) as client:

        async def is_stored() -> bool:
            try:
                return await client.execute("SET", "a", 1, timeout=0.5) == b"OK"
            except RedisFailure:
                return False

        await until_async(is_stored, what="the promoted one is found", timeout=RECOVERY)


async def test_silent_seeds_do_not_use_up_a_callers_time(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(node_timeout_ms=NOBODY_BUT_US_NOTICES)
    *_, key = await keys_by_node(cluster)
    for node in cluster.nodes[:2]:
        node.pause()
    async with connected(url_of(cluster.nodes)) as client:
        found = partial(is_served, client, key, SHORT)
        await until_async(found, what="the node is found", timeout=RECOVERY)


async def test_silent_nodes_are_the_trouble_of_their_own_commands(
    new_redis_cluster: NewRedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.clients.redis_questions._ASK_TIMEOUT", 60.0)  # who waits for them waits for ever
    cluster = await new_redis_cluster(node_timeout_ms=NOBODY_BUT_US_NOTICES)
    keys = await keys_by_node(cluster)
    async with connected(url_of(cluster.nodes)) as client:
        assert [await is_served(client, key, 5) for key in keys] == [True] * 3
        for node in cluster.nodes[:2]:
            node.pause()
        for _ in range(5):
            assert not await is_served(client, keys[0], SHORT)
            assert not await is_served(client, keys[1], SHORT)
            assert await is_served(client, keys[2], 10)
        for node in cluster.nodes[:2]:
            node.resume()
        assert [await is_served(client, key, RECOVERY) for key in keys] == [True] * 3


async def test_nodes_that_have_all_got_new_addresses_are_found_by_the_urls_names(
    new_redis_cluster: NewRedisCluster,
) -> None:
    cluster = await new_redis_cluster()
    keys = await keys_by_node(cluster)
    async with AsyncExitStack() as stack:
        old = [await stack.enter_async_context(Proxy(node.port)) for node in cluster.nodes]
        await _announce(cluster, [proxy.port for proxy in old])
        client = await stack.enter_async_context(connected(url_of(cluster.nodes[:1])))
        assert [await is_served(client, key, 5) for key in keys] == [True] * 3
        assert all(proxy.connections for proxy in old)
        for proxy in old:
            proxy.stall()
        await _announce(cluster, [node.port for node in cluster.nodes])
        for key in keys:
            found = partial(is_served, client, key, SHORT)
            await until_async(found, what="the node is found", timeout=RECOVERY)


async def _announce(cluster: RedisCluster, ports: list[int]) -> None:
    """Let the nodes be reached at these ports; returns when all of them say so."""
    for node, port in zip(cluster.nodes, ports, strict=True):
        async with bare.connect(node.url) as redis:
            await bare.raw(redis, "CONFIG", "SET", "cluster-announce-port", port)

    async def all_say_so() -> bool:
        told: list[list[int]] = []
        for node in cluster.nodes:
            async with bare.connect(node.url) as redis:
                told.append([master[1] for _, _, master, *_ in await bare.raw(redis, "CLUSTER", "SLOTS")])
        return all(sorted(each) == sorted(ports) for each in told)

    await until_async(all_say_so, what="the new ports are known")


async def test_a_node_that_is_no_member_yet_is_passed_over(
    new_redis: NewRedis, new_redis_cluster: NewRedisCluster
) -> None:
    alone = new_redis(options=RedisOptions(overrides={"cluster-enabled": "yes"}))
    cluster = await new_redis_cluster()
    async with connected(url_of([alone, *cluster.nodes])) as client:
        for key in await keys_by_node(cluster):
            assert await is_served(client, key, 10)
    async with connected(url_of([alone])) as client:
        with pytest.raises(RedisFailure, match="knows of no node") as unserved:
            await client.execute("PING", timeout=2)
        assert unserved.value.kind is FailureKind.CLUSTER_DOWN


async def test_a_node_that_has_not_heard_of_a_failover_is_not_asked_for_ever(
    new_redis_cluster: NewRedisCluster,
) -> None:
    cluster = await new_redis_cluster(node_timeout_ms=NOBODY_BUT_US_NOTICES)
    deaf, frozen, promoted = cluster.nodes
    key = (await keys_by_node(cluster))[1]
    slot = await cluster.slot_of(key)
    async with connected(url_of([deaf, promoted])) as client:
        assert await is_served(client, key, 5)
        frozen.pause()
        async with bare.connect(deaf.url) as redis:
            await bare.raw(redis, "CLUSTER", "FORGET", await identity(promoted))
        async with bare.connect(promoted.url) as redis:
            await bare.raw(redis, "CLUSTER", "SETSLOT", slot, "NODE", await identity(promoted))
        found = partial(is_served, client, key, 0.3)
        await until_async(found, what="the promoted one is found", timeout=RECOVERY)


@pytest.mark.parametrize("url", ["redis+sentinel://{}/main", "redis+cluster://{}"])
async def test_closing_ends_the_search_for_a_server(url: str, redis_server: RedisServer) -> None:
    before = asyncio.all_tasks()
    async with Proxy(redis_server.port) as silent:
        silent.stall()
        connection = RedisConnection(url=parse_redis_url(url.format(silent.address)), client_name="test")
        client = RedisClient(connection)
        searching = asyncio.create_task(client.execute("PING", timeout=30))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(RedisFailure) as closed:
            await searching
        assert closed.value.kind is FailureKind.CLOSED
    assert asyncio.all_tasks() <= before
