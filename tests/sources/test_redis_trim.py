"""With ``trim``, a stream loses what every group of it has acknowledged, and nobody takes that for a loss of data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import add_many, connect, pending, raw, read_stream
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.options import RedisOptions
from redis_harness.replica import PATIENT, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.sources.redis_shared import SharedStreamsSource

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]

SMALL_NODES = RedisOptions(overrides={"stream-node-max-entries": "10"})
"""Only whole nodes are removed."""


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.sources.redis_source._LAG_INTERVAL", 0.1)


@pytest.fixture
def server(redis_server: RedisServer, new_redis: NewRedis) -> RedisServer:
    """One of the flavour that the test runs with, in which a node has ten entries."""
    return new_redis(redis_server.flavour, SMALL_NODES)


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with connect(server.url) as connected:
        yield connected


async def read_by_hand(client: Redis, stream: str, group: str, count: int) -> list[bytes]:
    """Returns the ids."""
    read = await raw(client, "XREADGROUP", "GROUP", group, "by hand", "COUNT", count, "STREAMS", stream, ">")
    return [entry[0] for entry in read[0][1]]


async def length(client: Redis, stream: str) -> int:
    return int(await raw(client, "XLEN", stream))


async def is_acknowledged(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


async def has_length(client: Redis, stream: str, expected: int) -> bool:
    return await length(client, stream) == expected


async def looked(client: Redis) -> None:
    """Wait until the source has looked at least twice more at how far the end is."""
    before = await questions(client)

    async def has_asked() -> bool:
        return await questions(client) >= before + 8

    await until_async(has_asked, what="it has looked")


async def questions(client: Redis) -> int:
    """How often XINFO has run: up to three times a look."""
    stats = await client.info("commandstats")
    return sum([calls["calls"] for name, calls in stats.items() if name.startswith("cmdstat_xinfo")])


@ON_EVERY_FLAVOUR
async def test_only_what_every_group_has_acknowledged_goes(
    server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group, other, third = [new_stream() for _ in range(4)]
    added = await fill(client, stream, 100)
    await raw(client, "XGROUP", "CREATE", stream, other, "0")
    await raw(client, "XGROUP", "CREATE", stream, third, "0")
    replica = a_replica(server.url, [stream], group, trims=True, **PATIENT)
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is read")
        await until_async(lambda: is_acknowledged(client, stream, group), what="it is acknowledged")
        ids = await read_by_hand(client, stream, other, 60)
        await raw(client, "XACK", stream, other, *ids[:35], *ids[36:])
        await looked(client)
        assert await length(client, stream) == 100, "the third group has read nothing"
        await raw(client, "XACK", stream, third, *await read_by_hand(client, stream, third, 80))
        await until_async(lambda: has_length(client, stream, 70), what="what all have acknowledged is gone")
        await looked(client)
        assert (await read_stream(client, stream))[0][0].decode() == added[30][1], "the other has one at 35"
        await raw(client, "XACK", stream, other, ids[35])
        await until_async(lambda: has_length(client, stream, 50), what="up to where the other is")
        more = await fill(client, stream, 30)
        await until(lambda: places(replica)[100:] == more, what="it is read on")
        await raw(client, "XGROUP", "DESTROY", stream, other)
        await raw(client, "XGROUP", "DESTROY", stream, third)
        await until_async(lambda: has_length(client, stream, 10), what="only this group counts any more")
        last = await fill(client, stream, 30)
        await until(lambda: places(replica)[130:] == last, what="it is read on")
    assert replica.losses == []
    assert replica.problems == []
    again = a_replica(server.url, [stream], group, trims=True, **PATIENT)
    async with again.running():
        more = await fill(client, stream, 5)
        await until(lambda: places(again) == more, what="the next owner misses nothing")
    assert again.losses == []
    assert again.problems == []


@ON_EVERY_FLAVOUR
async def test_what_is_pending_stays(server: RedisServer, client: Redis, new_stream: Callable[[], str]) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(server.url, [stream], group, trims=True, **PATIENT)
    replica.settles = False
    added = await fill(client, stream, 50)
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is read")
        await looked(client)
        assert await length(client, stream) == 50


@ON_EVERY_FLAVOUR
async def test_a_full_server_is_trimmed(server: RedisServer, client: Redis, new_stream: Callable[[], str]) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(server.url, [stream], group, trims=True, **PATIENT)
    replica.settles = False
    added = await fill(client, stream, 100)
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is read")
        await raw(client, "CONFIG", "SET", "maxmemory", "100kb")
        with pytest.raises(Exception, match="maxmemory"):
            await fill(client, stream, 1)
        replica.settles = True
        await until_async(lambda: has_length(client, stream, 10), what="all but the last node goes")
        await raw(client, "CONFIG", "SET", "maxmemory", "0")
        more = await fill(client, stream, 5)
        await until(lambda: places(replica)[100:] == more, what="it is read on")
    assert replica.losses == []


@pytest.mark.parametrize("trims", [True, False])
async def test_a_long_stream_is_trimmed_in_steps_or_not_at_all(
    trims: bool, server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    for _ in range(5):
        await add_many(client, stream, [[(b"v", b"x")]] * 5_000)
    last = (await raw(client, "XREVRANGE", stream, "+", "-", "COUNT", 1))[0][0]
    await raw(client, "XGROUP", "CREATE", stream, group, last)
    replica = a_replica(server.url, [stream], group, trims=trims, **PATIENT)
    async with replica.running():
        await until(lambda: replica.owned == {stream}, what="it is owned")
        if trims:
            await until_async(lambda: has_length(client, stream, 10), what="all of it goes")
            await until(lambda: replica.trimmed_entries == 24_990, what="it is counted")
        else:
            await looked(client)
            assert await length(client, stream) == 25_000
    assert replica.losses == []


async def test_whoever_shares_a_stream_trims_it(
    server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 100)
    one, two = [a_replica(server.url, [stream], group, SharedStreamsSource, trims=True, **PATIENT) for _ in range(2)]
    async with one.running(), two.running():
        await until(lambda: sorted(places(one) + places(two)) == sorted(added), what="it is read")
        await until_async(lambda: has_length(client, stream, 10), what="all but the last node goes")
        await until(lambda: one.trimmed_entries + two.trimmed_entries == 90, what="it is counted")
        more = await fill(client, stream, 30)
        await until(lambda: len(one.seen + two.seen) == 130, what="it is read on")
    assert set(more) <= set(places(one) + places(two))
    assert one.losses == two.losses == []


@ON_EVERY_FLAVOUR
async def test_what_a_group_was_set_back_to_read_again_stays(
    server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group, other = [new_stream() for _ in range(3)]
    added = await fill(client, stream, 100)
    await raw(client, "XGROUP", "CREATE", stream, other, "0")
    ids = await read_by_hand(client, stream, other, 100)
    await raw(client, "XACK", stream, other, *ids[:-1])
    await raw(client, "XGROUP", "SETID", stream, other, ids[29])
    replica = a_replica(server.url, [stream], group, trims=True, **PATIENT)
    async with replica.running():
        await until_async(lambda: has_length(client, stream, 80), what="only what it does not need goes")
        await looked(client)
        assert (await read_stream(client, stream))[0][0].decode() == added[20][1]
    assert replica.losses == []


@ON_EVERY_FLAVOUR
async def test_nothing_goes_while_a_group_waits_for_ids_that_are_not_there_yet(
    server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group, other = [new_stream() for _ in range(3)]
    added = await fill(client, stream, 50)
    await raw(client, "XGROUP", "CREATE", stream, other, f"{1 << 62}-0")
    replica = a_replica(server.url, [stream], group, trims=True, **PATIENT)
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is read")
        await until_async(lambda: is_acknowledged(client, stream, group), what="it is acknowledged")
        await looked(client)
        assert await length(client, stream) == 50
        await raw(client, "XGROUP", "SETID", stream, other, "$")
        await until_async(lambda: has_length(client, stream, 10), what="all but the last node goes")


@ON_EVERY_FLAVOUR
async def test_that_we_may_not_trim_is_told_once(
    server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    await raw(client, "ACL", "SETUSER", "some", "on", "nopass", "allkeys", "allchannels", "+@all", "-xtrim")
    some = RedisConnection(url=parse_redis_url(server.url), client_name="test", username="some")
    replica = a_replica(some, [stream], group, trims=True, **PATIENT)
    added = await fill(client, stream, 50)
    async with replica.running():
        await until(lambda: bool(replica.warnings), what="it is told")
        await looked(client)
        assert await length(client, stream) == 50
        (warning,) = replica.warnings
        assert f"{stream!r} is not trimmed: " in warning
        assert "allow the user +xtrim" in warning
        await raw(client, "ACL", "SETUSER", "some", "+xtrim")
        await until_async(lambda: has_length(client, stream, 10), what="all but the last node goes")
        await raw(client, "ACL", "SETUSER", "some", "-xtrim")
        await until(lambda: len(replica.warnings) == 2, what="it is told anew")
    assert places(replica) == added
    assert replica.problems == []
