"""The Redis destination keeps every destination's promises, on real servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from destination_harness.redis_letters import content_of_letter, fact
from redis_harness import client
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.server import RedisServer
from runner.clients.redis import RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.destinations.redis_streams import RedisStreamsDestination
from runner.model import Partition
from runner.ports import Observer
from runner.testing import DestinationConformance, StoredLetter

pytestmark = pytest.mark.redis


class RedisDestinationHarness:
    """A stream in whose place there is a text while it is to be unavailable."""

    def __init__(self, server: RedisServer, stream: str) -> None:
        self._server = server
        self._stream = stream

    def make_destination(self) -> RedisStreamsDestination:
        url = parse_redis_url(self._server.url)
        return RedisStreamsDestination(
            connection=RedisConnection(url=url, client_name="conformance"),
            stream=self._stream,
            maxlen=None,
            timeout=5.0,
            marker_ttl=3600.0,
            observer=Observer(),
        )

    async def read_back(self) -> Sequence[StoredLetter]:
        async with client.connect(self._server.url) as redis:
            return [letter_of(fields) for _, fields in await client.read_stream(redis, self._stream)]

    async def make_unavailable(self) -> None:
        async with client.connect(self._server.url) as redis:
            await redis.set(self._stream, "no stream")

    async def make_available(self) -> None:
        async with client.connect(self._server.url) as redis:
            await redis.delete(self._stream)


def letter_of(fields: client.Fields) -> StoredLetter:
    """What a reader of the dead-letter stream makes of an entry."""

    def said(name: str) -> str:
        return (fact(fields, name) or b"").decode()

    return StoredLetter(
        *content_of_letter(fields),
        Partition(said("original-topic"), int(said("original-partition"))),
        said("original-position"),
        said("mapping"),
        said("condition"),
        int(said("attempts")),
    )


@ON_EVERY_FLAVOUR
class TestRedisDestination(DestinationConformance):
    @pytest.fixture
    def harness(self, redis_server: RedisServer, new_stream: Callable[[], str]) -> RedisDestinationHarness:
        return RedisDestinationHarness(redis_server, new_stream())
