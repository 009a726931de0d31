"""What is trimmed before it was acknowledged is told and counted, each entry once, and holds nothing up."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.naming import NewStream
from kafka_harness.waiting import until, until_async
from redis_harness.client import pending, raw, read_stream
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.flavour import Flavour
from redis_harness.replica import PATIENT, Replica, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.model import Partition, Problem, Reason
from runner.sources.redis_shared import SharedStreamsSource

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]

COUNTING = pytest.mark.parametrize("redis_server", [Flavour.VALKEY, Flavour.REDIS_7_0], indirect=True)
"""The servers that count what was ever added to a stream, and given to a group."""


@pytest.fixture(autouse=True)
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads finds what is lost, and not the next look at how far the end is, but where a test says so."""
    monkeypatch.setattr("runner.sources.redis_source._LAG_INTERVAL", 3_600.0)


@pytest.fixture
def stream(new_stream: NewStream) -> str:
    return new_stream()


@pytest.fixture
def group(new_stream: NewStream) -> str:
    return new_stream()


@pytest.fixture
def new_replica(redis_server: RedisServer, stream: str, group: str) -> Callable[..., Replica]:
    """Makes replicas of the one stream and the one group; keyword arguments are RedisStreamsSettings'."""
    return partial(a_replica, redis_server.url, [stream], group, **PATIENT)


@asynccontextmanager
async def running_at_the_end(replica: Replica, client: Redis, stream: str, count: int = 10) -> AsyncIterator[None]:
    """``replica`` runs, and has read the ``count`` entries that were added to the stream."""
    added = await fill(client, stream, count)
    async with replica.running():
        await until(lambda: places(replica) == added, what="all is read")
        yield


async def until_stopped(replica: Replica) -> Problem:
    """Wait until something is wrong with the stream; returns what."""
    await until(lambda: bool(replica.problems) and replica.problems[-1] is not None, what="it says so")
    problem = replica.problems[-1]
    assert problem is not None
    return problem


def sum_of_losses(*replicas: Replica) -> int:
    """Of how many entries they were told that they are lost."""
    return sum([records or 0 for replica in replicas for records in counted(replica)])


async def lose(client: Redis, stream: str, lost: int, kept: int) -> list[tuple[str, str]]:
    """Add ``lost + kept`` entries and trim all but the last ``kept``, in one step, so that nobody can read the others.
    Returns (stream, id) of those that are there."""
    async with client.pipeline(transaction=True) as at_once:
        for number in range(lost + kept):
            at_once.execute_command("XADD", stream, "*", "v", str(number))
        at_once.execute_command("XTRIM", stream, "MAXLEN", kept)
        added = (await at_once.execute())[:-1]
    return [(stream, entry_id.decode()) for entry_id in added[lost:]]


async def is_acknowledged(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


async def commands(client: Redis) -> int:
    stats = await client.info("stats")
    return int(stats["total_commands_processed"])


def counted(replica: Replica) -> list[int | None]:
    return [records for _, records in replica.losses]


async def lose_while_it_is_read(client: Redis, stream: str, replica: Replica) -> None:
    """Several times; each is to be told at once."""
    for lost in (5, 9, 2, 2, 6):
        expected = [*counted(replica), lost]
        kept = await lose(client, stream, lost, 3)
        await until(lambda: counted(replica) == expected, what="it is told at once")  # noqa: B023 - awaited here
        await until(lambda: places(replica)[-3:] == kept, what="what is there is read")  # noqa: B023 - awaited here


@COUNTING
async def test_every_loss_is_counted_once_whoever_reads_on(
    client: Redis, stream: str, group: str, new_replica: Callable[..., Replica]
) -> None:
    added = await fill(client, stream, 10)
    first = new_replica(continue_after_loss=True)
    async with first.running():
        await until(lambda: places(first) == added, what="all is read")
        await lose_while_it_is_read(client, stream, first)
    assert counted(first) == [5, 9, 2, 2, 6]
    kept = await lose(client, stream, 4, 5)
    second = new_replica(continue_after_loss=True)
    async with second.running():
        await until(lambda: places(second) == kept, what="what is there is read")
        await lose_while_it_is_read(client, stream, second)
    assert counted(second) == [4, 5, 9, 2, 2, 6]
    third = new_replica(continue_after_loss=True)
    async with third.running():
        added = await fill(client, stream, 1)
        await until(lambda: places(third) == added, what="it is read on")
    assert counted(third) == []
    assert first.lost_streams == second.lost_streams == []
    assert await is_acknowledged(client, stream, group)


@COUNTING
async def test_losses_are_counted_though_the_group_is_made_anew(
    client: Redis, stream: str, group: str, new_replica: Callable[..., Replica]
) -> None:
    replica = new_replica(continue_after_loss=True)
    async with running_at_the_end(replica, client, stream):
        kept = await lose(client, stream, 7, 3)
        await until(lambda: places(replica)[10:] == kept, what="it is read on")
        await until_async(lambda: is_acknowledged(client, stream, group), what="it is acknowledged")
        await raw(client, "XGROUP", "DESTROY", stream, group)
        added = await fill(client, stream, 5)
        await until(lambda: places(replica)[-5:] == added, what="the group is there again")
        kept = await lose(client, stream, 4, 3)
        await until(lambda: places(replica)[-3:] == kept, what="it is read on")
        assert counted(replica) == [7, 4]
        await client.delete(stream)
        added = await fill(client, stream, 5)
        await until(lambda: places(replica)[-5:] == added, what="the stream is there again")
        kept = await lose(client, stream, 2, 3)
        await until(lambda: places(replica)[-3:] == kept, what="it is read on")
    assert counted(replica) == [7, 4, 2]


@COUNTING
async def test_a_stream_that_is_trimmed_all_the_time_is_read_and_every_entry_is_read_or_counted(
    client: Redis, stream: str, new_replica: Callable[..., Replica]
) -> None:
    replica = new_replica(continue_after_loss=True)
    await fill(client, stream, 1)
    rounds, size = 300, 20
    async with replica.running():
        await until(lambda: len(replica.seen) == 1, what="it is read")
        for _ in range(rounds):
            await lose(client, stream, size - 5, 5)
        entries = await read_stream(client, stream)
        last = (stream, entries[-1][0].decode())
        await until(lambda: places(replica)[-1] == last, what="the last one is read")
    missing = 1 + rounds * size - len(replica.seen)
    assert missing == sum_of_losses(replica)
    assert len(replica.seen) > 5


@COUNTING
async def test_what_goes_while_nothing_is_read_is_told_before_anything_behind_it_comes(
    client: Redis, stream: str, new_replica: Callable[..., Replica]
) -> None:
    replica = new_replica(continue_after_loss=True)
    async with running_at_the_end(replica, client, stream):
        await pause_while_they_wait(client, stream, replica)
        await fill(client, stream, 8)
        await raw(client, "XTRIM", stream, "MAXLEN", 0)
        replica.source.resume(Partition(stream, 0))
        await until(lambda: counted(replica) == [8], what="it is told though nothing is there")
        added = await fill(client, stream, 2)
        await until(lambda: places(replica)[10:] == added, what="it is read on")
    assert counted(replica) == [8]


@COUNTING
async def test_it_stops_at_a_loss_says_so_and_goes_on_by_itself_when_the_group_is_set(
    redis_server: RedisServer, client: Redis, stream: str, group: str
) -> None:
    stream, group = f"{stream} it's", f"{group};"
    replica = a_replica(redis_server.url, [stream], group, **PATIENT)
    async with running_at_the_end(replica, client, stream):
        kept = await lose(client, stream, 6, 4)
        problem = await until_stopped(replica)
        assert problem.reason is Reason.DATA_LOSS
        assert "6 entries" in problem.text
        command = shlex.split(problem.hint.partition("move the group on: ")[2])
        assert command == ["XGROUP", "SETID", stream, group, "0"], "as a shell takes it"
        before = await commands(client)
        await anyio.sleep(1.0)
        assert await commands(client) - before < 300, "it is looked at now and then"
        assert len(replica.seen) == 10, "nothing is passed over"
        assert replica.problems[-1] is not None, "it shows for as long as it lasts"
        assert replica.lost_streams == [stream], "the assignment is over once"
        await raw(client, *command)
        await until(lambda: places(replica)[10:] == kept, what="it goes on")
        await until(lambda: replica.problems[-1] is None, what="nothing is wrong any more")
    assert replica.losses == []


async def test_it_stops_at_a_loss_while_it_is_paused(
    client: Redis, stream: str, new_replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.sources.redis_source._LAG_INTERVAL", 0.2)
    replica = new_replica()
    async with running_at_the_end(replica, client, stream):
        await pause_while_they_wait(client, stream, replica)
        await lose(client, stream, 6, 4)
        await until_stopped(replica)
        await until(lambda: replica.lost_streams == [stream], what="the assignment is over")
        assert len(replica.seen) == 10


async def test_it_counts_a_loss_once_while_it_is_paused(
    client: Redis, stream: str, new_replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.sources.redis_source._LAG_INTERVAL", 0.2)
    replica = new_replica(continue_after_loss=True)
    async with running_at_the_end(replica, client, stream):
        await pause_while_they_wait(client, stream, replica)
        await lose(client, stream, 6, 4)
        await until(lambda: counted(replica) == [6], what="it is told")
        await lose(client, stream, 2, 4)
        await until(lambda: counted(replica) == [6, 6], what="it is told, with the four that were there")
    again = new_replica(continue_after_loss=True)
    async with again.running():
        await until(lambda: len(again.seen) == 4, what="it is read on")
    assert again.losses == []


@ON_EVERY_FLAVOUR
async def test_pending_entries_that_are_gone_are_told_and_acknowledged(
    client: Redis, stream: str, group: str, new_replica: Callable[..., Replica]
) -> None:
    first = new_replica()
    first.settles = False
    added = await fill(client, stream, 10)
    async with first.running():
        await until(lambda: places(first) == added, what="they are read")
    await raw(client, "XTRIM", stream, "MAXLEN", 4)
    await raw(client, "XDEL", stream, added[8][1])
    second = new_replica()
    async with second.running():
        await until(lambda: len(second.seen) == 3, what="the others come again")
        await until_async(lambda: is_acknowledged(client, stream, group), what="all is acknowledged")
        more = await fill(client, stream, 5)
        await until(lambda: places(second)[3:] == more, what="it is read on")
        before = await commands(client)
        await anyio.sleep(1.0)
        assert await commands(client) - before < 200, "nothing goes in circles"
    assert places(second)[:3] == [added[6], added[7], added[9]]
    assert sum_of_losses(second) == 7
    assert second.problems == []


@ON_EVERY_FLAVOUR
async def test_entries_of_other_consumers_that_are_gone_are_told_and_acknowledged(
    client: Redis, stream: str, group: str, new_replica: Callable[..., Replica]
) -> None:
    added = await fill(client, stream, 1_200)
    await raw(client, "XGROUP", "CREATE", stream, group, "0")
    for consumer in ("one", "other"):
        await raw(client, "XREADGROUP", "GROUP", group, consumer, "COUNT", 600, "STREAMS", stream, ">")
    await raw(client, "XTRIM", stream, "MAXLEN", 500)
    await raw(client, "XDEL", stream, added[900][1])
    replica = new_replica()
    async with replica.running():
        await until(lambda: len(replica.seen) == 499, what="what is there is read")
        await until_async(lambda: is_acknowledged(client, stream, group), what="all is acknowledged")
    assert places(replica) == [*added[700:900], *added[901:]]
    assert sum_of_losses(replica) == 701
    assert replica.problems == []


@COUNTING
async def test_of_those_who_share_a_stream_one_tells_of_a_loss(
    client: Redis, stream: str, new_replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.sources.redis_source._LAG_INTERVAL", 0.05)
    one, two = [new_replica(kind=SharedStreamsSource, continue_after_loss=True) for _ in range(2)]
    added = await fill(client, stream, 10)
    async with one.running(), two.running():
        await until(lambda: len(one.seen + two.seen) == 10, what="all is read")
        for lost in (5, 9, 2):
            added += await lose(client, stream, lost, 3)
            await until(lambda: len(one.seen + two.seen) == len(added), what="it is read on")  # noqa: B023 - awaited here
    assert sorted(places(one) + places(two)) == sorted(added)
    assert sum_of_losses(one, two) == 16
