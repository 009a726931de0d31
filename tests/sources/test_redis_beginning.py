"""A stream that cannot be begun is tried more and more seldom, and soon enough when it can."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until
from redis_harness.replica import a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis_errors import FailureKind, RedisFailure
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_streams import RedisStreamsSource
from runner.sources.redis_troubles import pause_to_begin


async def looks(client: Redis) -> int:
    """As many as were made at streams that are to be begun."""
    shown = await client.info("commandstats")
    return int(shown.get("cmdstat_type", {"calls": 0})["calls"])


@pytest.mark.redis
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])
async def test_a_stream_that_is_not_there_is_looked_at_more_and_more_seldom(
    kind: type[RedisStreamsSource | SharedStreamsSource],
    redis_server: RedisServer,
    client: Redis,
    new_stream: Callable[[], str],
) -> None:
    stream = new_stream()
    replica = a_replica(redis_server.url, [stream], new_stream(), kind)
    async with replica.running():
        await until(lambda: bool(replica.problems), what="there is no stream")
        before = await looks(client)
        await anyio.sleep(4.0)
        assert 1 <= await looks(client) - before <= 4
        added = await fill(client, stream, 5)
        await until(lambda: places(replica) == added, what="it is read", timeout=10)
        await until(lambda: replica.problems[-1] is None, what="nothing is wrong any more")


def test_what_a_server_says_is_given_more_time_than_its_silence() -> None:
    assert [pause_to_begin(tries) for tries in (1, 2, 3, 4, 5, 10_000)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    silent = RedisFailure(FailureKind.TIMEOUT, "no answer")
    assert [pause_to_begin(tries, silent) for tries in (1, 2, 3, 10_000)] == [0.5, 1.0, 1.0, 1.0]
    refused = RedisFailure(FailureKind.PERMISSION, "NOPERM")
    assert pause_to_begin(5, refused) == 5.0
