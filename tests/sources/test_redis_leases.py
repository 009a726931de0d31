"""Leases are kept stream by stream: what happens to one, or to its server, is no other's trouble."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import clock_ms, connect, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.proxy import Proxy
from redis_harness.replica import LEASE, LONGER, PATIENT, Replica, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_slots import companion_key
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.model import Partition, Problem
from runner.ports import CheckpointFenced
from runner.sources.redis_lease_calls import LeaseCalls, Taken
from runner.sources.redis_leases import LeaseListener, Leases
from runner.sources.redis_reader import StreamPlace
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


def lease_key(stream: str, group: str) -> bytes:
    return companion_key(stream.encode(), b":stream-runner:" + group.encode())


async def lease_of(client: Redis, stream: str, group: str) -> dict[bytes, bytes]:
    flat = await raw(client, "HGETALL", lease_key(stream, group))
    return dict(zip(flat[::2], flat[1::2], strict=True))


class SlowToHear(LeaseCalls):
    """What a lease is granted with is on its way until ``arrives`` is set."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client, b"me", PATIENT["lease"], anyio.current_time)
        self.arrives = anyio.Event()

    async def take(self, place: StreamPlace) -> Taken | None:
        taken = await super().take(place)
        await self.arrives.wait()
        return taken


class Member:
    """One that keeps leases, and hears late of the first that it gets."""

    def __init__(self, url: str, stream: str, group: str) -> None:
        self.taken: list[Taken] = []
        self._client = RedisClient(RedisConnection(url=parse_redis_url(url), client_name="test"))
        key = lease_key(stream, group)
        self.leases = Leases(
            [StreamPlace(Partition(stream, 0), stream.encode(), key, group.encode(), b"consumer")],
            f"members:{group}".encode(),
            b"me",
            self._client,
            PATIENT["lease"],
            LeaseListener(
                seen=lambda seen: None,
                taken=self.taken.append,
                renewed=lambda place: None,
                over=lambda place: None,
                surplus=lambda place: None,
                trouble=lambda place, origin, failure: None,
                turned=lambda: None,
            ),
            now=anyio.current_time,
        )
        self.calls = self.leases._calls = SlowToHear(self._client)

    async def close(self) -> None:
        await self.leases.close()
        await self._client.close()


async def test_a_stream_whose_grant_is_on_its_way_is_not_asked_for_again(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    member = Member(redis_server.url, stream, group)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(member.leases.keep_taking)
        granted = await until_async(lambda: lease_of(client, stream, group), what="the lease is granted")
        await anyio.sleep(2 * LEASE.heartbeat)  # it would be looked at again
        member.calls.arrives.set()
        await until(lambda: member.taken, what="the grant is heard of")
        await anyio.sleep(2 * LEASE.heartbeat)
        tasks.cancel_scope.cancel()
    await member.close()
    assert [taken.lease.generation for taken in member.taken] == [int(granted[b"generation"])]
    assert (await lease_of(client, stream, group))[b"generation"] == granted[b"generation"]


async def test_what_is_granted_to_one_who_leaves_is_given_back_at_once(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    member = Member(redis_server.url, stream, group)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(member.leases.keep_taking)
        await until_async(lambda: lease_of(client, stream, group), what="the lease is granted")
        assert await until_async(lambda: client.hkeys(f"members:{group}"), what="it is a member") == [b"me"]
        member.leases.stop_taking()
        member.calls.arrives.set()
    assert member.taken == []
    await member.close()
    assert (await lease_of(client, stream, group))[b"owner"] == b""
    assert await client.hkeys(f"members:{group}") == []


class EndingAtOnce(RedisStreamsSource):
    """The first lease is over before a step was made with it."""

    ended = 0

    def _begin(self, taken: Taken) -> None:
        super()._begin(taken)
        if not self.ended:
            self.ended += 1
            assert self._leases is not None
            self._leases.end(taken.place, taken.lease)


async def test_a_stream_whose_lease_ends_before_it_is_begun_is_taken_again(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group, **PATIENT)
    ending = EndingAtOnce(replica.source._settings, now=replica.source._now)
    replica.source = ending
    added = await fill(client, stream, 5)
    async with replica.running():
        await until(lambda: places(replica) == added, what="it is read")
    assert ending.ended == 1
    assert replica.lost_streams == []


@ON_EVERY_FLAVOUR
async def test_what_is_taken_after_a_restart_is_kept(
    redis_server: RedisServer, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(redis_server.flavour, RedisOptions(aof="always"))
    stream, group = new_stream(), new_stream()
    replica = a_replica(server.url, [stream], group, lease=LONGER)
    async with connect(server.url) as client:
        await fill(client, stream, 5)
    async with replica.running():
        await until(lambda: len(replica.seen) == 5, what="it is read")
        server.kill()
        await until(lambda: replica.lost_streams == [stream], what="the lease is over")
        await server.restart()
        await until(lambda: replica.owned == {stream}, what="it is taken again")
        taken_until = replica._leases[stream].until
        await until(lambda: replica._leases[stream].until > taken_until + LEASE.duration, what="it was renewed often")
        assert replica.lost_streams == [stream]


async def test_who_stops_takes_nothing_more(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    streams, group = [new_stream() for _ in range(4)], new_stream()
    for stream in streams:
        await fill(client, stream, 1)
    stopping, going = [a_replica(redis_server.url, streams, group, **PATIENT) for _ in range(2)]
    async with stopping.running():
        async with going.running():
            await until(lambda: (len(stopping.owned), len(going.owned)) == (2, 2), what="they share the streams")
            kept = set(stopping.owned)
            stopping.source.stop_taking()
        await anyio.sleep(2 * LEASE.duration)
        assert stopping.owned == kept, "what the other gave back is not taken, and nothing was let go"
        coming = a_replica(redis_server.url, streams, group, **PATIENT)
        async with coming.running():
            await until(lambda: coming.owned == set(streams) - kept, what="a third takes it")
        assert stopping.lost_streams == []


@pytest.mark.slow
async def test_who_cannot_read_gets_no_share_and_who_reads_in_part_leaves_the_rest_to_others(
    new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    streams, group = [f"s{number}" for number in range(4)], new_stream()
    members = "~stream-runner:members:*"
    users = (
        AclUser("nothing", "secret", f"+@all {members}"),
        AclUser("some", "secret", f"+@all {members} ~s0 ~{{s0}}:*"),
    )
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(users=users))

    def by(user: str) -> RedisConnection:
        url = parse_redis_url(f"redis://{server.address}")
        return RedisConnection(url=url, client_name="test", username=user, password=Secret(literal="secret"))

    async with connect(server.url) as client:
        added = [each for stream in streams for each in await fill(client, stream, 5)]
    nothing, some = [a_replica(by(user), streams, group, lease=LONGER) for user in ("nothing", "some")]
    every = a_replica(server.url, streams, group, lease=LONGER)
    async with nothing.running(), some.running():
        await until(lambda: some.owned == {"s0"}, what="what can be read is read")
        await until(lambda: nothing.problems, what="who can read nothing says so")
        async with every.running():
            await until(lambda: every.owned == {"s1", "s2", "s3"}, what="the rest is taken, soon or late")
            await until(lambda: len(every.seen) + len(some.seen) == len(added), what="all is read")
            await anyio.sleep(2 * LONGER.duration)
            assert (nothing.owned, some.owned, every.revoked_streams) == (set(), {"s0"}, []), "and it stays so"


class Ordered(Replica):
    """Remembers what it was told in its order."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica.source, replica.client_name)
        self.told: list[Any] = []

    async def lost(self, partitions: Collection[Partition]) -> None:
        await super().lost(partitions)
        self.told.append("lost")

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None:
        super().partition_problem(partition, problem)
        self.told.append(problem)


async def test_a_problem_that_outlives_its_assignment_is_told_again(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    replica = Ordered(a_replica(redis_server.url, [stream], group, **PATIENT))
    await fill(client, stream, 5)
    async with replica.running():
        await until(lambda: len(replica.seen) == 5, what="it is read")
        async with client.pipeline(transaction=True) as at_once:
            at_once.delete(stream)
            at_once.set(stream, "no stream")
            await at_once.execute()
        await until(lambda: "lost" in replica.told, what="the assignment is over")
        problem = replica.told[replica.told.index("lost") + 1]
        assert "WRONGTYPE" in problem.text
        await client.delete(stream)
        await fill(client, stream, 5)
        await until(lambda: len(replica.seen) == 10, what="it is read again")
        await until(lambda: replica.told[-1] is None, what="nothing is wrong any more")


async def test_a_refused_checkpoint_is_named_though_another_could_not_be_stored(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 5)
    ours, foreign = Partition(stream, 0), Partition("foreign", 0)
    async with Proxy(redis_server.port) as proxy:
        replica = a_replica(proxy.url, [stream], group, lease=PATIENT["lease"], command_timeout=2.0)
        replica.settles = False
        async with replica.running():
            await until(lambda: places(replica) == added, what="it is read")
            proxy.stall()
            with pytest.raises(CheckpointFenced) as refused:
                await replica.source.checkpoint({ours: added[-1][1], foreign: "1-0"})
            await proxy.resume()
    assert refused.value.partitions == {foreign}
    assert refused.value.failed.keys() == {ours}


@ON_EVERY_FLAVOUR
async def test_who_owns_nothing_remembers_what_the_owner_did(
    redis_server: RedisServer, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(redis_server.flavour)
    stream, group = new_stream(), new_stream()
    owner, other = [a_replica(server.url, [stream], group) for _ in range(2)]
    async with connect(server.url) as client, owner.running():
        await until(lambda: owner.owned == {stream} or owner.problems, what="it is taken")
        async with other.running():
            memory = other.source._memories[Partition(stream, 0)]
            await fill(client, stream, 5)
            await until(lambda: len(owner.seen) == 5, what="it is read")
            kept = await until_async(lambda: stored_behind(client, owner, group), what="the checkpoint is stored")
            await until(lambda: memory.checkpoint == kept, what="the other knows it")
            assert memory.was_seen
            await client.flushall()
            await until_async(lambda: lease_of(client, stream, group), what="it is taken anew")
            assert memory.was_seen


async def stored_behind(client: Redis, owner: Replica, group: str) -> str | None:
    """The checkpoint beside the lease, when it is behind all that was read."""
    stream, last, _ = owner.seen[-1]
    stored = (await lease_of(client, stream, group)).get(b"checkpoint", b"").decode()
    time, _, number = last.partition("-")
    return stored if stored == f"{time}-{int(number) + 1}" else None


class HearingLate(RedisStreamsSource):
    """What a lease is granted with is on its way until ``calls.arrives`` is set."""

    calls: SlowToHear

    def _start(self, places: Sequence[StreamPlace]) -> None:
        super()._start(places)
        assert self._leases is not None
        self.calls = self._leases._calls = SlowToHear(self._client)


async def test_what_is_granted_while_the_source_is_closed_is_given_back(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group, HearingLate, **PATIENT)
    source = replica.source
    assert isinstance(source, HearingLate)
    await source.open(replica)
    await until_async(lambda: lease_of(client, stream, group), what="the lease is granted")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.close)
        await anyio.wait_all_tasks_blocked()
        source.calls.arrives.set()
    assert (await lease_of(client, stream, group))[b"owner"] == b""


async def test_a_stream_waits_for_its_member_only_while_it_is_seen_to_be_free(
    client: Redis, redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    await fill(client, stream, 1)

    joined = anyio.Event()

    async def be_a_member_that_takes_nothing() -> None:
        while True:
            for registry in await client.keys(f"stream-runner:members:{group}:*"):
                await client.hset(registry, "!", str(10**15))  # "!" stands before every other, and so gets the stream
                joined.set()
            await anyio.sleep(LEASE.heartbeat / 4)

    async with Proxy(redis_server.port) as proxy, anyio.create_task_group() as tasks:
        tasks.start_soon(be_a_member_that_takes_nothing)
        async with a_replica(redis_server.url, [stream], group).running():
            await joined.wait()  # the registry is there, and stays
        replica = a_replica(proxy.url, [stream], group)
        # Until it knows of the other it would take what is free.
        key, much = lease_key(stream, group), 10**9
        ends_at = await clock_ms(client) + much
        await raw(client, "HSET", key, "owner", "third", "expires_at", ends_at, "lasts", much)
        async with replica.running():
            leases = replica.ordered._leases
            assert leases is not None
            await until(lambda: "!" in leases._members.current, what="it knows of the other")
            await raw(client, "HSET", key, "owner", "", "expires_at", 0)
            await until(lambda: stream in leases._free_since, what="it is seen to be free")
            await proxy.cut()
            cut_at = anyio.current_time()
            await until(lambda: any(replica.problems), what="the server is out of reach")
            await until(lambda: anyio.current_time() > cut_at + 3 * LEASE.duration, what="the time is over")
            healed_at = anyio.current_time()
            await proxy.resume()
            await until(lambda: replica.owned == {stream}, what="it is taken in the other's place")
            assert anyio.current_time() - healed_at > 2 * LEASE.duration
        tasks.cancel_scope.cancel()
