"""A group that is set back by hand reads again, in order, and what it reads again is not blamed for that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import add_many, connect, pending, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.proxy import Direction, Proxy
from redis_harness.replica import PATIENT, a_replica
from redis_harness.server import RedisServer

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]

MANY = 3_000


@pytest.mark.parametrize("is_running", [True, False])
async def test_it_is_begun_again_once_though_something_pends_behind(
    is_running: bool, redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client:
        ids = await add_many(client, stream, [[(b"v", b"x")]] * MANY)
        await raw(client, "XGROUP", "CREATE", stream, group, "0")
        await raw(client, "XREADGROUP", "GROUP", group, "stream-runner", "COUNT", MANY, "STREAMS", stream, ">")
        await raw(client, "XACK", stream, group, *ids[:-1])
        replica = a_replica(redis_server.url, [stream], group, **PATIENT)
        replica.settles = False
        if not is_running:
            await raw(client, "XGROUP", "SETID", stream, group, "0")
        async with replica.running():
            if is_running:
                await until(lambda: [each for _, each, _ in replica.seen] == [ids[-1].decode()], what="it is read")
                replica.seen.clear()
                await raw(client, "XGROUP", "SETID", stream, group, "0")
            await until(lambda: ids[-1].decode() in [each for _, each, _ in replica.seen], what="it is read again")
            assert [each for _, each, _ in replica.seen] == [each.decode() for each in ids]
            assert len(replica.lost_streams) == (1 if is_running else 0)
            assert replica.suspects == set()
            replica.settles = True
            await until_async(lambda: nothing_pends(client, stream, group), what="it is acknowledged")


async def test_it_is_read_in_order_though_a_reply_is_lost_in_the_middle(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    async with connect(redis_server.url) as client, Proxy(redis_server.port) as proxy:
        ids = await add_many(client, stream, [[(b"v", b"x")]] * MANY)
        await raw(client, "XGROUP", "CREATE", stream, group, "0")
        await raw(client, "XREADGROUP", "GROUP", group, "stream-runner", "COUNT", MANY, "STREAMS", stream, ">")
        await raw(client, "XACK", stream, group, *ids[100:-1])
        await raw(client, "XGROUP", "SETID", stream, group, "0")
        replica = a_replica(proxy.url, [stream], group, **PATIENT)
        replica.settles = False
        proxy.delay = 0.03
        async with replica.running():
            await until(lambda: len(replica.seen) > 100, what="it is read again")
            proxy.stall(Direction.TO_CLIENT)

            async def is_given_out() -> bool:
                info = await client.xinfo_groups(stream)
                return bytes(info[0]["last-delivered-id"]).decode() != replica.seen[-1][1]

            await until_async(is_given_out, what="a reply is on its way")
            await proxy.drop_connections()
            await proxy.resume()
            await until(lambda: len(replica.seen) >= MANY, what="all is read again")
        assert [each for _, each, _ in replica.seen] == [each.decode() for each in ids]
        assert replica.lost_streams == []


async def nothing_pends(client: Redis, stream: str, group: str) -> bool:
    return await pending(client, stream, group) == []
