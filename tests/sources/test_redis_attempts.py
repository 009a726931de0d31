"""Attempts outlive their owner, and who ends it again and again is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.replica import PATIENT, a_replica, fill, give_time_to_leave, places
from redis_harness.server import RedisServer
from runner.model import Partition
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]


async def test_attempts_are_given_to_the_next_owner(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 5)
        first = a_replica(redis_server.url, [stream], group, **PATIENT)
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
        second = a_replica(redis_server.url, [stream], group, **PATIENT)
        async with second.running():
            await until(lambda: places(second) == added, what="everything comes again")
        assert second.attempts == {tried: 1, twice: 2}
        assert second.suspects == set()


class Dying(RedisStreamsSource):
    """Ends as with its process: what it has read counts as handed out. Nobody has to wait for its lease's end."""

    async def _leave(self) -> None:
        self._owned.clear()
        await super()._leave()


async def test_who_is_handed_out_again_and_again_is_a_suspect_and_charged_when_it_is_tried(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 3)
        innocent, killer, other = [place[1] for place in added]
        told = []
        for life in range(7):
            replica = a_replica(redis_server.url, [stream], group, Dying, **PATIENT)
            replica.settles = False
            async with replica.running():
                await until(lambda: len(replica.seen) == 3, what="everything is read")  # noqa: B023 - awaited here
                told.append((replica.attempts.get(killer, 0), replica.suspects))
                assert innocent not in replica.attempts
                if killer in replica.suspects:
                    await replica.source.charge(Partition(stream, 0), {killer: replica.attempts.get(killer, 0) + 1})
                elif life > 0:  # one more was tried, and failed
                    replica.source.attempted(Partition(stream, 0), {other: life})
                    await replica.source._holdings[Partition(stream, 0)].owned.write_attempts()
        assert told[:3] == [(0, set())] * 3
        assert told[3:6] == [(0, {innocent, killer}), (1, {innocent, killer}), (2, {innocent, killer})]
        assert told[6] == (3, {innocent, killer, other})


async def test_a_count_of_handing_out_never_runs_into_the_attempts(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        added = await fill(client, stream, 1)
        entry_id = added[0][1]
        first = a_replica(redis_server.url, [stream], group, **PATIENT)
        first.settles = False
        async with first.running():
            await until(lambda: len(first.seen) == 1, what="it is read")
        await raw(client, "XCLAIM", stream, group, "stream-runner", 0, entry_id, "RETRYCOUNT", 2_998, "JUSTID")
        second = a_replica(redis_server.url, [stream], group, **PATIENT)
        second.settles = False
        async with second.running():
            await until(lambda: len(second.seen) == 1, what="it comes again")
            assert [each.deliveries for each in await pending(client, stream, group)] == [2_004]
        assert second.attempts == {entry_id: 2}
        assert second.suspects == {entry_id}


async def test_what_is_given_back_unread_was_not_handed_out(
    redis_server: RedisServer, new_stream: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_time_to_leave(monkeypatch)
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        await fill(client, stream, 3)
        for _ in range(6):
            replica = a_replica(redis_server.url, [stream], group, **PATIENT)
            replica.settles = False
            async with replica.running():
                await until(lambda: len(replica.seen) == 3, what="everything is read")  # noqa: B023 - awaited here
            assert replica.suspects == set()
        assert [each.deliveries for each in await pending(client, stream, group)] == [0, 0, 0]
