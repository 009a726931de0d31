"""Consumers that share a stream: each entry is one's, who keeps it while it works on it, and another's when it goes."""

from __future__ import annotations

from collections import Counter
from functools import partial

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.naming import NewStream
from kafka_harness.waiting import until, until_async
from redis_harness.client import clock_ms, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.proxy import Direction, Proxy
from redis_harness.replica import LONGER, PATIENT, Replica, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.clients.redis_slots import companion_key
from runner.core.lease import LeaseTimes
from runner.model import Partition
from runner.ports import CheckpointFenced
from runner.sources.redis_shared import SharedStreamsSource

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR, pytest.mark.timeout(120)]

SLACK = 3.0
"""Seconds for a busy machine."""

a_sharer = partial(a_replica, kind=SharedStreamsSource)


async def nothing_pending(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


async def consumers(client: Redis, stream: str, group: str) -> set[bytes]:
    shown = await raw(client, "XINFO", "CONSUMERS", stream, group)
    return {each[each.index(b"name") + 1] for each in shown}


def records_of(replica: Replica, stream: str) -> list[str]:
    return [position for name, position, _ in replica.seen if name == stream]


async def steal(client: Redis, stream: str, group: str, ids: list[str]) -> None:
    """As another consumer does, after a time in which nothing was heard of who had them."""
    claimed = await raw(client, "XCLAIM", stream, group, "thief", 0, *ids, "JUSTID")
    assert [each.decode() for each in claimed] == ids


async def test_each_entry_is_read_by_one(redis_server: RedisServer, client: Redis, new_stream: NewStream) -> None:
    streams, group = [new_stream(), new_stream()], new_stream()
    added = [each for stream in streams for each in await fill(client, stream, 700)]
    one, two = [a_sharer(redis_server.url, streams, group, **PATIENT) for _ in range(2)]
    async with one.running(), two.running():
        await until(lambda: one.owned == two.owned == set(streams), what="both read all streams")
        for _ in range(20):
            added += [each for stream in streams for each in await fill(client, stream, 5)]
        await until(lambda: len(one.seen + two.seen) == len(added), what="all is read")
        for stream in streams:
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert Counter(places(one) + places(two)) == Counter(added), "each once"
    assert one.lost_streams == two.lost_streams == []
    for stream in streams:
        assert await consumers(client, stream, group) == set(), "who has gone leaves nothing behind"


async def test_what_is_worked_on_for_long_is_not_taken_away(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    slow = a_sharer(redis_server.url, [stream], group, lease=LONGER)
    slow.settles = False
    added = await fill(client, stream, 1_500)
    async with slow.running():
        await until(lambda: len(slow.seen) == 1_500, what="everything is read")
        other = a_sharer(redis_server.url, [stream], group, lease=LONGER)
        async with other.running():
            await anyio.sleep(2 * LONGER.duration)  # this is how long it works on them
            assert other.seen == []
            assert {each.deliveries for each in await pending(client, stream, group)} == {1}
            slow.settles = True
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert places(slow) == added
    assert (slow.lost_streams, slow.taken_from) == ([], 0)


async def test_who_is_cut_off_stops_before_another_begins(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 50)
    async with Proxy(redis_server.port) as proxy:
        cut, other = [a_sharer(url, [stream], group, lease=LONGER) for url in (proxy.url, redis_server.url)]
        cut.settles = False
        async with cut.running():
            await until(lambda: places(cut) == added, what="everything is read")
            async with other.running():
                anothers_then: list[int] = []
                cut.on_lost = lambda: anothers_then.append(len(other.seen))
                began = anyio.current_time()
                proxy.stall()
                await until(lambda: cut.lost_streams == [stream], what="it ends its assignment")
                assert anothers_then == [0], "it stopped before another began"
                await until(lambda: sorted(places(other)) == sorted(added), what="another has its entries")
                assert anyio.current_time() - began < LONGER.duration + LONGER.heartbeat + SLACK
                cut.settles = True
                await proxy.resume()
                await until(lambda: cut.owned == {stream}, what="it begins anew")
                more = await fill(client, stream, 50)
                await until(lambda: len(cut.seen + other.seen) == 150, what="both go on")
                await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert Counter(places(cut) + places(other)) == Counter(2 * added + more)


async def test_what_another_has_taken_is_not_acknowledged_nor_given_up(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    ids = [entry_id for _, entry_id in await fill(client, stream, 30)]
    late = a_sharer(redis_server.url, [stream], group, **PATIENT)  # what was stolen is not anybody's again meanwhile
    late.settles = False
    async with late.running():
        await until(lambda: len(late.seen) == 30, what="everything is read")
        records = list(late._unsettled[partition])
        stolen = ids[5:10] + ids[20:21]
        assert await late.source.still_ours(partition, records) == [True] * 30
        await steal(client, stream, group, stolen)
        assert await late.source.still_ours(partition, records) == [each not in stolen for each in ids]
        late.source.attempted(partition, {ids[4]: 2, ids[5]: 1})

        async def is_written() -> bool:
            return (await pending(client, stream, group))[4].deliveries == 2_000

        await until_async(is_written, what="attempts are written")
        late.settles = True
        await until_async(lambda: left(client, stream, group, stolen), what="the others are acknowledged")
        await until(lambda: late.taken_from == len(stolen), what="it hears that it was late")
        assert {(each.consumer, each.deliveries) for each in await pending(client, stream, group)} == {(b"thief", 1)}
    assert late.fenced == 0


async def left(client: Redis, stream: str, group: str, ids: list[str]) -> bool:
    return [each.id.decode() for each in await pending(client, stream, group)] == ids


async def test_a_suspect_that_another_has_taken_is_not_tried(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    ids = [entry_id for _, entry_id in await fill(client, stream, 3)]
    replica = a_sharer(redis_server.url, [stream], group, **PATIENT)
    replica.settles = False
    async with replica.running():
        await until(lambda: len(replica.seen) == 3, what="everything is read")
        await replica.source.charge(Partition(stream, 0), {ids[0]: 1})
        assert [each.deliveries for each in await pending(client, stream, group)] == [1_004, 1, 1]
        await steal(client, stream, group, ids[1:2])
        with pytest.raises(CheckpointFenced, match=ids[1]):
            await replica.source.charge(Partition(stream, 0), {ids[1]: 1})
        await until(lambda: replica.lost_streams == [stream], what="it begins anew")
        await until(lambda: len(replica.seen) == 5, what="with what is still its own")
    assert [entry_id for _, entry_id, _ in replica.seen[3:]] == [ids[0], ids[2]]
    assert replica.attempts == {ids[0]: 1}


async def test_what_is_handed_back_is_anothers_at_once(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 1_200)
    for _ in range(6):
        replica = a_sharer(redis_server.url, [stream], group, **PATIENT)
        replica.settles = False
        async with replica.running():
            began = anyio.current_time()
            await until(lambda: len(replica.seen) == 1_200, what="everything is read")  # noqa: B023 - awaited here
            assert anyio.current_time() - began < PATIENT["lease"].duration, "nobody waits for who has gone"
        assert places(replica) == added
        assert replica.suspects == set(), "what is handed back was not handed out"
        assert await consumers(client, stream, group) == {b"stream-runner"}
    last = a_sharer(redis_server.url, [stream], group, **PATIENT)
    async with last.running():
        await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert len(last.seen) == 1_200


async def test_what_a_lost_reply_had_comes_again_to_the_same(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    async with Proxy(redis_server.port) as proxy:
        replica = a_sharer(proxy.url, [stream], group, lease=LeaseTimes(60.0, 15.0))  # no scan comes between
        replica.settles = False
        async with replica.running():
            added = await fill(client, stream, 300)
            await until(lambda: places(replica) == added, what="everything is read")
            await pause_while_they_wait(client, stream, replica)
            added += await fill(client, stream, 300)
            await until_async(partial(is_awake, client), what="it has heard of them")
            proxy.stall(Direction.TO_CLIENT)
            replica.source.resume(Partition(stream, 0))

            async def are_pending() -> bool:
                return len(await pending(client, stream, group)) > 300

            await until_async(are_pending, what="the server has handed some out")
            await proxy.cut()
            await proxy.resume()
            await until(lambda: len(replica.seen) >= 600, what="all is read")
            assert {each.consumer for each in await pending(client, stream, group)} == {
                each for each in await consumers(client, stream, group) if each != b"stream-runner"
            }
            replica.settles = True
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
    assert replica.lost_streams == []
    assert Counter(places(replica)) == Counter(added), "each once"


async def is_awake(client: Redis) -> bool:
    """Nobody waits for the next entry of a stream."""
    return int((await client.info("clients"))["blocked_clients"]) == 0


async def test_attempts_and_suspects_go_to_whoever_is_next(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    ids = [entry_id for _, entry_id in await fill(client, stream, 4)]
    await raw(client, "XGROUP", "CREATE", stream, group, 0)
    killed = "stream-runner:killed"
    await raw(client, "XREADGROUP", "GROUP", group, killed, "STREAMS", stream, ">")
    for entry_id, count in zip(ids, (1, 2_001, 4, 1_004), strict=True):
        await raw(client, "XCLAIM", stream, group, killed, 0, entry_id, "IDLE", 90_000, "RETRYCOUNT", count, "JUSTID")
    replica = a_sharer(redis_server.url, [stream], group, **PATIENT)
    async with replica.running():
        await until(lambda: len(replica.seen) == 4, what="everything is taken over")
    assert replica.attempts == {ids[1]: 2, ids[3]: 1}
    assert replica.suspects == {ids[2], ids[3]}


async def test_trimmed_entries_are_told_once_and_those_in_work_are_finished(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 20)
    await raw(client, "XGROUP", "CREATE", stream, group, 0)
    await raw(client, "XREADGROUP", "GROUP", group, "killed", "COUNT", 10, "STREAMS", stream, ">")
    one, two = [a_sharer(redis_server.url, [stream], group, **PATIENT) for _ in range(2)]
    one.settles = False
    async with one.running():
        await until(lambda: len(one.seen) == 10, what="the rest is read")
        # Once they are nobody's they are taken, if they are still there.
        async with client.pipeline(transaction=True) as at_once:
            at_once.xclaim(stream, group, "killed", 0, [each for _, each in added[:10]], idle=90_000, justid=True)
            at_once.execute_command("XTRIM", stream, "MAXLEN", 0)
            await at_once.execute()
        async with two.running():
            more = await fill(client, stream, 1)
            await until(lambda: sum(count or 0 for _, count in one.losses + two.losses) == 10, what="ten are told")
            await anyio.sleep(2 * PATIENT["lease"].heartbeat)
            one.settles = True
            await until_async(partial(nothing_pending, client, stream, group), what="all is acknowledged")
            await until(lambda: len(one.seen + two.seen) == 11, what="what is there is read")
            assert sum(count or 0 for _, count in one.losses + two.losses) == 10
    assert sorted(places(one) + places(two)) == sorted(added[10:] + more)
    assert one.taken_from == 0, "nobody else had them"


async def test_what_is_read_in_order_is_not_shared_meanwhile(
    redis_server: RedisServer, client: Redis, new_stream: NewStream
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 10)
    lease = companion_key(stream.encode(), f":stream-runner:{group}".encode())
    soon = await clock_ms(client) + 60_000
    await raw(client, "HSET", lease, "owner", "another", "generation", 1, "expires_at", soon)
    sharer = a_sharer(redis_server.url, [stream], group)
    async with sharer.running():
        await until(lambda: "in order" in str(sharer.problems[-1:]), what="it is told why it waits")
        assert sharer.source.joined
        assert sharer.owned == set()
        await raw(client, "HSET", lease, "owner", "", "expires_at", 0)  # as one that goes
        await until(lambda: places(sharer) == added, what="it is read")
        assert sharer.problems[-1] is None


async def test_waiting_costs_little(redis_server: RedisServer, client: Redis, new_stream: NewStream) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 5)
    replicas = [a_sharer(redis_server.url, [stream], group) for _ in range(2)]
    async with replicas[0].running(), replicas[1].running():
        await until(lambda: len(replicas[0].seen + replicas[1].seen) == len(added), what="it is read")
        before = (await client.info("stats"))["total_commands_processed"]
        await anyio.sleep(2.0)
        spent = (await client.info("stats"))["total_commands_processed"] - before
        assert spent < 400, f"{spent} are more than heartbeats and looks"
