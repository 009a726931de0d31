"""Servers for tests: one a flavour for the whole session, and new ones for tests that need their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import pytest
from redis.asyncio import Redis

from kafka_harness.component import ComponentMissing
from kafka_harness.naming import NewStream, names_for
from redis_harness.client import connect
from redis_harness.cluster import RedisCluster
from redis_harness.flavour import Flavour, sentinel_command, server_program
from redis_harness.options import RedisOptions
from redis_harness.sentinel import Sentinel
from redis_harness.server import RedisServer

ON_EVERY_FLAVOUR = pytest.mark.parametrize("redis_server", list(Flavour), indirect=True)
"""For a test or a module that runs with ``redis_server`` being each flavour in turn."""


class Stoppable(Protocol):
    def stop(self) -> None: ...

    def output(self) -> str: ...


class NewRedis(Protocol):
    """Raises what ``RedisServer`` and its ``start`` raise; so do the others."""

    def __call__(self, flavour: Flavour = Flavour.VALKEY, options: RedisOptions | None = None) -> RedisServer: ...


class NewRedisCluster(Protocol):
    async def __call__(
        self,
        flavour: Flavour = Flavour.VALKEY,
        nodes: int = 3,
        options: RedisOptions | None = None,
        node_timeout_ms: int = 2_000,
    ) -> RedisCluster: ...


class NewSentinel(Protocol):
    async def __call__(
        self, flavour: Flavour = Flavour.VALKEY, sentinels: int = 1, options: RedisOptions | None = None
    ) -> Sentinel: ...


@pytest.fixture(scope="session")
def redis_of(component_missing: Callable[[str], None]) -> Iterator[Callable[[Flavour], RedisServer]]:
    """The suite's one server of a flavour, started when it is first asked for. Tests may break it: see
    ``redis_server``."""
    servers: dict[Flavour, RedisServer] = {}

    def of(flavour: Flavour) -> RedisServer:
        if flavour not in servers:
            _need(flavour, component_missing)
            servers[flavour] = RedisServer(flavour)
            servers[flavour].start()
        return servers[flavour]

    try:
        yield of
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture
async def redis_server(
    request: pytest.FixtureRequest, redis_of: Callable[[Flavour], RedisServer], failed: Callable[[], bool]
) -> AsyncIterator[RedisServer]:
    """A server without limits and users, Valkey or the flavour it is parametrised with, brought back when the test
    before left it dead or frozen. Its keys are all tests': see ``new_stream``; its configuration is not to be changed:
    see ``new_redis``."""
    server = redis_of(getattr(request, "param", Flavour.VALKEY))
    if server.running:
        server.resume()
    else:
        await server.restart()
    yield server
    if failed():
        print(server.output())


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of ``redis_server``, for looking at its streams and changing them from outside."""
    async with connect(redis_server.url) as connected:
        yield connected


@pytest.fixture
def kept(failed: Callable[[], bool]) -> Iterator[Callable[[Stoppable], None]]:
    """Stops what it is given at the end of the test, and shows its output if the test has failed."""
    started: list[Stoppable] = []
    try:
        yield started.append
    finally:
        for one in started:
            if failed():
                print(one.output())
            one.stop()


@pytest.fixture
def new_redis(component_missing: Callable[[str], None], kept: Callable[[Stoppable], None]) -> NewRedis:
    """Servers of the test's own, for options and for what changes a server for good; started, stopped after it."""

    def start(flavour: Flavour = Flavour.VALKEY, options: RedisOptions | None = None) -> RedisServer:
        _need(flavour, component_missing)
        server = RedisServer(flavour, options=options)
        kept(server)
        server.start()
        return server

    return start


@pytest.fixture
def new_redis_cluster(component_missing: Callable[[str], None], kept: Callable[[Stoppable], None]) -> NewRedisCluster:
    """Clusters of the test's own, started, stopped after it."""

    async def start(
        flavour: Flavour = Flavour.VALKEY,
        nodes: int = 3,
        options: RedisOptions | None = None,
        node_timeout_ms: int = 2_000,
    ) -> RedisCluster:
        _need(flavour, component_missing)
        cluster = RedisCluster(flavour, nodes, options=options, node_timeout_ms=node_timeout_ms)
        kept(cluster)
        await cluster.start()
        return cluster

    return start


@pytest.fixture
def new_sentinel(component_missing: Callable[[str], None], kept: Callable[[Stoppable], None]) -> NewSentinel:
    """Masters with a replica and sentinels of the test's own, started, stopped after it."""

    async def start(
        flavour: Flavour = Flavour.VALKEY, sentinels: int = 1, options: RedisOptions | None = None
    ) -> Sentinel:
        _need(flavour, component_missing, program=sentinel_command)
        watched = Sentinel(flavour, sentinels=sentinels, options=options)
        kept(watched)
        await watched.start()
        return watched

    return start


@pytest.fixture
def new_stream(request: pytest.FixtureRequest) -> NewStream:
    """For streams and groups."""
    return names_for(request.node.name)


def _need(
    flavour: Flavour,
    component_missing: Callable[[str], None],
    *,
    program: Callable[[Flavour], object] = server_program,
) -> None:
    """End the test when the machine lacks the program."""
    try:
        program(flavour)
    except ComponentMissing as missing:
        component_missing(str(missing))
