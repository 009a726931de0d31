"""Commands find the node of their key, the master after a failover, and go on when slots move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from kafka_harness.waiting import until_async
from redis_harness import client as bare
from redis_harness.cluster import RedisCluster
from redis_harness.fixtures import NewRedis, NewRedisCluster, NewSentinel
from redis_harness.flavour import Flavour
from redis_harness.options import RedisOptions
from redis_harness.sentinel import Sentinel
from redis_harness.server import RedisServer
from redis_harness.slots import identity
from runner.clients.redis import DedicatedRedis, RedisClient, RedisConnection, Script
from runner.clients.redis_errors import FailureKind, RedisFailure, problem_of
from runner.clients.redis_slots import companion_key
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.model import Reason

pytestmark = pytest.mark.redis

BOTH = Script("return {redis.call('SET', KEYS[1], ARGV[1]), redis.call('INCR', KEYS[2])}")
WRITE = Script("local done = redis.pcall('SET', KEYS[1], ARGV[1]); return done.err or done.ok")


@asynccontextmanager
async def connected(url: str, *, password: str | None = None) -> AsyncIterator[RedisClient]:
    secret = None if password is None else Secret(literal=password)
    client = RedisClient(RedisConnection(url=parse_redis_url(url), client_name="test", password=secret))
    try:
        yield client
    finally:
        await client.close()


def sentinel_url(sentinel: Sentinel, service: str = Sentinel.service) -> str:
    return f"redis+sentinel://{','.join([f'{host}:{port}' for host, port in sentinel.addresses])}/{service}"


async def test_every_key_is_found_in_a_cluster(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster()
    async with connected(f"redis+cluster://{cluster.nodes[1].address}") as client:
        for number in range(50):
            key = b"key}{%d" % number
            companion = companion_key(key, b":count")
            assert await client.run(BOTH, [key, companion], [number], 5) == [b"OK", 1]
            assert await client.execute("GET", key, key=key, timeout=5) == b"%d" % number
        assert await client.execute("PING", timeout=5) == b"PONG"


async def test_a_slot_that_moves_is_followed_step_by_step(
    new_redis_cluster: NewRedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await new_redis_cluster()
    keys = [b"{moving}%d" % number for number in range(4)]
    slot = await cluster.slot_of("moving")
    source = await cluster.owner_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    async with connected(cluster.cluster_url) as client:

        async def count_all(expected: int) -> None:
            for key in keys:
                assert await client.execute("INCR", key, key=key, timeout=5) == expected

        await count_all(1)
        move = await cluster.slot_move(slot, target)
        await move.begin()
        await count_all(2)
        await move.move_keys(2)
        await count_all(3)
        with monkeypatch.context() as patient:
            # Its time ends between two tries: who is cut off in one has heard nothing at last.
            patient.setattr("runner.clients.redis._PAUSE", 60.0)
            with pytest.raises(RedisFailure) as torn:
                await client.execute("MGET", *keys, key=keys[0], timeout=2)
        assert torn.value.kind is FailureKind.TRY_AGAIN
        waiting = asyncio.create_task(client.execute("MGET", *keys, key=keys[0], timeout=10))
        await move.move_keys(10)
        await move.end()
        assert await waiting == [b"3"] * 4
        await count_all(4)


async def test_a_cluster_that_lost_a_node_is_reported_and_used_again(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(options=RedisOptions(overrides={"cluster-require-full-coverage": "yes"}))
    gone = await cluster.owner_of(await cluster.slot_of("a"))
    async with connected(cluster.cluster_url) as client:
        await client.execute("SET", "a", 1, key=b"a", timeout=5)
        others = [b"key%d" % number for number in range(30)]
        left = [key for key in others if await cluster.owner_of(await cluster.slot_of(key)) is not gone].pop()
        gone.kill()

        async def is_down() -> bool:
            try:
                await client.execute("SET", left, 1, key=left, timeout=0.3)
            except RedisFailure as failure:
                return failure.kind is FailureKind.CLUSTER_DOWN
            return False

        await until_async(is_down, what="the cluster says that it is down")
        with pytest.raises(RedisFailure) as lost:
            await client.execute("GET", "a", key=b"a", timeout=0.5)
        assert problem_of(lost.value, cluster.cluster_url).reason is Reason.EVENT_SOURCE_UNREACHABLE
        await cluster.restart(gone)
        assert await client.execute("SET", left, 1, key=left, timeout=5) == b"OK"
        assert await client.execute("SET", "a", 1, key=b"a", timeout=5) == b"OK"


async def test_a_frozen_node_does_not_keep_the_others_from_being_used(
    new_redis_cluster: NewRedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.clients.redis_questions._ASK_TIMEOUT", 60.0)  # who waits for it waits for ever
    cluster = await new_redis_cluster(node_timeout_ms=60_000)  # for the nodes it is there all the time
    frozen = cluster.nodes[0]
    async with connected(cluster.cluster_url) as client:
        keys = [b"key%d" % number for number in range(30)]
        at_frozen = [key for key in keys if await cluster.owner_of(await cluster.slot_of(key)) is frozen].pop()
        elsewhere = await _key_of_another(cluster)
        await client.execute("SET", at_frozen, 1, key=at_frozen, timeout=5)
        frozen.pause()
        try:
            with pytest.raises(RedisFailure) as late:
                await client.execute("GET", at_frozen, key=at_frozen, timeout=0.3)
            assert late.value.kind is FailureKind.TIMEOUT
            # Who serves what is asked of those that answer.
            await client.execute("GET", elsewhere, key=elsewhere, timeout=10)
        finally:
            frozen.resume()
        await cluster.until_served()
        assert await client.execute("GET", at_frozen, key=at_frozen, timeout=5) == b"1"


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_slot_that_a_frozen_node_has_lost_is_found_elsewhere(
    is_connected: bool, new_redis_cluster: NewRedisCluster
) -> None:
    cluster = await new_redis_cluster(node_timeout_ms=15_000)
    slot = await cluster.slot_of("a")
    frozen = await cluster.owner_of(slot)
    others = [node for node in cluster.nodes if node is not frozen]
    async with connected(cluster.cluster_url) as client:
        if is_connected:
            await client.execute("GET", "a", key=b"a", timeout=5)
        else:
            await client.execute("PING", key=await _key_at(cluster, others[0]), timeout=5)
        frozen.pause()
        with pytest.raises(RedisFailure) as late:
            await client.execute("GET", "a", key=b"a", timeout=0.3)
        assert late.value.kind is FailureKind.TIMEOUT
        # As when a replica takes its place.
        for node in others:
            async with bare.connect(node.url) as redis:
                await bare.raw(redis, "CLUSTER", "SETSLOT", slot, "NODE", await identity(others[0]))
        assert await client.execute("SET", "a", 1, key=b"a", timeout=10) == b"OK"


async def _key_of_another(cluster: RedisCluster) -> bytes:
    """A key that the first node does not serve."""
    return await _key_at(cluster, cluster.nodes[1])


async def _key_at(cluster: RedisCluster, node: RedisServer) -> bytes:
    """A key that ``node`` serves."""
    keys = [b"key%d" % number for number in range(30)]
    return [key for key in keys if await cluster.owner_of(await cluster.slot_of(key)) is node].pop()


async def test_the_wrong_kind_of_url_is_said(new_redis: NewRedis, new_redis_cluster: NewRedisCluster) -> None:
    server = new_redis(Flavour.REDIS_7_0)
    async with connected(f"redis+cluster://{server.address}") as client:
        with pytest.raises(RedisFailure) as alone:
            await client.execute("PING", timeout=5)
        assert problem_of(alone.value, "here").reason is Reason.ESM_CONFIG_NOT_VALID
    cluster = await new_redis_cluster(Flavour.REDIS_7_0)
    async with connected(f"redis://{cluster.nodes[0].address}") as client:
        elsewhere = await _key_of_another(cluster)
        with pytest.raises(RedisFailure) as moved:
            await client.execute("SET", elsewhere, 1, timeout=5)
        assert moved.value.kind is FailureKind.MOVED
        assert "redis+cluster://" in problem_of(moved.value, "here").hint


@pytest.mark.parametrize("flavour", list(Flavour))
async def test_the_new_master_is_found_after_a_failover(flavour: Flavour, new_sentinel: NewSentinel) -> None:
    sentinel = await new_sentinel(flavour)
    async with connected(sentinel_url(sentinel)) as client:
        assert await client.execute("SET", "a", 1, timeout=5) == b"OK"
        promoted = await sentinel.failover()
        failures: list[RedisFailure] = []

        async def is_written() -> bool:
            try:
                return await client.execute("SET", "a", 2, timeout=2) == b"OK"
            except RedisFailure as failure:
                failures.append(failure)
                return False

        await until_async(is_written, what="the new master is written to", timeout=10)
        reasons = {problem_of(failure, sentinel_url(sentinel)).reason for failure in failures}
        assert reasons <= {Reason.EVENT_SOURCE_UNREACHABLE}
        async with bare.connect(promoted.url) as redis:
            assert await redis.get("a") == b"2"


async def test_a_master_that_hangs_is_left_for_the_one_that_was_promoted(new_sentinel: NewSentinel) -> None:
    sentinel = await new_sentinel()
    async with connected(sentinel_url(sentinel)) as client:
        alone = client.dedicated(1)
        for each in (client, alone):
            assert await each.execute("SET", "a", 1, timeout=5) == b"OK"
        await sentinel.failover(freeze=True)

        async def is_written(each: RedisClient | DedicatedRedis) -> bool:
            try:
                return await each.execute("SET", "a", 2, timeout=0.5) == b"OK"
            except RedisFailure:
                return False

        try:
            for each in (client, alone):
                await until_async(partial(is_written, each), what="the promoted one is written to")
        finally:
            await alone.close()


async def test_a_replica_that_is_written_to_is_left_though_the_script_did_not_fail(new_redis: NewRedis) -> None:
    server = new_redis(Flavour.REDIS_7_0)
    async with connected(f"redis://{server.address}") as client:
        assert await client.run(WRITE, [b"a"], [1], 5) == b"OK"
        async with bare.connect(server.url) as redis:
            own = b" id=%d " % await bare.raw(redis, "CLIENT", "ID")
            await bare.raw(redis, "REPLICAOF", "127.0.0.1", 1)

            async def ours() -> int:
                lines = (b" " + line for line in bytes(await bare.raw(redis, "CLIENT", "LIST")).splitlines())
                return sum(b" cmd=" in line and own not in line for line in lines)

            reply = await client.run(WRITE, [b"a"], [2], 5)
            assert isinstance(reply, bytes)
            assert await ours() == 1
            assert client.refused(reply).kind is FailureKind.READ_ONLY

            async def nobody() -> bool:
                return await ours() == 0

            await until_async(nobody, what="the connection to the replica is closed")


async def test_sentinels_that_are_gone_are_passed_over(new_sentinel: NewSentinel) -> None:
    sentinel = await new_sentinel(sentinels=3)
    sentinel.sentinels[0].kill()
    sentinel.sentinels[1].pause()
    async with connected(sentinel_url(sentinel)) as client:
        assert await client.execute("SET", "a", 1, timeout=5) == b"OK"
    sentinel.sentinels[1].resume()
    async with connected(sentinel_url(sentinel, "nobody")) as client:
        with pytest.raises(RedisFailure) as unknown:
            await client.execute("SET", "a", 1, timeout=5)
    assert problem_of(unknown.value, "here").reason in (
        Reason.EVENT_SOURCE_NOT_FOUND,
        Reason.EVENT_SOURCE_UNREACHABLE,
    )


async def test_a_password_is_shown_to_sentinels_that_ask_for_one(new_sentinel: NewSentinel) -> None:
    sentinel = await new_sentinel(Flavour.REDIS_7_0, options=RedisOptions(password="secret"))
    async with connected(sentinel_url(sentinel), password="secret") as client:
        assert await client.execute("SET", "a", 1, timeout=5) == b"OK"
    async with bare.connect(sentinel.sentinels[0].url) as asked:
        await bare.raw(asked, "ACL", "SETUSER", "default", "resetpass", ">secret")
    async with connected(sentinel_url(sentinel), password="secret") as client:
        assert await client.execute("SET", "a", 2, timeout=5) == b"OK"
    async with connected(sentinel_url(sentinel), password="wrong") as client:
        with pytest.raises(RedisFailure) as refused:
            await client.execute("SET", "a", 3, timeout=5)
        assert refused.value.kind is FailureKind.AUTHENTICATION
