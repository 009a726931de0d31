"""Where the streams of a test lie: on one server, on the master behind sentinels, or on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias

from redis.asyncio import Redis, RedisCluster
from redis.asyncio import Sentinel as SentinelClient
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from kafka_harness.runner_process import REPOSITORY
from redis_harness import cluster as clusters
from redis_harness import sentinel as sentinels
from redis_harness.client import connect, connect_cluster
from redis_harness.server import RedisServer

ANY: Final = "#"
"""What ``name_at`` puts a number for."""

_PRODUCER_TIMEOUT: Final = 1.0
_MOST_NAMES: Final = 1_000

Producer: TypeAlias = Redis | RedisCluster


class Topology(Protocol):
    """One server or several that hold the streams of a group."""

    @property
    def url(self) -> str:
        """As the runner is told it, without user and password."""
        ...

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        """All that hold data, the dead ones too."""
        ...

    async def server_of(self, key: str) -> RedisServer:
        """Who serves ``key`` now."""
        ...

    def producer(self) -> AbstractAsyncContextManager[Producer]:
        """A client that finds by itself where to write to; it sends every command once, and waits for a second."""
        ...


class Standalone:
    """One server, with TLS if it has it."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        server = self._server
        return f"rediss://localhost:{server.tls_port}" if server.options.tls else f"redis://{server.address}"

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return (self._server,)

    async def server_of(self, key: str) -> RedisServer:
        return self._server

    def producer(self) -> AbstractAsyncContextManager[Producer]:
        return connect(self._server.url, timeout=_PRODUCER_TIMEOUT)


class Watched:
    """A master behind sentinels."""

    def __init__(self, sentinel: sentinels.Sentinel) -> None:
        self._sentinel = sentinel

    @property
    def url(self) -> str:
        addresses = ",".join(f"{host}:{port}" for host, port in self._sentinel.addresses)
        return f"redis+sentinel://{addresses}/{self._sentinel.service}"

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return self._sentinel.servers

    async def server_of(self, key: str) -> RedisServer:
        return await self._sentinel.master()

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        once: dict[str, Any] = {"socket_timeout": _PRODUCER_TIMEOUT, "retry": Retry(NoBackoff(), 0), "protocol": 2}
        asked = SentinelClient(self._sentinel.addresses, sentinel_kwargs=once)  # type: ignore[no-untyped-call]
        try:
            async with asked.master_for(self._sentinel.service, **once) as client:
                yield client
        finally:
            for each in asked.sentinels:
                await each.aclose()


class Sharded:
    """The nodes of a cluster."""

    def __init__(self, cluster: clusters.RedisCluster) -> None:
        self._cluster = cluster

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self._cluster.nodes)

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        return self._cluster.nodes

    async def server_of(self, key: str) -> RedisServer:
        return await self._cluster.owner_of(await self._cluster.slot_of(key))

    def producer(self) -> AbstractAsyncContextManager[Producer]:
        return connect_cluster(self._cluster.url, timeout=_PRODUCER_TIMEOUT)


async def name_at(cluster: clusters.RedisCluster, template: str, node: RedisServer) -> str:
    """``template`` with a number for ``ANY``, so that ``node`` serves it. Raises LookupError when none will do."""
    for number in range(_MOST_NAMES):
        name = template.replace(ANY, str(number))
        if await cluster.owner_of(await cluster.slot_of(name)) is node:
            return name
    raise LookupError(f"no number makes {template!r} a key of {node.address}")


async def move_slowly(
    cluster: clusters.RedisCluster, key: str, to: RedisServer, *, meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """Move the slot of ``key``, as ``RedisCluster.move_slot`` does, key by key; ``meanwhile`` is awaited before a key
    has moved, and when one has while others have not."""
    move = await cluster.slot_move(await cluster.slot_of(key), to)
    await move.begin()
    await meanwhile()
    await move.move_keys(1)
    await meanwhile()
    while await move.move_keys(1):
        pass
    await move.end()


def published_rights(*, cluster: bool) -> str:
    """The rules that the README names for streams ``orders.*``, the group ``charge-card`` and dead letters in
    ``orders.dead-letter``, in one line. Raises ValueError when they are not where they were."""
    _, _, after = (REPOSITORY / "README.md").read_text().partition("**The least rights**")
    paragraphs = after.split("```")[1].strip().split("\n\n")
    of_cluster = [each for each in paragraphs if each.strip() == "+cluster|slots +asking"]
    if len(of_cluster) != 1 or sum("orders.dead-letter" in each for each in paragraphs) != 1:
        raise ValueError(f"these are not the paragraphs that were there: {paragraphs}")
    return " ".join(" ".join(each for each in paragraphs if cluster or each not in of_cluster).split())
