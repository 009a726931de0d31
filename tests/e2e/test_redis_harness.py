"""The harness' Redis servers: what tests do to them, and what they do to clients, is shown here to be true."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from redis import exceptions
from redis.asyncio import Redis

from kafka_harness.child import ChildFailed
from kafka_harness.component import ComponentMissing
from kafka_harness.naming import NewStream
from kafka_harness.waiting import until, until_async
from redis_harness import client, flavour
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis, NewRedisCluster, NewSentinel
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.proxy import Direction, Proxy
from redis_harness.server import RedisServer

pytestmark = pytest.mark.redis

EVERY_FLAVOUR = pytest.mark.parametrize("flavour", list(Flavour))
FIELDS = [(b"twice", b"1"), (b"other", b""), (b"twice", b"2"), (b"\x00\xff\r\n", b"\xfe{}\x00")]
AWKWARD_PASSWORD = "p w'\"\\é:@/%"


@pytest.fixture
async def connected(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with client.connect(redis_server.url) as connected:
        yield connected


@ON_EVERY_FLAVOUR
async def test_it_is_the_server_that_it_is_called(redis_server: RedisServer, connected: Redis) -> None:
    versions = {
        Flavour.VALKEY: b"\nvalkey_version:9.",
        Flavour.REDIS_7_0: b"\nredis_version:7.0.",
        Flavour.REDIS_6_2: b"\nredis_version:6.2.",
    }
    assert versions[redis_server.flavour] in await client.raw(connected, "INFO", "server")
    assert await client.raw(connected, "CONFIG", "GET", "bind") == [b"bind", b"127.0.0.1"]


@ON_EVERY_FLAVOUR
async def test_entries_are_read_back_field_for_field(connected: Redis, new_stream: NewStream) -> None:
    stream = new_stream()
    assert await client.read_stream(connected, stream) == []
    first = await client.add(connected, stream, FIELDS, entry_id="7-1")
    others = await client.add_many(connected, stream, ([(b"n", b"%d" % n)] for n in range(2_500)))
    read = await client.read_stream(connected, stream)
    assert first == b"7-1"
    assert read == [(b"7-1", FIELDS), *((one, [(b"n", b"%d" % n)]) for n, one in enumerate(others))]


@ON_EVERY_FLAVOUR
async def test_pending_entries_are_listed(connected: Redis, new_stream: NewStream) -> None:
    stream, group = new_stream(), new_stream()
    with pytest.raises(exceptions.ResponseError, match="NOGROUP"):
        await client.pending(connected, stream, group)
    ids = await client.add_many(connected, stream, ([(b"n", b"%d" % n)] for n in range(1_200)))
    await client.raw(connected, "XGROUP", "CREATE", stream, group, "0")
    assert await client.pending(connected, stream, group) == []
    await client.raw(connected, "XREADGROUP", "GROUP", group, "me", "COUNT", 1_100, "STREAMS", stream, ">")
    await client.raw(connected, "XACK", stream, group, *ids[:50])
    found = await client.pending(connected, stream, group)
    assert [(one.id, one.consumer, one.deliveries) for one in found] == [(one, b"me", 1) for one in ids[50:1_100]]


@ON_EVERY_FLAVOUR
async def test_the_servers_clock_is_that_of_its_ids(connected: Redis, new_stream: NewStream) -> None:
    before = await client.clock_ms(connected)
    entry_id = await client.add(connected, new_stream(), FIELDS)
    assert before <= int(entry_id.split(b"-")[0]) <= await client.clock_ms(connected)


@ON_EVERY_FLAVOUR
async def test_a_paused_server_answers_nothing_until_it_goes_on(redis_server: RedisServer) -> None:
    redis_server.pause()
    assert not redis_server.serves(timeout=0.3)
    async with client.connect(redis_server.url, timeout=0.3) as impatient:
        with pytest.raises(exceptions.TimeoutError):
            await client.clock_ms(impatient)
    assert redis_server.running
    redis_server.resume()
    await until(redis_server.serves, what="it answers again")


async def test_a_server_that_a_test_leaves_dead(redis_server: RedisServer) -> None:
    redis_server.kill()
    assert not redis_server.running
    assert not redis_server.serves()


async def test_is_brought_back_for_the_next(redis_server: RedisServer, connected: Redis) -> None:
    assert await client.clock_ms(connected) > 0


@EVERY_FLAVOUR
@pytest.mark.parametrize("how", ["kill", "shut_down"])
@pytest.mark.parametrize("aof", [None, "always"])
async def test_what_a_restart_keeps(
    new_redis: NewRedis, new_stream: NewStream, flavour: Flavour, how: str, aof: Literal["always"] | None
) -> None:
    server, stream = new_redis(flavour, RedisOptions(aof=aof)), new_stream()
    expected = await client.fill(server.url, stream, 10)
    if how == "kill":
        server.kill()
    else:
        await server.shut_down()
    await server.restart()
    assert await client.entries_at(server.url, stream) == (expected if aof else [])


@EVERY_FLAVOUR
async def test_a_kill_brings_back_the_last_snapshot(
    new_redis: NewRedis, new_stream: NewStream, flavour: Flavour
) -> None:
    server, stream = new_redis(flavour), new_stream()
    expected = await client.fill(server.url, stream, 5)
    async with client.connect(server.url) as connected:
        await client.raw(connected, "SAVE")
    await client.fill(server.url, stream, 5)
    server.kill()
    await server.restart()
    assert await client.entries_at(server.url, stream) == expected


@EVERY_FLAVOUR
async def test_a_full_server_refuses_writes(new_redis: NewRedis, new_stream: NewStream, flavour: Flavour) -> None:
    server, stream = new_redis(flavour, RedisOptions(maxmemory_bytes=4_000_000)), new_stream()
    async with client.connect(server.url) as connected:
        with pytest.raises(exceptions.OutOfMemoryError):
            await client.add_many(connected, stream, [[(b"filler", bytes(100_000))]] * 100)
        assert 0 < len(await client.read_stream(connected, stream)) < 100


@EVERY_FLAVOUR
async def test_users_log_in_and_are_held_to_their_rules(new_redis: NewRedis, flavour: Flavour) -> None:
    user = AclUser("app/1", AWKWARD_PASSWORD, "~orders.* +xadd")
    server = new_redis(flavour, RedisOptions(password="another " + AWKWARD_PASSWORD, users=(user,)))
    async with client.connect(server.url_of("app/1")) as connected:
        await client.add(connected, "orders.1", FIELDS)
        with pytest.raises(exceptions.NoPermissionError):
            await client.add(connected, "invoices", FIELDS)
    async with client.connect(f"redis://{server.address}") as stranger:
        with pytest.raises(exceptions.AuthenticationError):
            await client.clock_ms(stranger)
    with pytest.raises(LookupError, match="nobody"):
        server.url_of("nobody")
    server.kill()
    await server.restart()
    assert server.serves()


async def test_tls_is_offered_beside_plain_text(new_redis: NewRedis, new_stream: NewStream) -> None:
    user = AclUser("app", AWKWARD_PASSWORD, "~* +@all")
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(tls=True, users=(user,)))
    stream = new_stream()
    expected = await client.fill(server.url, stream, 1)
    authority = str(server.authority.certificate)
    for url in (server.tls_url, server.url_of("app", tls=True)):
        async with client.connect(url, ssl_ca_certs=authority) as connected:
            assert await client.read_stream(connected, stream) == expected
    async with client.connect(server.tls_url) as distrustful:
        with pytest.raises(exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.clock_ms(distrustful)


async def test_a_client_certificate_can_be_insisted_on(new_redis: NewRedis) -> None:
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(tls=True, overrides={"tls-auth-clients": "yes"}))
    certificate, key = server.authority.issue("erin")
    authority = str(server.authority.certificate)
    async with client.connect(server.tls_url, ssl_ca_certs=authority) as stranger:
        with pytest.raises(exceptions.ConnectionError):
            await client.clock_ms(stranger)
    files = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    async with client.connect(server.tls_url, timeout=5.0, ssl_ca_certs=authority, **files) as known:
        assert await client.clock_ms(known) > 0


@pytest.mark.parametrize("flavour", [Flavour.VALKEY, Flavour.REDIS_6_2])
def test_tls_is_refused_where_the_server_has_none(flavour: Flavour) -> None:
    with pytest.raises(ValueError, match="without TLS"):
        RedisServer(flavour, options=RedisOptions(tls=True))


@EVERY_FLAVOUR
def test_a_server_starts_within_a_second_and_leaves_nothing(new_redis: NewRedis, flavour: Flavour) -> None:
    took = []
    for _ in range(5):  # whatever else the machine does can only make a start slower: the quickest counts
        began = time.monotonic()
        server = new_redis(flavour)
        took.append(time.monotonic() - began)
        server.stop()
        assert not server.running
        assert not server.directory.exists()
    assert min(took) < 1.0


def test_a_server_that_does_not_start_says_why(new_redis: NewRedis) -> None:
    with pytest.raises(ChildFailed, match="no-such-directive"):
        new_redis(Flavour.VALKEY, RedisOptions(overrides={"no-such-directive": "1"}))


def test_a_missing_server_is_named_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if every program there is were of another version.
    monkeypatch.setattr(flavour, "_version", lambda program: "Redis server v=8.0.2")
    for one in Flavour:
        with pytest.raises(ComponentMissing, match=f"the server {one} is missing: install"):
            flavour.server_program.__wrapped__(one)


def test_debians_redis_is_found_behind_another_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(flavour.server_program(Flavour.REDIS_6_2), tmp_path / "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not flavour.server_program.__wrapped__(Flavour.REDIS_7_0).startswith(str(tmp_path))


async def test_a_stalled_line_delivers_late(redis_server: RedisServer, new_stream: NewStream) -> None:
    stream = new_stream()
    async with Proxy(redis_server.port) as proxy, client.connect(proxy.url) as far:
        await client.clock_ms(far)
        for direction, arrived in ((Direction.TO_SERVER, 0), (Direction.TO_CLIENT, 2)):
            proxy.stall(direction)
            adding = asyncio.create_task(client.add(far, stream, FIELDS))
            if arrived:
                await until_async(lambda: _has(redis_server, stream, 2), what="the second entry has arrived")
            else:
                await asyncio.wait([adding], timeout=0.2)
                assert await client.entries_at(redis_server.url, stream) == []
            assert not adding.done()
            await proxy.resume(direction)
            await adding
        assert [fields for _, fields in await client.entries_at(redis_server.url, stream)] == [FIELDS, FIELDS]


async def test_a_new_connection_meets_the_stalled_line_too(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.port) as proxy:
        proxy.stall()
        async with client.connect(proxy.url, timeout=0.3) as far:
            with pytest.raises(exceptions.TimeoutError):
                await client.clock_ms(far)
        await proxy.resume()
        async with client.connect(proxy.url) as far:
            assert await client.clock_ms(far) > 0


async def test_a_cut_line_resets_and_refuses_until_it_is_mended(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.port) as proxy, client.connect(proxy.url) as far:
        waiting = asyncio.create_task(client.raw(far, "BLPOP", "nothing", 0))
        await until(lambda: proxy.connections == 1, what="the client is connected")
        await proxy.cut()
        with pytest.raises(exceptions.ConnectionError):
            await waiting
        assert proxy.connections == 0
        with pytest.raises(exceptions.ConnectionError, match="Connect call failed"):
            await client.clock_ms(far)
        await proxy.resume()
        assert await client.clock_ms(far) > 0
        await proxy.drop_connections()
        with pytest.raises(exceptions.ConnectionError):
            await client.clock_ms(far)
        assert await client.clock_ms(far) > 0


async def test_a_stalled_line_can_be_cut(redis_server: RedisServer, new_stream: NewStream) -> None:
    stream = new_stream()
    async with Proxy(redis_server.port) as proxy, client.connect(proxy.url) as far:
        await client.clock_ms(far)
        proxy.stall()
        adding = asyncio.create_task(client.add(far, stream, FIELDS))
        await asyncio.wait([adding], timeout=0.1)
        await proxy.cut()
        with pytest.raises(exceptions.ConnectionError):
            await adding
        await proxy.resume()
        await client.clock_ms(far)
        assert await client.entries_at(redis_server.url, stream) == []


async def test_a_dead_server_behind_the_proxy_looks_dead(new_redis: NewRedis) -> None:
    server = new_redis()
    async with Proxy(server.port) as proxy, client.connect(proxy.url) as far:
        await client.clock_ms(far)
        server.kill()
        for _ in range(2):
            with pytest.raises(exceptions.ConnectionError):
                await client.clock_ms(far)
        await server.restart()
        assert await client.clock_ms(far) > 0


@EVERY_FLAVOUR
async def test_a_slot_moves_under_load(new_redis_cluster: NewRedisCluster, flavour: Flavour) -> None:
    cluster = await new_redis_cluster(flavour)
    stream = "orders.{0"
    slot = await cluster.slot_of(stream)
    source = await cluster.owner_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    added: list[bytes] = []
    stop = asyncio.Event()

    async def load() -> None:
        async with client.connect_cluster(cluster.url) as everywhere:
            while not stop.is_set():
                added.append(await client.add(everywhere, stream, [(b"n", b"%d" % len(added))]))

    loading = asyncio.create_task(load())
    for to in (target, source, target):
        enough = len(added) + 50
        await until(partial(_is_loaded, loading, added, enough), what="entries are added")
        await cluster.move_slot(slot, to)
        assert await cluster.owner_of(slot) is to
    stop.set()
    await loading
    assert [entry_id for entry_id, _ in await client.entries_at(target.url, stream)] == added
    with pytest.raises(ValueError, match="already"):
        await cluster.move_slot(slot, target)


async def test_the_middle_of_a_slots_move_can_be_looked_at(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(options=RedisOptions(password=AWKWARD_PASSWORD))
    streams = ["{tag}.0", "{tag}.1"]
    slot = await cluster.slot_of(streams[0])
    source = await cluster.owner_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    for stream in streams:
        await client.fill(source.url, stream, 1)
    move = await cluster.slot_move(slot, target)
    await move.begin()
    assert await move.move_keys(1) == 1
    async with client.connect(source.url) as connected:
        with pytest.raises(exceptions.TryAgainError):
            await client.raw(connected, "EXISTS", *streams)
        with pytest.raises(exceptions.AskError) as sent_on:
            await client.add(connected, "{tag}.2", FIELDS)
        assert (sent_on.value.slot_id, sent_on.value.port) == (slot, target.port)
    assert await move.move_keys(10) == 1
    assert await move.move_keys(10) == 0
    await move.end()
    for stream in streams:
        assert len(await client.entries_at(target.url, stream)) == 1


async def test_a_node_of_a_cluster_dies_and_comes_back(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(options=RedisOptions(aof="always"), node_timeout_ms=1_000)
    stream = "orders.0"
    owner = await cluster.owner_of(await cluster.slot_of(stream))
    expected = await client.fill(owner.url, stream, 10)
    owner.kill()
    survivor = next(node for node in cluster.nodes if node.running)
    async with client.connect(survivor.url) as connected:

        async def is_down() -> bool:
            return b"cluster_state:fail" in await client.raw(connected, "CLUSTER", "INFO")

        await until_async(is_down, what="the cluster is down")
    await cluster.restart(owner)
    assert await client.entries_at(owner.url, stream) == expected


@pytest.mark.parametrize("flavour", [Flavour.VALKEY, Flavour.REDIS_6_2])
async def test_a_replica_is_promoted_and_the_dead_master_rejoins(new_sentinel: NewSentinel, flavour: Flavour) -> None:
    watched = await new_sentinel(flavour, options=RedisOptions(aof="always", password=AWKWARD_PASSWORD))
    first, second = await watched.master(), await watched.replica()
    assert (first, second) == watched.servers
    async with client.connect(first.url) as connected:
        await client.add(connected, "orders", FIELDS)
        await client.raw(connected, "WAIT", 1, 5_000)
    assert await watched.failover() is second
    assert (await watched.master(), await watched.replica()) == (second, first)
    expected = await client.entries_at(second.url, "orders")
    assert [fields for _, fields in expected] == [FIELDS]
    await watched.rejoin()
    assert await client.entries_at(first.url, "orders") == expected
    async with client.connect(first.url) as connected:
        with pytest.raises(exceptions.ResponseError, match="read only replica"):
            await client.add(connected, "orders", FIELDS)


async def test_three_sentinels_agree(new_sentinel: NewSentinel) -> None:
    watched = await new_sentinel(Flavour.REDIS_7_0, sentinels=3)
    watched.sentinels[0].kill()
    assert await watched.failover() is watched.servers[1]


def _is_loaded(loading: asyncio.Task[None], added: list[bytes], enough: int) -> bool:
    return loading.done() or len(added) >= enough


async def _has(server: RedisServer, stream: str, count: int) -> bool:
    return len(await client.entries_at(server.url, stream)) == count
