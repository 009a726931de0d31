"""The ordered Redis Streams source keeps every adapter's promises, on every kind of server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from redis_harness.client import connect, raw
from redis_harness.conformance import RedisSourceConformance, RedisSourceHarness
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.server import RedisServer
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis, ON_EVERY_FLAVOUR]


class TestRedisSource(RedisSourceConformance):
    @pytest.fixture
    async def harness(
        self, redis_server: RedisServer, new_stream: Callable[[], str]
    ) -> AsyncIterator[RedisSourceHarness]:
        streams = [new_stream(), new_stream()]
        async with connect(redis_server.url) as client:
            for stream in streams:  # empty, but there
                await raw(client, "XGROUP", "CREATE", stream, "another", "$", "MKSTREAM")
            yield RedisSourceHarness(RedisStreamsSource, redis_server, client, streams, new_stream())
