"""The shared source on a cluster and behind sentinels: a fault of one server is the trouble of its streams only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial

import anyio
import pytest
from redis.asyncio import RedisCluster

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, connect_cluster, pending, raw
from redis_harness.cluster import RedisCluster as Nodes
from redis_harness.fixtures import NewRedisCluster, NewSentinel
from redis_harness.flavour import Flavour
from redis_harness.replica import Replica, a_replica, fill, places
from runner.sources.redis_shared import SharedStreamsSource

pytestmark = [
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.parametrize("flavour", [Flavour.VALKEY, Flavour.REDIS_7_0]),
]

RECOVERY = 10.0
"""Seconds within which everything goes on after a fault has healed."""

COMMAND_TIMEOUT = 8.0
"""What waits for a silent node waits much longer than a busy machine needs for the others."""

Place = tuple[str, str]
a_sharer = partial(a_replica, kind=SharedStreamsSource)


def read(streams: Collection[str], *replicas: Replica) -> Counter[Place]:
    """How often each entry of ``streams`` was read."""
    return Counter([place for replica in replicas for place in places(replica) if place[0] in streams])


def of(streams: Collection[str], added: Sequence[Place]) -> Counter[Place]:
    return Counter([place for place in added if place[0] in streams])


async def nothing_pending_in_cluster(cluster: Nodes, streams: Collection[str], group: str) -> bool:
    for stream in streams:
        node = await cluster.owner_of(await cluster.slot_of(stream))
        async with connect(node.url) as client:
            if await pending(client, stream, group):
                return False
    return True


async def fill_all(client: RedisCluster, streams: Collection[str], count: int) -> list[Place]:
    return [place for stream in streams for place in await fill(client, stream, count)]


async def test_a_slot_that_moves_under_load_and_a_node_that_freezes(
    flavour: Flavour, new_redis_cluster: NewRedisCluster, new_stream: Callable[[], str]
) -> None:
    cluster = await new_redis_cluster(flavour, node_timeout_ms=60_000)  # nobody but us notices a silent node
    by_node = [await cluster.names_at(node, new_stream, 2) for node in cluster.nodes]
    streams, group = [stream for names in by_node for stream in names], new_stream()
    one, two = [a_sharer(cluster.cluster_url, streams, group, command_timeout=COMMAND_TIMEOUT) for _ in range(2)]
    async with connect_cluster(cluster.nodes[2].url) as client, one.running(), two.running():
        added = await fill_all(client, streams, 5)
        await until(lambda: one.owned == two.owned == set(streams), what="both read all streams", timeout=RECOVERY)
        await until(lambda: read(streams, one, two) == Counter(added), what="all is read, each once")

        moved = by_node[0][0]
        async with anyio.create_task_group() as producing:
            producing.start_soon(cluster.move_slot, await cluster.slot_of(moved), cluster.nodes[1])
            for _ in range(20):
                added += await fill_all(client, streams, 2)
        added += await fill_all(client, streams, 2)
        stay = set(streams) - {moved}
        await until(lambda: set(added) <= set(read(streams, one, two)), what="all is read", timeout=RECOVERY)
        acknowledged = partial(nothing_pending_in_cluster, cluster, streams, group)
        await until_async(acknowledged, what="all is acknowledged", timeout=RECOVERY)
        assert read(stay, one, two) == of(stay, added), "nothing of what stayed was read again"
        assert {*one.lost_streams, *two.lost_streams} <= {moved}

        silent = set(by_node[2])
        others = set(streams) - silent
        one.settles = two.settles = False
        held = await fill_all(client, silent, 20)
        await until(lambda: set(held) <= set(read(silent, one, two)), what="some are in work")
        cluster.nodes[2].pause()
        try:
            one.settles = two.settles = True
            for replica in (one, two):
                in_work = {stream for stream, _ in read(silent, replica).keys() & set(held)}
                await until(lambda: in_work.isdisjoint(replica.owned), what="what cannot be kept is given up")  # noqa: B023
            began = anyio.current_time()
            more = await fill_all(client, others, 10)
            await until(lambda: set(more) <= set(read(others, one, two)), what="those of other nodes go on", every=0.02)
            assert anyio.current_time() - began < COMMAND_TIMEOUT / 2
            assert others <= one.owned
            assert others <= two.owned
        finally:
            cluster.nodes[2].resume()
        added += held + more + await fill_all(client, streams, 10)
        await until(lambda: set(added) <= set(read(streams, one, two)), what="all is read", timeout=RECOVERY)
        await until_async(acknowledged, what="all is acknowledged", timeout=RECOVERY)
        await until(lambda: one.owned == two.owned == set(streams), what="all are read again")
        for replica in (one, two):
            await until(lambda: replica.problems[-1:] in ([], [None]), what="nothing is wrong")  # noqa: B023
    again = read(streams, one, two) - Counter(added)
    print(f"{again.total()} read again")
    assert set(read(streams, one, two)) == set(added)
    assert {stream for stream, _ in again} <= {moved, *silent}, "what others have gone through was not read again"
    assert one.losses == two.losses == []


async def test_a_failover_under_load(
    flavour: Flavour, new_sentinel: NewSentinel, new_stream: Callable[[], str]
) -> None:
    watched = await new_sentinel(flavour, sentinels=1)
    addresses = ",".join(f"{host}:{port}" for host, port in watched.addresses)
    url = f"redis+sentinel://{addresses}/{watched.service}"
    streams, group = [new_stream(), new_stream()], new_stream()
    one, two = [a_sharer(url, streams, group) for _ in range(2)]
    master = await watched.master()
    async with connect(master.url) as client:
        before = [each for stream in streams for each in await fill(client, stream, 100)]
    async with one.running(), two.running():
        await until(lambda: set(before) <= set(read(streams, one, two)), what="everything is read")
        one.settles = two.settles = False
        async with connect(master.url) as client:
            held = [each for stream in streams for each in await fill(client, stream, 100)]
            await until(lambda: set(held) <= set(read(streams, one, two)), what="some are in work")
            held += await fill(client, streams[0], 1)
            assert await raw(client, "WAIT", 1, 5_000) == 1, "the replica has all of it"
        promoted = await watched.failover()
        async with connect(promoted.url) as client:
            after = [each for stream in streams for each in await fill(client, stream, 50)]
            await until(lambda: set(after) <= set(read(streams, one, two)), what="they read on", timeout=RECOVERY)
            for replica in (one, two):
                await until(lambda: set(streams) <= set(replica.lost_streams), what="it begins anew")  # noqa: B023
            one.settles = two.settles = True

            async def all_acknowledged() -> bool:
                return not any([await pending(client, stream, group) for stream in streams])

            await until_async(all_acknowledged, what="all is acknowledged", timeout=RECOVERY)
            there = {
                (stream, entry[0].decode())
                for stream in streams
                for entry in await raw(client, "XRANGE", stream, "-", "+")
            }
        for replica in (one, two):
            await until(lambda: replica.problems[-1:] in ([], [None]), what="nothing is wrong")  # noqa: B023
    again = read(streams, one, two) - Counter(before + held + after)
    print(f"{again.total()} read again")
    assert there == set(read(streams, one, two)) == set(before + held + after)
    assert set(held[:-1]) <= set(again) <= set(before + held), "what was in work comes again, and nothing later"
    assert one.losses == two.losses == []
