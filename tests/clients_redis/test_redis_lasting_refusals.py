"""What a cluster refuses for a while costs little, is the trouble of its slots only, and goes on soon after."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import ClusterDownError, ResponseError

from kafka_harness.waiting import until_async
from redis_harness import client as bare
from redis_harness.cluster import SLOTS, RedisCluster
from redis_harness.fixtures import NewRedisCluster
from redis_harness.options import RedisOptions
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_errors import FailureKind, RedisFailure
from runner.clients.redis_url import parse_redis_url

pytestmark = pytest.mark.redis

WAITING = 20
"""Commands at a time."""
PATIENCE = 2.3
"""Seconds that each has: they end between two tries, also where each try takes its time."""
LONGEST_STEP = 1.5
"""Seconds from the longest pause of a command, and until the nodes may be asked again."""
STANDSTILL = 3.0
"""Seconds for which the machine may stand still."""
CUT_OFF = {FailureKind.TIMEOUT}
"""Of whose time ends while it asks once more: it has heard nothing at last, and its connection is lost."""


@pytest.fixture(autouse=True)
def one_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is one call, also where the answer takes its time: others are asked too only after a failure."""
    monkeypatch.setattr("runner.clients.redis_questions._HEAD_START", 60.0)
    monkeypatch.setattr("runner.clients.redis_questions._ASK_TIMEOUT", 60.0)


@asynccontextmanager
async def connected(cluster: RedisCluster) -> AsyncIterator[RedisClient]:
    url = "redis+cluster://" + ",".join([node.address for node in cluster.nodes])
    client = RedisClient(RedisConnection(url=parse_redis_url(url), client_name="test"))
    try:
        yield client
    finally:
        await client.close()


async def key_at(cluster: RedisCluster, node: RedisServer) -> bytes:
    number = 0
    while await cluster.owner_of(await cluster.slot_of(b"key%d" % number)) is not node:
        number += 1
    return b"key%d" % number


async def set_slots(cluster: RedisCluster, command: str, *nodes: RedisServer) -> None:
    """ADDSLOTSRANGE or DELSLOTSRANGE, of the first node's share, at ``nodes``."""
    share = -(-SLOTS // len(cluster.nodes))
    for node in nodes:
        async with bare.connect(node.url) as redis:
            await bare.raw(redis, "CLUSTER", command, 0, share - 1)


async def until_refused(node: RedisServer, key: bytes) -> None:
    async with bare.connect(node.url) as redis:

        async def is_refused() -> bool:
            try:
                await bare.raw(redis, "GET", key)
            except ClusterDownError:
                return True
            except ResponseError:
                return False  # it still sends us elsewhere
            return False

        await until_async(is_refused, what=f"{node.address} serves it no more")


class Counted:
    """What the nodes were asked since ``begin``."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._nodes = cluster.nodes

    async def begin(self) -> None:
        for node in self._nodes:
            async with bare.connect(node.url) as redis:
                await bare.raw(redis, "CONFIG", "RESETSTAT")

    async def of(self, section: str, name: str, part: str) -> int:
        """The sum of a number in INFO: ``part`` of the line ``name``."""
        total = 0
        for node in self._nodes:
            async with bare.connect(node.url) as redis:
                lines = bytes(await bare.raw(redis, "INFO", section)).decode().splitlines()
            values = dict(line.split(":", 1) for line in lines if ":" in line).get(name, f"{part}=0")
            total += int(dict(each.split("=") for each in values.split(","))[part])
        return total

    async def questions(self) -> int:
        return await self.of("commandstats", "cmdstat_cluster|slots", "calls")

    async def connections(self) -> int:
        return await self.of("commandstats", "cmdstat_client|setname", "calls")

    async def refusals(self) -> int:
        return await self.of("errorstats", "errorstat_CLUSTERDOWN", "count")


@pytest.mark.parametrize("full_coverage", ["yes", "no"])
async def test_slots_that_nobody_serves(full_coverage: str, new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(options=RedisOptions(overrides={"cluster-require-full-coverage": full_coverage}))
    owner, other = cluster.nodes[:2]
    gone, there = await key_at(cluster, owner), await key_at(cluster, other)
    counted = Counted(cluster)
    async with connected(cluster) as client:

        async def get(key: bytes, timeout: float) -> object:
            try:
                return await client.execute("GET", key, key=key, timeout=timeout)
            except RedisFailure as failure:
                return failure.kind

        await asyncio.gather(*[get(gone, 5) for _ in range(WAITING)], get(there, 5))
        await set_slots(cluster, "DELSLOTSRANGE", *cluster.nodes)
        for node in cluster.nodes:
            await until_refused(node, gone)
        await counted.begin()
        started = time.monotonic()
        waiting = [asyncio.create_task(get(gone, PATIENCE)) for _ in range(WAITING)]
        heard, took = [], []
        while not all(task.done() for task in waiting):
            begun = time.monotonic()
            heard.append(await get(there, PATIENCE if full_coverage == "no" else 0.3))
            took.append(time.monotonic() - begun)
            await asyncio.sleep(0.05)
        if full_coverage == "no":
            assert set(heard) == {None}
            assert statistics.median(took) < 0.3
        else:
            assert set(heard) - CUT_OFF == {FailureKind.CLUSTER_DOWN}
        assert {task.result() for task in waiting} - CUT_OFF == {FailureKind.CLUSTER_DOWN}
        assert 1 <= await counted.questions() <= (time.monotonic() - started) / 0.5 + 2
        assert await counted.connections() <= await counted.questions() + 2 + heard.count(FailureKind.TIMEOUT)
        assert await counted.refusals() <= 10 * WAITING + PATIENCE / 0.05

        waiting = [asyncio.create_task(get(gone, 60)) for _ in range(WAITING)]
        await asyncio.sleep(PATIENCE)
        await set_slots(cluster, "ADDSLOTSRANGE", owner)
        await cluster.until_served()
        served = time.monotonic()
        assert await asyncio.gather(*waiting) == [None] * WAITING
        assert time.monotonic() - served < LONGEST_STEP + STANDSTILL


async def test_a_slot_that_was_torn_for_a_moment_is_used_soon_after(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster()
    keys = [b"{moving}%d" % number for number in range(4)]
    slot = await cluster.slot_of("moving")
    late = []
    async with connected(cluster) as client:
        for key in keys:
            await client.execute("SET", key, 1, key=key, timeout=5)
        for _ in range(3):
            source = await cluster.owner_of(slot)
            move = await cluster.slot_move(slot, next(node for node in cluster.nodes if node is not source))
            await move.begin()
            await move.move_keys(2)
            torn = time.monotonic()
            waiting = asyncio.create_task(client.execute("MGET", *keys, key=keys[0], timeout=10))
            await asyncio.sleep(0.2)
            await move.move_keys(10)
            await move.end()
            whole = time.monotonic()
            assert await waiting == [b"1"] * 4
            late.append(time.monotonic() - whole - (whole - torn) / 2)
    assert min(late) < 0.3, "a machine that stands still makes single ones later"


async def test_late_failures_do_not_ask_for_what_has_just_been_told(
    new_redis_cluster: NewRedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await new_redis_cluster()
    key = await key_at(cluster, cluster.nodes[0])
    counted = Counted(cluster)
    async with connected(cluster) as client:
        await client.execute("GET", key, key=key, timeout=5)
        await asyncio.sleep(0.6)  # the nodes may be asked again
        monkeypatch.setattr("runner.clients.redis_topology._INTERVAL", 5.0)
        await counted.begin()

        async def block(seconds: float) -> None:
            with pytest.raises(RedisFailure):
                await client.execute("BLPOP", b"{%b}none" % key, 0, key=key, timeout=seconds)

        blocked = [asyncio.create_task(block(0.5 + number * 0.03)) for number in range(10)]
        while not all(task.done() for task in blocked):
            await client.execute("GET", key, key=key, timeout=4)
            await asyncio.sleep(0.01)
        await client.execute("GET", key, key=key, timeout=4)
        assert 1 <= await counted.questions() <= 2
