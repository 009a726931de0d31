"""Where a stream is begun when its group is not there: nothing is passed over, whatever was lost of what was known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import clock_ms, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.proxy import Proxy
from redis_harness.replica import PATIENT, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis_slots import companion_key
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_start import FIRST_ID, CheckpointMissing, Known, Stream, first_checkpoint
from runner.sources.redis_streams import RedisStreamsSource
from runner.sources.starting import StartingPosition

LATEST = StartingPosition.LATEST


def a_stream(*, length: int = 10, last: str = "100-5", added: int | None = 10) -> Stream:
    return Stream(length=length, last_generated=last, entries_added=added, group=None, lost=None)


@pytest.mark.parametrize(
    ("starting", "begin"),
    [
        (StartingPosition.TRIM_HORIZON, FIRST_ID),
        (StartingPosition.LATEST, "100-6"),
        (StartingPosition.AT_TIMESTAMP, "50-0"),
    ],
)
def test_the_starting_position_counts_where_nobody_ever_read(starting: StartingPosition, begin: str) -> None:
    assert first_checkpoint(a_stream(), Known(), starting, 0.05) == begin


@pytest.mark.parametrize("timestamp", [0.101, 5.0, 1e12])
def test_a_time_behind_the_last_entry_is_the_end(timestamp: float) -> None:
    assert first_checkpoint(a_stream(), Known(), StartingPosition.AT_TIMESTAMP, timestamp) == "100-6"


@pytest.mark.parametrize(
    ("checkpoint", "begin"),
    [
        ("40-0", "40-0"),
        ("100-6", "100-6"),  # everything was read
        ("100-7", FIRST_ID),  # it was further: this is another stream
    ],
)
def test_it_goes_on_at_the_checkpoint_where_the_stream_has_reached_it(checkpoint: str, begin: str) -> None:
    assert first_checkpoint(a_stream(), Known(checkpoint), LATEST, None) == begin
    assert first_checkpoint(a_stream(added=None), Known(checkpoint), LATEST, None) == begin


def test_a_stream_to_which_less_was_added_than_there_had_been_is_a_new_one() -> None:
    assert first_checkpoint(a_stream(added=10), Known("40-0", entries_added=11), LATEST, None) == FIRST_ID
    assert first_checkpoint(a_stream(added=11), Known("40-0", entries_added=11), LATEST, None) == "40-0"


def test_without_any_checkpoint_what_is_complete_is_read_from_its_first_entry_on() -> None:
    assert first_checkpoint(a_stream(), Known(is_forgotten=True), LATEST, None) == FIRST_ID


@pytest.mark.parametrize("added", [11, None])
def test_without_any_checkpoint_something_may_be_gone(added: int | None) -> None:
    with pytest.raises(CheckpointMissing):
        first_checkpoint(a_stream(added=added), Known(is_forgotten=True), LATEST, None)


async def flush_and_fill(client: Redis, stream: str, count: int) -> list[tuple[str, str]]:
    """In one step, so that nobody sees that there is nothing. Returns (stream, id) of the new entries."""
    async with client.pipeline(transaction=True) as at_once:
        at_once.execute_command("FLUSHALL")
        for number in range(count):
            at_once.execute_command("XADD", stream, "*", "v", str(number))
        added = (await at_once.execute())[1:]
    return [(stream, entry_id.decode()) for entry_id in added]


async def is_acknowledged(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_after_a_flush_all_that_came_since_is_read_by_who_has_read_nothing_yet(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    before = await fill(client, stream, 10)
    replica = a_replica(redis_server.url, [stream], group, starting=LATEST)
    async with replica.running():
        await until(lambda: replica.owned == {stream}, what="it is owned")
        after = await flush_and_fill(client, stream, 7)
        await until(lambda: places(replica) == after, what="all that came since is read")
    assert before


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_after_a_flush_all_that_came_since_is_read_by_whoever_takes_over(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    await fill(client, stream, 10)
    async with Proxy(redis_server.port) as proxy:
        owner = a_replica(f"redis://127.0.0.1:{proxy.port}", [stream], group, starting=LATEST)
        other = a_replica(redis_server.url, [stream], group, starting=LATEST)
        async with owner.running():
            await until(lambda: owner.owned == {stream}, what="it is owned")
            async with other.running():
                await until(lambda: other.source.joined, what="the other has looked")
                read = await fill(client, stream, 5)
                await until(lambda: places(owner) == read, what="it is read")
                proxy.stall()
                lease_key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
                until_then = await clock_ms(client) + 60_000
                # Nobody takes over what was before the flush.
                await raw(client, "HSET", lease_key, "lasts", 60_000, "expires_at", until_then)
                await until(lambda: bool(owner.lost_streams), what="nobody reads it")
                after = await flush_and_fill(client, stream, 7)
                await until(lambda: places(other) == after, what="all that came since is read by the other")
                await proxy.resume()
    assert other.losses == owner.losses == []


@pytest.mark.redis
async def test_that_there_was_no_stream_does_not_matter_any_more_once_there_is_a_group(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group, **PATIENT)
    async with replica.running():
        await until(lambda: bool(replica.problems), what="there is no stream")
        await raw(client, "XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
        first = await fill(client, stream, 10)
        await until(lambda: places(replica) == first, what="it is read")
        await until_async(lambda: is_acknowledged(client, stream, group), what="it is acknowledged")
        await raw(client, "XGROUP", "DESTROY", stream, group)
        second = await fill(client, stream, 5)
        await until(lambda: len(replica.seen) >= 15, what="it is read on")
        await until_async(lambda: is_acknowledged(client, stream, group), what="it is acknowledged")
    assert places(replica) == first + second, "nothing comes again"


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_a_stream_made_anew_with_lower_ids_is_read_from_its_first_entry_on(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group)
    first = await fill(client, stream, 10)
    async with replica.running():
        await until(lambda: places(replica) == first, what="it is read")
        async with client.pipeline(transaction=True) as at_once:
            at_once.execute_command("DEL", stream)
            for number in range(1, 6):
                at_once.execute_command("XADD", stream, f"{number}-1", "v", "x")
            await at_once.execute()
        expected = [(stream, f"{number}-1") for number in range(1, 6)]
        await until(lambda: places(replica)[10:] == expected, what="all of it is read")
    assert replica.losses == []


@pytest.mark.redis
async def test_a_first_start_that_came_to_nothing_is_still_the_first(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    await client.set(stream, "no stream")
    early = a_replica(redis_server.url, [stream], group, starting=LATEST)
    async with early.running():
        await until(lambda: bool(early.problems), what="the lease is taken, and nothing is read")
    await client.delete(stream)
    await fill(client, stream, 5)
    replica = a_replica(redis_server.url, [stream], group, starting=LATEST)
    async with replica.running():
        await until(lambda: replica.owned == {stream}, what="it is owned")
        added = await fill(client, stream, 3)
        await until(lambda: len(replica.seen) >= 3, what="it is read")
    assert places(replica) == added, "from the starting position on"


@pytest.mark.redis
@pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])
async def test_what_was_known_of_a_stream_does_not_count_where_the_server_knows_of_a_newer_one(
    kind: type[RedisStreamsSource | SharedStreamsSource],
    redis_server: RedisServer,
    client: Redis,
    new_stream: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.sources.redis_source._LAG_INTERVAL", 0.1)
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group, kind, **PATIENT)
    await add_numbered(client, stream, range(1, 101))
    async with replica.running():
        await until(lambda: len(replica.seen) == 100, what="it is read")
        await until_async(lambda: is_acknowledged(client, stream, group), what="it is acknowledged")
        await replica.stop_settling()
        lease_key = companion_key(stream.encode(), b":stream-runner:" + group.encode())
        async with client.pipeline(transaction=True) as at_once:  # as another process would have left it
            at_once.execute_command("DEL", stream)
            for number in range(1, 151):
                at_once.execute_command("XADD", stream, f"{number}-1", "v", "x")
            at_once.execute_command("XGROUP", "CREATE", stream, group, "0")
            at_once.execute_command("HSET", lease_key, "checkpoint", FIRST_ID)
            await at_once.execute()
        await until(lambda: len(replica.seen) == 250, what="the new stream is read")
        await raw(client, "XGROUP", "DESTROY", stream, group)
        await until(lambda: len(replica.seen) == 400, what="what nobody has settled is read again")
    assert replica.losses == []


async def add_numbered(client: Redis, stream: str, numbers: range) -> None:
    for number in numbers:
        await raw(client, "XADD", stream, f"{number}-1", "v", "x")
