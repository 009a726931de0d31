"""Entries of which fewer can be had at once than were asked for hold up nothing, and replies that were lost are no
attempts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import add, connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.late import calls
from redis_harness.proxy import Proxy
from redis_harness.replica import PATIENT, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.core.lease import LeaseTimes
from runner.model import Partition, Reason
from runner.sources.redis_read_size import LARGE_REPLY, STEP
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_shared_scripts import READ_SHARED
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]

KINDS = pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])


async def fill_large(client: Redis, stream: str, count: int, size: int) -> list[tuple[str, str]]:
    return [(stream, (await add(client, stream, [(b"v", bytes(size))])).decode()) for _ in range(count)]


@KINDS
async def test_after_small_ones_as_few_are_read_as_get_through(
    redis_server: RedisServer,
    new_stream: Callable[[], str],
    kind: type[RedisStreamsSource | SharedStreamsSource],
) -> None:
    stream, group = new_stream(), new_stream()
    async with Proxy(redis_server.port) as proxy, connect(redis_server.url) as client:
        proxy.longest_reply = 500_000
        added = await fill(client, stream, 1_000)
        added += await fill_large(client, stream, 40, 100_000)
        replica = a_replica(proxy.url, [stream], group, kind, **PATIENT)
        async with replica.running():
            await until(lambda: len(replica.seen) >= len(added), what="all is read")
        assert sorted(places(replica)) == sorted(added)
        if kind is RedisStreamsSource:
            assert places(replica) == added
        assert replica.attempts == {}
        assert replica.lost_streams == []


@KINDS
async def test_a_reply_ends_soon_after_entries_have_become_large(
    redis_server: RedisServer,
    new_stream: Callable[[], str],
    kind: type[RedisStreamsSource | SharedStreamsSource],
) -> None:
    stream, group, size = new_stream(), new_stream(), 300_000
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 1_010)  # then about 500 are asked for at once
        added += await fill_large(client, stream, 100, size)
        replica = a_replica(redis_server.url, [stream], group, kind, **PATIENT)
        async with replica.running():
            await until(lambda: len(replica.seen) >= len(added), what="all is read")
        assert sorted(places(replica)) == sorted(added)
        assert replica.largest < LARGE_REPLY + (STEP + 1) * size
        again = a_replica(redis_server.url, [stream], group, kind, **PATIENT)
        async with again.running():
            await fill(client, stream, 1)
            await until(lambda: len(again.seen) == 1, what="it goes on behind them")


@KINDS
async def test_one_that_does_not_get_through_is_told_and_never_charged(
    redis_server: RedisServer,
    new_stream: Callable[[], str],
    kind: type[RedisStreamsSource | SharedStreamsSource],
) -> None:
    stream, group = new_stream(), new_stream()
    async with Proxy(redis_server.port) as proxy, connect(redis_server.url) as client:
        added = await fill_large(client, stream, 1, 200_000)
        first = a_replica(redis_server.url, [stream], group, kind, **PATIENT)
        first.settles = False
        async with first.running():
            await until(lambda: places(first) == added, what="it is read")
        (entry,) = await pending(client, stream, group)
        # As often as it was handed out without that anybody got it, but once.
        await raw(client, "XCLAIM", stream, group, entry.consumer, 0, entry.id, "RETRYCOUNT", 999, "IDLE", 9_999_999,
                  "JUSTID")  # fmt: skip
        proxy.longest_reply = 100_000
        second = a_replica(proxy.url, [stream], group, kind, **PATIENT)
        second.settles = False
        async with second.running():
            await until(lambda: any(second.problems), what="it is told")
            told = next(problem for problem in second.problems if problem is not None)
            assert told.reason is Reason.EVENT_SOURCE_UNREACHABLE
            assert "the connection was closed by the other side" in told.text
            proxy.longest_reply = None
            await until(lambda: places(second) == added, what="it is read")
            await until(lambda: second.problems[-1] is None, what="nothing is wrong any more")
        assert second.attempts == {}
        assert second.suspects == {added[0][1]}


async def test_replies_that_do_not_come_within_a_lease_cancel_nothing_and_are_told(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with Proxy(redis_server.port) as proxy, connect(redis_server.url) as client:
        # A third of the lease is left for the heartbeat that is heard of after a read that nobody answers.
        lease = LeaseTimes(5.0, 0.4)
        replica = a_replica(proxy.url, [stream], group, SharedStreamsSource, lease=lease, command_timeout=5.0)
        replica.settles = False
        added = await fill(client, stream, 1)
        async with replica.running():
            await until(lambda: places(replica) == added, what="one is in work")
            asked = []
            swallowed = proxy.swallow(calls(READ_SHARED, b">"))
            added += await fill(client, stream, 10)
            for _ in range(3):
                await until(lambda: swallowed.done() or replica.lost_streams != [], what="it reads")  # noqa: B023
                assert replica.lost_streams == []
                asked.append(swallowed.result().split(b"\r\n>\r\n")[1].split(b"\r\n")[1])
                swallowed = proxy.swallow(calls(READ_SHARED, b">"))
            await until(lambda: any(replica.problems), what="it is told")
            proxy.swallow(lambda _: False)
            told = next(problem for problem in replica.problems if problem is not None)
            assert "no answer within 2.5 s" in told.text
            assert asked[-1] == b"1", "a smaller one may come in time"
            await until(lambda: sorted(places(replica)) == sorted(added), what="all is read, once")
            await until(lambda: replica.problems[-1] is None, what="nothing is wrong any more")
            assert replica.lost_streams == []


async def test_attempts_of_many_and_of_large_ones_are_written(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 250)
        added += await fill_large(client, stream, 5, 600_000)
        replica = a_replica(redis_server.url, [stream], group, **PATIENT)
        replica.settles = False
        async with replica.running():
            await until(lambda: places(replica) == added, what="all is read")
            replica.source.attempted(Partition(stream, 0), {position: 3 for _, position in added})

            async def are_written() -> bool:
                return {each.deliveries for each in await pending(client, stream, group)} == {3_000}

            await until_async(are_written, what="all attempts are written")
        assert {each.deliveries for each in await pending(client, stream, group)} == {3_000}
