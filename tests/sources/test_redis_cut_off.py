"""A checkpoint that is cut off because one server of several is silent ends as the cancellation that it is."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from e2e_support.redis_topology import ANY, Sharded, name_at
from kafka_harness.waiting import until
from redis_harness.client import connect_cluster
from redis_harness.fixtures import NewRedisCluster
from redis_harness.replica import PATIENT, a_replica, fill, places
from runner.model import Partition

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]


@pytest.mark.parametrize("silent_comes_first", [True, False])
async def test_a_checkpoint_is_cut_off_while_one_node_of_a_cluster_is_silent(
    silent_comes_first: bool, new_redis_cluster: NewRedisCluster
) -> None:
    cluster = await new_redis_cluster(node_timeout_ms=15_000)
    silent, other, _ = cluster.nodes
    nodes = (silent, other) if silent_comes_first else (other, silent)
    streams = [await name_at(cluster, f"orders.{ANY}", node) for node in nodes]
    replica = a_replica(Sharded(cluster).url, streams, "group", **PATIENT)
    replica.settles = False
    async with connect_cluster(cluster.url) as client, replica.running():
        last = dict([(await fill(client, stream, 1))[-1] for stream in streams])
        await until(lambda: dict(places(replica)) == last, what="all is read")

        async def is_cut_off() -> bool:
            with anyio.move_on_after(0.5) as scope:
                await replica.source.checkpoint({Partition(stream, 0): last[stream] for stream in streams})
            return scope.cancelled_caught

        silent.pause()
        try:
            checkpoint = asyncio.create_task(is_cut_off())
            await asyncio.wait([checkpoint])
        finally:
            silent.resume()
        # A cancellation that nobody catches would end the mapping without a word.
        assert not checkpoint.cancelled()
        assert await checkpoint
