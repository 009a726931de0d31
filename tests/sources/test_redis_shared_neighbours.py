"""Consumers that share a stream cost each other little, and one's trouble leaves every entry to somebody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.naming import NewStream
from kafka_harness.waiting import until, until_async
from redis_harness.client import add_many, connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.late import arrives_late, calls
from redis_harness.proxy import Proxy
from redis_harness.replica import LONGER, PATIENT, Replica, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.clients.redis_wire import Reply
from runner.core.lease import LeaseTimes
from runner.model import Fetched, Partition
from runner.sources.redis_scripts import ATTEMPT
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_shared_scripts import HEARTBEAT, READ_SHARED
from runner.sources.redis_shared_takeover_scripts import TAKE_OVER

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR, pytest.mark.timeout(60)]

RECOVERY = 10.0
"""Seconds within which everything goes on after a fault has healed."""

a_sharer = partial(a_replica, kind=SharedStreamsSource)


@pytest.fixture
async def own_client(redis_server: RedisServer) -> AsyncIterator[RedisClient]:
    made = RedisClient(RedisConnection(url=parse_redis_url(redis_server.url), client_name="test"))
    try:
        yield made
    finally:
        await made.close()


async def nothing_pending(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


async def calls_of(client: Redis, command: str) -> int:
    shown = await client.info("commandstats")
    return int(shown.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def all_wait(client: Redis, count: int) -> bool:
    return int((await client.info("clients"))["blocked_clients"]) == count


def told(*replicas: Replica) -> int:
    """How many entries were told to be lost."""
    return sum(count or 0 for replica in replicas for _, count in replica.losses)


async def test_who_comes_late_passes_over_what_others_have_read_at_once(
    redis_server: RedisServer, new_redis: NewRedis
) -> None:
    server = new_redis(redis_server.flavour)  # whose calls are all ours
    stream, group = "s", "g"
    one, two = [a_sharer(server.url, [stream], group, **PATIENT) for _ in range(2)]
    async with connect(server.url) as client:
        await fill(client, stream, 1)
        async with one.running(), two.running():
            await until(lambda: len(one.seen + two.seen) == 1, what="it is read")
            await until_async(partial(all_wait, client, 2), what="both wait")
            await pause_while_they_wait(client, stream, two)
            await fill(client, stream, 1)  # which wakes both
            await until(lambda: len(one.seen + two.seen) == 2, what="it is read")
            for _ in range(3):
                await add_many(client, stream, [[(b"v", b"x")]] * 1_000)
            await until(lambda: len(one.seen + two.seen) == 3_002, what="all is read")
            await until_async(partial(all_wait, client, 1), what="one waits for more")
            before = await calls_of(client, "xread")
            two.source.resume(Partition(stream, 0))
            await until_async(partial(all_wait, client, 2), what="both wait again")
            assert await calls_of(client, "xread") - before < 50
    assert sorted(places(one) + places(two)) == sorted(set(places(one) + places(two))), "each once"


async def test_sharing_what_comes_fast_costs_few_calls(redis_server: RedisServer, new_redis: NewRedis) -> None:
    server = new_redis(redis_server.flavour)
    stream, group = "s", "g"
    sharers = [a_sharer(server.url, [stream], group, **PATIENT) for _ in range(3)]
    async with connect(server.url) as client:
        added = await fill(client, stream, 1)
        async with sharers[0].running(), sharers[1].running(), sharers[2].running():
            await until_async(partial(all_wait, client, 3), what="all wait")
            before = await calls_of(client, "xread"), anyio.current_time()
            for _ in range(300):
                added += await fill(client, stream, 10)
            await until(lambda: sum(len(each.seen) for each in sharers) == len(added), what="all is read")
            spent = await calls_of(client, "xread") - before[0]
            assert spent < len(added), f"{spent} waits for {len(added)} entries"
    assert sorted(place for each in sharers for place in places(each)) == sorted(added), "each once"


async def hand_out(client: Redis, stream: str, group: str, consumer: str, count: int) -> None:
    await raw(client, "XREADGROUP", "GROUP", group, consumer, "COUNT", count, "STREAMS", stream, ">")


async def run(client: RedisClient, script: object, stream: str, *arguments: object) -> list[Reply]:
    reply = await client.run(script, [b"lease", stream.encode()], arguments, timeout=5.0)  # type: ignore[arg-type]
    assert isinstance(reply, list)
    assert reply[0] == b"ok"
    return reply


async def test_taking_over_large_entries_stops_at_about_a_megabyte(
    redis_server: RedisServer, client: Redis, own_client: RedisClient, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    await add_many(client, stream, [[(b"v", b"x" * 200_000)]] * 40)
    await raw(client, "XGROUP", "CREATE", stream, group, 0)
    await hand_out(client, stream, group, "stream-runner:killed", 40)
    ids = [each.id for each in await pending(client, stream, group)]
    reply = await run(own_client, TAKE_OVER, stream, b"me", group, 0, 0, *ids)
    entries, done = reply[1], reply[4]
    assert isinstance(entries, list)
    assert len(entries) == done
    assert 5 <= done <= 10
    assert [each.consumer for each in await pending(client, stream, group)].count(b"me") == done
    replica = a_sharer(redis_server.url, [stream], group)
    async with replica.running():
        await until(lambda: len(replica.seen) == 40, what="all of it is taken over")
        await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")


async def test_what_was_denied_is_taken_again_when_it_is_nobodys(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    added = await fill(client, stream, 10)
    replica = a_sharer(redis_server.url, [stream], group)
    replica.settles = False
    async with replica.running():
        await until(lambda: len(replica.seen) == 10, what="everything is read")
        records = replica.unsettled(partition)
        await raw(client, "XCLAIM", stream, group, "thief", 0, added[3][1], "JUSTID")
        ours = await replica.source.still_ours(partition, records)
        assert ours == [each != added[3] for each in added]
        replica._unsettled[partition] = [each for each, is_ours in zip(records, ours, strict=True) if is_ours]
        replica.settles = True
        await until(lambda: len(replica.seen) == 11, what="the thief is silent, and it comes again")
        await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert places(replica)[10:] == [added[3]]


async def test_what_was_trimmed_in_work_is_told_at_the_end(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 10)
    one, two = [a_sharer(redis_server.url, [stream], group, **PATIENT) for _ in range(2)]
    one.settles = False
    async with one.running():
        await until(lambda: len(one.seen) == 10, what="everything is read")
        await raw(client, "XDEL", stream, added[7][1])
        await raw(client, "XTRIM", stream, "MAXLEN", 4)
        await anyio.sleep(2 * PATIENT["lease"].heartbeat)  # heartbeats speak of them
    async with two.running():
        await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
        await until(lambda: told(one, two) == 10 - len(two.seen), what="all is told")
    assert set(places(two)) <= set(added)
    assert len(two.seen) == 4


async def test_what_was_trimmed_in_the_work_of_a_killed_process_is_told(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    await fill(client, stream, 10)
    other = a_sharer(redis_server.url, [stream], group)
    async with Proxy(redis_server.port) as proxy:
        killed = a_sharer(proxy.url, [stream], group, **PATIENT)
        killed.settles = False
        async with killed.running():
            await until(lambda: len(killed.seen) == 10, what="everything is read")
            await raw(client, "XTRIM", stream, "MAXLEN", 0)
            before = await calls_of(client, "xpending")
            await until_async(partial(called, client, "xpending", before + 10), what="heartbeats speak of them")
            await proxy.cut()  # nothing more comes from it
            async with other.running():
                await until(lambda: told(other) == 10, what="another tells of them")
                await until_async(partial(nothing_pending, client, stream, group), what="and lets them go")
    assert (other.seen, killed.losses) == ([], [])


async def called(client: Redis, command: str, times: int) -> bool:
    return await calls_of(client, command) >= times


async def test_what_was_trimmed_is_left_to_who_works_on_it_even_when_that_is_all_it_has(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    await fill(client, stream, 10)
    slow, other = [a_sharer(redis_server.url, [stream], group, lease=LONGER) for _ in range(2)]
    slow.settles = False
    async with slow.running():
        await until(lambda: len(slow.seen) == 10, what="everything is read")
        slow.source.pause(Partition(stream, 0))
        await raw(client, "XTRIM", stream, "MAXLEN", 0)
        async with other.running():
            await anyio.sleep(2 * LONGER.duration)  # this is how long it works on them
            assert told(slow, other) == 0
            slow.settles = True
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert (told(slow, other), slow.taken_from, slow.lost_streams) == (0, 0, [])


async def test_the_end_is_reached_while_more_comes_than_is_read(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    large = [[(b"v", b"x" * 100_000)]] * 30
    added = [each.decode() for each in await add_many(client, stream, large)]
    replica = a_sharer(redis_server.url, [stream], group, stop_at_end=True)
    source, fetch = replica.source, replica.source.fetch

    async def add_and_fetch() -> list[Fetched]:
        await add_many(client, stream, large[:4])  # more than one reply has
        return list(await fetch())

    source.fetch = add_and_fetch  # type: ignore[method-assign]
    async with replica.running():
        await until(lambda: source.caught_up, what="it has reached its end", timeout=RECOVERY)
        read = {position for _, position in places(replica)}
    assert set(added) <= read


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_silent_server_is_noticed_by_who_has_nothing_in_work(
    is_paused: bool, redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    await fill(client, stream, 5)
    async with Proxy(redis_server.port) as proxy:
        replica = a_sharer(proxy.url, [stream], group)
        async with replica.running():
            await until(lambda: len(replica.seen) == 5, what="everything is read")
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
            if is_paused:
                replica.source.pause(Partition(stream, 0))
            proxy.stall()
            await until(lambda: replica.lost_streams == [stream], what="the stream is given up")
            await until(lambda: replica.problems[-1:] not in ([], [None]), what="it is told why")
            await proxy.resume()
            await until(lambda: replica.owned == {stream}, what="it goes on", timeout=RECOVERY)
            await fill(client, stream, 5)
            await until(lambda: len(replica.seen) == 10, what="it reads on")
            assert replica.problems[-1] is None


async def test_attempts_that_were_charged_last_are_kept_when_it_closes(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 3)
    replica = a_sharer(redis_server.url, [stream], group)
    replica.settles = False
    async with replica.running():
        await until(lambda: len(replica.seen) == 3, what="everything is read")
        replica.source.attempted(Partition(stream, 0), {added[1][1]: 2})
    assert [each.deliveries for each in await pending(client, stream, group)] == [0, 2 * ATTEMPT, 0]


async def test_what_it_still_works_on_does_not_hide_what_nobody_keeps(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    added = await fill(client, stream, 2_600)
    replica = a_sharer(redis_server.url, [stream], group, lease=LONGER)
    replica.settles = False
    async with replica.running():
        await until(lambda: len(replica.seen) == len(added), what="everything is read")
        await pause_while_they_wait(client, stream, replica)
        more = await fill(client, stream, 5)
        await hand_out(client, stream, group, "stream-runner:killed", 5)
        ids = [entry_id for _, entry_id in added]
        for first in range(0, 2_500, 500):  # its name comes before that of who was killed
            await raw(client, "XCLAIM", stream, group, "a tool", 0, *ids[first : first + 500], "JUSTID")
        replica.source.resume(partition)
        await until(lambda: places(replica)[len(added) :] == more, what="what the killed one had is taken over")
    assert replica.lost_streams == []


async def test_a_heartbeat_takes_nothing_back_from_another(
    redis_server: RedisServer, client: Redis, own_client: RedisClient, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    ids = [entry_id for _, entry_id in await fill(client, stream, 3)]
    await raw(client, "XGROUP", "CREATE", stream, group, 0)
    await hand_out(client, stream, group, "me", 3)
    await raw(client, "XCLAIM", stream, group, "thief", 0, ids[1], "JUSTID")
    # As many are ours as we speak of: the third was handed out while this was on its way.
    reply = await own_client.run(HEARTBEAT, [stream.encode()], [b"me", group, 2, *ids[:2]], timeout=5.0)
    assert isinstance(reply, list)
    assert reply[1:] == [[[ids[1].encode()], [], []]]
    assert [each.consumer for each in await pending(client, stream, group)] == [b"me", b"thief", b"me"]


async def test_an_acknowledgement_takes_nothing_from_another_when_a_read_arrives_late(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    added = await fill(client, stream, 10)
    async with Proxy(redis_server.port) as proxy:
        replica = a_sharer(proxy.url, [stream], group, lease=LeaseTimes(60.0, 15.0))  # no scan comes between
        replica.settles = False
        async with replica.running():
            await until(lambda: places(replica) == added, what="everything is read")
            await pause_while_they_wait(client, stream, replica)
            added += await fill(client, stream, 1)
            swallowed = proxy.swallow(calls(READ_SHARED, b">"))
            replica.source.resume(partition)
            command = await swallowed
            await until(lambda: places(replica) == added, what="it is read all the same")
            await pause_while_they_wait(client, stream, replica)
            await fill(client, stream, 1)
            await raw(client, "XCLAIM", stream, group, "thief", 0, added[4][1], "JUSTID")
            assert b"$4\r\nlate\r\n" in await arrives_late(command, redis_server)
            assert len(await pending(client, stream, group)) == len(added), "it hands out nothing"
            replica.settles = True
            await until(lambda: replica.taken_from == 1, what="it hears that it was late for one")
            assert [each.id.decode() for each in await pending(client, stream, group) if each.consumer == b"thief"] == [
                added[4][1]
            ]
    assert replica.lost_streams == []
