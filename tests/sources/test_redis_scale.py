"""Many streams: their leases are kept in few calls, and one that may not be touched costs only its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import anyio
import pytest

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, connect_cluster, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis, NewRedisCluster
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.proxy import Proxy
from redis_harness.replica import LONGER, a_replica, fill
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_errors import RedisFailure
from runner.clients.redis_slots import companion_key
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.core.lease import LeaseTimes
from runner.model import Partition
from runner.sources.redis_lease_calls import LeaseCalls, Seen
from runner.sources.redis_lease_scripts import MOST_LEASES
from runner.sources.redis_reader import StreamPlace
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

LONG_CALLS = LeaseTimes(60.0, 10.0)
"""For who calls by himself, and wants each call to be answered, however long that takes."""

_LONG = 2 * LONGER.duration


class Singly(LeaseCalls):
    """Every lease has a call of its own, over one connection."""

    def groups(self, places: Iterable[StreamPlace]) -> list[tuple[StreamPlace, ...]]:
        return [(place,) for place in places]


class RenewingSingly(RedisStreamsSource):
    def _start(self, places: Sequence[StreamPlace]) -> None:
        super()._start(places)
        assert self._leases is not None
        self._leases._calls = Singly(self._client, self._owner, self._settings.lease, self._now)


def place_of(stream: str, group: str) -> StreamPlace:
    key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
    return StreamPlace(Partition(stream, 0), stream.encode(), key, group.encode(), b"consumer")


def a_client(url: str) -> RedisClient:
    return RedisClient(RedisConnection(url=parse_redis_url(url), client_name="scale"))


@pytest.mark.parametrize(
    ("streams", "delay", "kind"),
    [
        (150, 0.03, RedisStreamsSource),
        (60, 0.01, RenewingSingly),
        (150, 0.03, SharedStreamsSource),
    ],
)
async def test_many_leases_of_a_server_that_is_far_away_are_all_kept(
    streams: int,
    delay: float,
    kind: type[RedisStreamsSource | SharedStreamsSource],
    redis_server: RedisServer,
    new_stream: Callable[[], str],
) -> None:
    names, group = [new_stream() for _ in range(streams)], new_stream()
    async with connect(redis_server.url) as client:
        for name in names:
            await fill(client, name, 1)
    async with Proxy(redis_server.port) as proxy:
        proxy.delay = delay  # one after the other takes longer than a heartbeat
        replica = a_replica(proxy.url, names, group, kind, command_timeout=5.0, lease=LONGER)
        async with replica.running():
            await until(lambda: len(replica.owned) == streams, what="all are taken", timeout=60)
            await anyio.sleep(_LONG)
            assert replica.owned == set(names)
            assert replica.lost_streams == []


@ON_EVERY_FLAVOUR
async def test_of_many_leases_those_that_are_lost_are_lost_alone(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    names, group = [new_stream() for _ in range(5)], new_stream()
    client = a_client(redis_server.url)
    calls = LeaseCalls(client, b"me", LONG_CALLS, anyio.current_time)
    other = LeaseCalls(client, b"other", LONG_CALLS, anyio.current_time)
    places = [place_of(name, group) for name in names]
    taken = [await calls.take(place) for place in places]
    held = [each for each in taken if each is not None]
    assert len(held) == 5
    async with connect(redis_server.url) as control:
        await control.delete(places[1].lease_key)
        await control.set(places[2].lease_key, "no lease")
        await control.delete(places[3].lease_key)
        assert await other.take(places[3]) is not None
    run_ids = {each.run_id for each in held}
    kept, gone, broken, theirs, last = await calls.renew(held)
    assert {kept, last} == run_ids
    assert (gone, theirs) == (None, None)
    assert isinstance(broken, RedisFailure)
    assert "WRONGTYPE" in broken.text
    ours, free, unknown, anothers, _ = await other.look(places)
    assert not isinstance(ours, RedisFailure)
    assert not isinstance(free, RedisFailure)
    assert not isinstance(anothers, RedisFailure)
    assert isinstance(unknown, RedisFailure)
    assert [ours.owner, free.owner, free.was_owned, anothers.owner] == ["me", None, False, None]
    for one in (calls, other, client):
        await one.close()


async def test_who_loses_the_rights_to_a_stream_keeps_the_others(
    new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    names, group = [f"s{number}" for number in range(9)], new_stream()
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(users=(AclUser("some", "secret", "+@all ~*"),)))
    url = parse_redis_url(f"redis://{server.address}")
    connection = RedisConnection(url=url, client_name="test", username="some", password=Secret(literal="secret"))
    async with connect(server.url) as client:
        for name in names:
            await fill(client, name, 1)
        replica = a_replica(connection, names, group, lease=LONGER)
        async with replica.running():
            await until(lambda: replica.owned == set(names), what="all are taken")
            allowed = [pattern for name in names if name != "s4" for pattern in (f"~{name}", f"~{{{name}}}:*")]
            await raw(client, "ACL", "SETUSER", "some", "resetkeys", "~stream-runner:members:*", *allowed)
            await until(lambda: replica.lost_streams == ["s4"], what="it is lost")
            await anyio.sleep(_LONG)
            assert replica.lost_streams == ["s4"]
            await raw(client, "ACL", "SETUSER", "some", "~*")
            await until(lambda: replica.owned == set(names), what="it is taken again")


async def test_one_call_is_about_a_hundred_leases_and_in_a_cluster_about_one_slot() -> None:
    places = [place_of(f"s{number}", "g") for number in range(250)]
    client = a_client("redis://localhost")
    groups = LeaseCalls(client, b"me", LONG_CALLS, anyio.current_time).groups(places)
    assert [place for group in groups for place in group] == places
    assert [len(group) for group in groups] == [MOST_LEASES, MOST_LEASES, 50]
    cluster = a_client("redis+cluster://localhost")
    places = [place_of(name, "g") for name in ("{a}.0", "{b}.0", "{a}.1", "c")]
    groups = LeaseCalls(cluster, b"me", LONG_CALLS, anyio.current_time).groups(places)
    assert [[place.partition.topic for place in group] for group in groups] == [["{a}.0", "{a}.1"], ["{b}.0"], ["c"]]


async def test_as_many_connections_as_are_allowed_are_used_at_once(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    key = new_stream()
    client = a_client(redis_server.url)
    few = client.dedicated(10, connections=2)
    async with connect(redis_server.url) as control, anyio.create_task_group() as tasks:

        async def blocked() -> int:
            return int((await control.info("clients"))["blocked_clients"])

        before = await blocked()
        for _ in range(3):
            tasks.start_soon(few.execute, "BLPOP", key, 0)

        async def two_are_blocked() -> bool:
            return await blocked() == before + 2

        await until_async(two_are_blocked, what="two wait at the server, the third for a connection")
        assert len([each for each in await control.client_list() if each["name"] == "scale"]) == 2
        await control.rpush(key, 1, 2, 3)
    await few.close()
    await client.close()


async def test_leases_of_a_slot_that_moves_are_renewed_and_looked_at_every_time(
    new_redis_cluster: NewRedisCluster, new_stream: Callable[[], str]
) -> None:
    cluster = await new_redis_cluster(Flavour.VALKEY)
    places = [place_of("{same}" + new_stream(), "g") for _ in range(4)]
    slot = await cluster.slot_of("{same}")
    source = await cluster.owner_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    client = a_client(cluster.url.replace("redis://", "redis+cluster://"))
    calls = LeaseCalls(client, b"me", LONG_CALLS, anyio.current_time)
    taken = [await calls.take(place) for place in places]
    held = [each for each in taken if each is not None]
    assert len(held) == 4
    move = await cluster.slot_move(slot, target)
    await move.begin()
    await move.move_keys(2)
    for _ in range(3):
        assert calls.groups(places) == [tuple(places)]
        assert [type(answer) for answer in await calls.renew(held)] == [bytes] * 4
        assert [type(answer) for answer in await calls.look(places)] == [Seen] * 4
    await move.move_keys(100)
    await move.end()
    for one in (calls, client):
        await one.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])
async def test_in_a_cluster_all_are_kept(
    kind: type[RedisStreamsSource | SharedStreamsSource],
    new_redis_cluster: NewRedisCluster,
    new_stream: Callable[[], str],
) -> None:
    cluster = await new_redis_cluster(Flavour.VALKEY)
    names, group = [*[new_stream() for _ in range(110)], *["{same}" + new_stream() for _ in range(10)]], new_stream()
    replica = a_replica(cluster.url.replace("redis://", "redis+cluster://"), names, group, kind, lease=LONGER)
    async with connect_cluster(cluster.url) as client:
        for name in names:
            await fill(client, name, 1)
    async with replica.running():
        await until(lambda: len(replica.seen) == len(names), what="all are read", timeout=60)
        await anyio.sleep(_LONG)
        assert replica.lost_streams == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])
async def test_a_slot_of_many_streams_that_moves_for_long_costs_none_that_is_still_there(
    kind: type[RedisStreamsSource | SharedStreamsSource],
    new_redis_cluster: NewRedisCluster,
    new_stream: Callable[[], str],
) -> None:
    cluster = await new_redis_cluster(Flavour.VALKEY)
    names, group = ["{same}" + new_stream() for _ in range(10)], new_stream()
    slot = await cluster.slot_of(names[0])
    source = await cluster.owner_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    lease = LeaseTimes(6.0, 1.6)  # the longest heartbeat that is allowed: two that fail in a row lose it
    replica = a_replica(cluster.url.replace("redis://", "redis+cluster://"), names, group, kind, lease=lease)
    async with connect_cluster(cluster.url) as client:
        for name in names:
            await fill(client, name, 1)
    async with replica.running():
        await until(lambda: len(replica.seen) == len(names), what="all are read", timeout=60)
        move = await cluster.slot_move(slot, target)
        await move.begin()
        await move.move_keys(2)
        async with connect(source.url) as client:
            there = set(await raw(client, "CLUSTER", "GETKEYSINSLOT", slot, 100))
        stay = [name for name in names if {*place_of(name, group).keys} <= there]
        assert len(stay) >= 8
        await anyio.sleep(2 * lease.duration)
        assert set(replica.lost_streams).isdisjoint(stay)
        while await move.move_keys(100):
            pass
        await move.end()
        await until(lambda: replica.owned == set(names), what="all are read again")
