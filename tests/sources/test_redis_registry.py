"""The registry of a group's members: what is done about streams when it is silent, or was emptied."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from redis.asyncio import Redis

from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_slots import companion_key
from runner.clients.redis_url import parse_redis_url
from runner.core.lease import LeaseTimes
from runner.model import Partition
from runner.sources.redis_lease_calls import LeaseCalls
from runner.sources.redis_leases import LeaseListener, Leases
from runner.sources.redis_reader import StreamPlace

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]

TIMES = LeaseTimes(60.0, 10.0)
"""What the server is asked is answered within a turn, and nothing that it keeps ends meanwhile."""

EARLIER = "!"
"""A member that stands before ours, and so gets the first stream."""


class Member:
    """One whose turns are made one by one, at the time ``now``."""

    def __init__(self, url: str, streams: list[str], group: str) -> None:
        self.now = 0.0
        self.taken: list[str] = []
        self.surplus: list[str] = []
        self.registry = f"members:{group}"
        self.places = [
            StreamPlace(
                Partition(stream, 0),
                stream.encode(),
                companion_key(stream.encode(), b":stream-runner:" + group.encode()),
                group.encode(),
                b"consumer",
            )
            for stream in streams
        ]
        self._client = RedisClient(RedisConnection(url=parse_redis_url(url), client_name="test"))
        self.leases = Leases(
            self.places,
            self.registry.encode(),
            b"me",
            self._client,
            TIMES,
            LeaseListener(
                seen=lambda seen: None,
                taken=lambda taken: self.taken.append(taken.place.partition.topic),
                renewed=lambda place: None,
                over=lambda place: None,
                surplus=lambda place: self.surplus.append(place.partition.topic),
                trouble=lambda place, origin, failure: None,
                turned=lambda: None,
            ),
            now=lambda: self.now,
        )

    async def turn(self) -> None:
        async with anyio.create_task_group() as calls:
            await self.leases._turn(calls)

    async def close(self) -> None:
        await self.leases.close()
        await self._client.close()


async def test_a_stream_taken_in_anothers_place_is_kept_while_the_registry_is_silent_after_a_join(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    theirs, ours = sorted(new_stream() for _ in range(2))
    member = Member(redis_server.url, [theirs, ours], new_stream())
    await client.hset(member.registry, EARLIER, str(10**15))
    await member.turn()
    assert member.taken == [ours]
    await client.set(member.registry, "no registry")  # it answers no more
    member.now += 3 * TIMES.duration
    await member.turn()
    assert member.taken == [ours, theirs]
    await member.turn()
    assert member.surplus == []
    await member.close()


async def test_nothing_moves_for_a_heartbeat_when_registry_and_leases_were_lost_together(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    streams = sorted(new_stream() for _ in range(4))
    member = Member(redis_server.url, streams, new_stream())
    other = RedisClient(RedisConnection(url=parse_redis_url(redis_server.url), client_name="other"))
    calls = LeaseCalls(other, EARLIER.encode(), TIMES, anyio.current_time)

    async def be_there() -> None:
        await client.hset(member.registry, EARLIER, str(10**15))
        for place in member.places[:2]:
            assert await calls.take(place) is not None

    await be_there()
    await member.turn()
    assert member.taken == streams[2:]
    await member.turn()
    await client.delete(member.registry, *[place.lease_key for place in member.places])
    await member.turn()
    assert member.taken == streams[2:]
    await member.turn()  # as after one of our own was lost
    assert member.taken == streams[2:], "the heartbeat is not over"
    await be_there()
    for _ in range(2):
        member.now += TIMES.heartbeat
        await member.turn()
    assert member.taken == streams[2:]
    await client.delete(member.registry, *[place.lease_key for place in member.places])
    await member.turn()
    assert member.taken == streams[2:]
    member.now += TIMES.heartbeat
    await member.turn()
    assert set(member.taken) == set(streams), "the other has not come back"
    for each in (member, calls, other):
        await each.close()


async def test_what_the_only_other_member_has_given_back_is_taken_at_once(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    theirs, ours = sorted(new_stream() for _ in range(2))
    member = Member(redis_server.url, [theirs, ours], new_stream())
    other = RedisClient(RedisConnection(url=parse_redis_url(redis_server.url), client_name="other"))
    calls = LeaseCalls(other, EARLIER.encode(), TIMES, anyio.current_time)
    await client.hset(member.registry, EARLIER, str(10**15))
    held = await calls.take(member.places[0])
    assert held is not None
    for _ in range(2):
        await member.turn()
    assert member.taken == [ours]
    await calls.release(held)
    await client.hdel(member.registry, EARLIER)
    await member.turn()
    assert member.taken == [ours, theirs]
    for each in (member, calls, other):
        await each.close()
