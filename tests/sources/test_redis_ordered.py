"""Streams have one owner at a time, whoever comes and goes, and whatever happens to the server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import add, connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import RedisOptions
from redis_harness.proxy import Proxy
from redis_harness.replica import PATIENT, a_replica, fill, pause_while_they_wait, places
from redis_harness.server import RedisServer
from runner.core.lease import LeaseTimes

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

RECOVERY = 10.0
"""Seconds within which everything goes on after a fault has healed."""


async def test_replicas_share_the_streams_evenly_and_only_what_is_needed_moves(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    streams, group = [new_stream() for _ in range(7)], new_stream()
    added = [each for stream in streams for each in await fill(client, stream, 20)]
    one, two, three = [a_replica(redis_server.url, streams, group, **PATIENT) for _ in range(3)]
    async with one.running():
        await until(lambda: len(one.owned) == 7, what="the first owns all")
        async with two.running():
            await until(lambda: (len(one.owned), len(two.owned)) == (4, 3), what="two share them")
            assert len(one.revoked_streams) == 3
            async with three.running():
                replicas = (one, two, three)
                await until(
                    lambda: sorted([len(each.owned) for each in replicas]) == [2, 2, 3], what="three share them"
                )
                assert len(one.revoked_streams) + len(two.revoked_streams) == 3 + 2
                added += [each for stream in streams for each in await fill(client, stream, 20)]
                await until(lambda: len(one.seen + two.seen + three.seen) == len(added), what="all is read")
            await until(lambda: len(one.owned) + len(two.owned) == 7, what="what the third had is taken over")
        await until(lambda: len(one.owned) == 7, what="the first owns all again")
    seen = Counter(places(one) + places(two) + places(three))
    assert seen == Counter(added), "each once"
    assert one.lost_streams == two.lost_streams == three.lost_streams == []
    for stream in streams:
        assert await pending(client, stream, group) == []


async def test_who_waits_and_is_let_go_loses_nothing(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    replica = a_replica(redis_server.url, [stream], stream, **PATIENT)
    await fill(client, stream, 1)
    async with replica.running():
        await until(lambda: len(replica.seen) == 1, what="it is read")

        async def is_let_go() -> bool:
            waiting = [each["id"] for each in await client.client_list() if each["cmd"] == "xread"]
            return any([await raw(client, "CLIENT", "UNBLOCK", each, "ERROR") for each in waiting])

        await until_async(is_let_go, what="who waited is let go")
        await until(lambda: replica.problems, what="it is told")
        problem = replica.problems[0]
        assert problem is not None
        assert "the server let go of who waited" in problem.text
        await fill(client, stream, 1)
        await until(lambda: len(replica.seen) == 2, what="it goes on")
    assert replica.lost_streams == []


async def test_an_owner_that_is_cut_off_stops_before_another_begins(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    first = await fill(client, stream, 10)
    async with Proxy(redis_server.port) as proxy:
        cut = a_replica(f"redis://127.0.0.1:{proxy.port}", [stream], group)
        other = a_replica(redis_server.url, [stream], group)
        async with cut.running():
            await until(lambda: places(cut) == first, what="the first owner reads")
            await until_async(lambda: nothing_pending(client, stream, group), what="the first owner has acknowledged")
            async with other.running():
                anothers_then: list[set[str]] = []
                cut.on_lost = lambda: anothers_then.append(set(other.owned))
                proxy.stall()
                await until(lambda: bool(cut.lost_streams), what="it fences itself")
                assert anothers_then == [set()], "it stopped before the lease was over"
                second = await fill(client, stream, 10)
                await until(lambda: places(other) == second, what="the other reads on")
                await proxy.resume()
                await fill(client, stream, 1)
                await until(lambda: len(other.seen) == 11, what="the other goes on")
                assert len(cut.seen) == 10
                assert other.seen[-1][2] > cut.seen[-1][2], "generations grow"


async def nothing_pending(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []


Fault = Callable[[RedisServer, Redis, str, str], Awaitable[None]]


async def _flush(server: RedisServer, client: Redis, stream: str, group: str) -> None:
    await client.flushall()


async def _delete(server: RedisServer, client: Redis, stream: str, group: str) -> None:
    await client.delete(stream)


async def _destroy_group(server: RedisServer, client: Redis, stream: str, group: str) -> None:
    await raw(client, "XGROUP", "DESTROY", stream, group)


async def _flush_scripts(server: RedisServer, client: Redis, stream: str, group: str) -> None:
    await raw(client, "SCRIPT", "FLUSH")


async def _kill_connections(server: RedisServer, client: Redis, stream: str, group: str) -> None:
    await raw(client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@ON_EVERY_FLAVOUR
@pytest.mark.parametrize("fault", [_flush, _delete, _destroy_group, _flush_scripts, _kill_connections])
async def test_it_goes_on_by_itself_after(
    fault: Fault, redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group)
    before = await fill(client, stream, 50)
    async with replica.running():
        await until(lambda: places(replica) == before, what="everything is read")
        await until_async(lambda: nothing_pending(client, stream, group), what="everything is acknowledged")
        await fault(redis_server, client, stream, group)
        after = await fill(client, stream, 50)
        began = time.monotonic()
        await until(lambda: set(after) <= set(places(replica)), what="what came since is read", timeout=RECOVERY)
        print(f"recovered in {time.monotonic() - began:.2f} s, {len(replica.seen) - 100} read again")
        await until_async(lambda: nothing_pending(client, stream, group), what="all is acknowledged", timeout=RECOVERY)
        await until(lambda: replica.problems[-1:] in ([], [None]), what="nothing is wrong any more")
    in_order = [each for each in dict.fromkeys(places(replica)) if each in set(after)]
    assert in_order == after
    assert replica.losses == []


async def test_waiting_costs_nothing_though_others_have_read_the_stream(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 5)
    first = a_replica(redis_server.url, [stream], group)
    async with first.running():
        await until(lambda: places(first) == added, what="it is read")
    again = a_replica(redis_server.url, [stream], group)
    async with again.running():
        await until(lambda: again.owned == {stream}, what="it is taken")
        async with client.pipeline(transaction=True) as at_once:
            at_once.execute_command("XADD", stream, "*", "v", "for another consumer")
            at_once.xreadgroup(group, "by hand", {stream: ">"})
            await at_once.execute()
        before = await commands(client)
        await anyio.sleep(2.0)
        spent = await commands(client) - before
        assert spent < 1_000, f"{spent} are more than heartbeats and looks"


async def commands(client: Redis) -> int:
    stats = await client.info("stats")
    return int(stats["total_commands_processed"])


async def test_a_key_that_is_no_stream_is_a_problem_until_it_is_one(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    await client.set(stream, "no stream")
    replica = a_replica(redis_server.url, [stream], group)
    async with replica.running():
        await until(lambda: bool(replica.problems), what="it is told")
        assert "WRONGTYPE" in str(replica.problems[-1])
        before = await commands(client)
        await anyio.sleep(1.0)
        assert await commands(client) - before < 200, "it is looked at now and then"
        await client.delete(stream)
        added = await fill(client, stream, 5)
        await until(lambda: places(replica) == added, what="it is read")
        await until(lambda: replica.problems[-1] is None, what="nothing is wrong any more")


async def test_it_goes_on_when_a_paused_stream_goes_under_its_feet(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    replica = a_replica(redis_server.url, [stream], group, **PATIENT)
    await fill(client, stream, 5)
    async with replica.running():
        await until(lambda: len(replica.seen) == 5, what="it is read")
        await pause_while_they_wait(client, stream, replica)
        await fill(client, stream, 5)
        await client.delete(stream)
        await until(lambda: replica.lost_streams == [stream], what="the assignment is over")
        added = await fill(client, stream, 5)
        await until(lambda: places(replica)[-5:] == added, what="it is read again")


@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("aof", ["always", None])
@pytest.mark.parametrize("flavour", list(Flavour))
async def test_it_goes_on_after_a_restart_of_the_server(
    flavour: Flavour, aof: str | None, kill: bool, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(flavour, RedisOptions(aof="always" if aof else None))
    stream, group = new_stream(), new_stream()
    replica = a_replica(server.url, [stream], group, **PATIENT)
    async with connect(server.url) as client:
        before = await fill(client, stream, 50)
        async with replica.running():
            await until(lambda: places(replica) == before, what="everything is read")
            await until_async(lambda: nothing_pending(client, stream, group), what="everything is acknowledged")
            if kill:
                server.kill()
            else:
                await server.shut_down(10)
            await server.restart()
            await client.connection_pool.disconnect()
            after = await fill(client, stream, 50)
            await until(lambda: set(after) <= set(places(replica)), what="it reads on", timeout=RECOVERY)
            await until(lambda: replica.problems[-1:] in ([], [None]), what="nothing is wrong any more")
    again = Counter(places(replica))
    if aof:
        assert again == Counter(before + after), "nothing comes again"
    else:
        assert [each for each in dict.fromkeys(places(replica)) if each not in before] == after


@ON_EVERY_FLAVOUR
async def test_a_full_server_is_read_on(
    redis_server: RedisServer, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(redis_server.flavour)
    streams, group = [new_stream(), new_stream()], new_stream()
    lease = LeaseTimes(4.0, 0.4)
    replica = a_replica(server.url, streams[:1], group, lease=lease)
    async with connect(server.url) as client:
        await fill(client, streams[0], 50)
        async with replica.running():
            await until(lambda: len(replica.seen) == 50, what="everything is read")
            added = await fill(client, streams[0], 500)
            await raw(client, "CONFIG", "SET", "maxmemory", "100kb")
            with pytest.raises(Exception, match="maxmemory"):
                await add(client, streams[1], [(b"v", b"x")])
            await until(lambda: len(replica.seen) == 550, what="the backlog is read")
            await until_async(lambda: nothing_pending(client, streams[0], group), what="and acknowledged")
            await anyio.sleep(2 * lease.duration)  # it is renewed all the while
            assert replica.lost_streams == []
        late = a_replica(server.url, streams[:1], group)
        async with late.running():
            await until(lambda: late.owned == {streams[0]}, what="a lease can be taken")
        await raw(client, "CONFIG", "SET", "maxmemory", "0")
    assert places(replica)[50:] == added
