"""Attempts outlive their owner, and who ends it again and again is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, pending
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.replica import a_replica, fill, places
from redis_harness.server import RedisServer
from runner.core.lease import LeaseTimes
from runner.model import Partition

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]


async def test_attempts_are_given_to_the_next_owner(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 5)
        first = a_replica(redis_server.url, [stream], group)
        first.settles = False
        tried, twice = added[1][1], added[3][1]
        async with first.running():
            await until(lambda: places(first) == added, what="everything is read")
            assert first.attempts == {}
            first.source.attempted(Partition(stream, 0), {tried: 1, twice: 1})
            first.source.attempted(Partition(stream, 0), {twice: 2})

            async def are_written() -> bool:
                counts = {each.id.decode(): each.deliveries // 1_000 for each in await pending(client, stream, group)}
                return (counts[tried], counts[twice]) == (1, 2)

            await until_async(are_written, what="the attempts are written, without a checkpoint")
        second = a_replica(redis_server.url, [stream], group)
        async with second.running():
            await until(lambda: places(second) == added, what="everything comes again")
        assert second.attempts == {tried: 1, twice: 2}
        assert second.suspects == set()


async def test_who_is_handed_out_again_and_again_is_a_suspect(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 3)
        killer = added[1][1]
        told = []
        for life in range(6):
            replica = a_replica(redis_server.url, [stream], group, lease=LeaseTimes(1.0, 0.2))
            replica.settles = False
            async with replica.running():
                await until(lambda: len(replica.seen) == 3, what="everything is read")  # noqa: B023 - awaited here
                if life > 0:  # the others were tried, and failed
                    replica.source.attempted(Partition(stream, 0), {added[0][1]: life, added[2][1]: life})
                    await replica.source._holdings[Partition(stream, 0)].owned.write_attempts()
                # As a process that ends without giving its lease back: what it read still counts as handed out.
                replica.source._leases = None
            told.append((replica.attempts.get(killer, 0), killer in replica.suspects, len(replica.suspects)))
        assert told[:3] == [(0, False, 0)] * 3
        assert told[3:] == [(0, True, 1), (1, True, 1), (2, True, 1)]


async def test_what_is_given_back_unread_was_not_handed_out(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        await fill(client, stream, 3)
        for _ in range(6):
            replica = a_replica(redis_server.url, [stream], group)
            replica.settles = False
            async with replica.running():
                await until(lambda: len(replica.seen) == 3, what="everything is read")  # noqa: B023 - awaited here
            assert replica.suspects == set()
        assert [each.deliveries for each in await pending(client, stream, group)] == [0, 0, 0]
