"""A real cluster of masters without replicas, whose slots tests move and whose nodes they kill."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kafka_harness.ports import free_port
from kafka_harness.waiting import until_async
from redis_harness import client
from redis_harness.flavour import Flavour
from redis_harness.options import RedisOptions
from redis_harness.server import RedisServer
from redis_harness.slots import SlotMove

SLOTS = 16_384

# Redis 6.2 has no other choice: the port on which the nodes talk is this much above that of the clients.
_BUS_OFFSET = 10_000
_FORM_TIMEOUT = 30.0
_ATTEMPTS = 500


class RedisCluster:
    """``nodes`` masters that share the slots evenly, in ascending order; without one of them the cluster is down.

    A node that does not answer for ``node_timeout_ms`` is taken for dead. Raises ValueError when TLS is asked for.
    """

    def __init__(
        self, flavour: Flavour, nodes: int = 3, *, options: RedisOptions | None = None, node_timeout_ms: int = 2_000
    ) -> None:
        options = options or RedisOptions()
        if options.tls:
            raise ValueError("the nodes of a cluster are offered without TLS only")
        directives = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(node_timeout_ms),
            "cluster-announce-ip": "127.0.0.1",
        }
        options = dataclasses.replace(options, overrides={**directives, **options.overrides})
        ports: list[int] = []
        while len(ports) < nodes:
            ports.append(_node_port(taken=ports))
        self.nodes = tuple(RedisServer(flavour, options=options, port=port) for port in ports)

    @property
    def url(self) -> str:
        """The URL of the first node."""
        return self.nodes[0].url

    @property
    def cluster_url(self) -> str:
        """All nodes in one URL, as a mapping names a cluster."""
        return "redis+cluster://" + ",".join([node.address for node in self.nodes])

    async def start(self) -> None:
        """Start the nodes and join them; returns when each of them serves every slot: some three seconds."""
        for node in self.nodes:
            node.start()
        share = -(-SLOTS // len(self.nodes))
        for number, node in enumerate(self.nodes):
            async with client.connect(node.url) as connected:
                # Distinct from the start, or the nodes must first settle whose number is whose.
                await client.raw(connected, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                own = range(number * share, min((number + 1) * share, SLOTS))
                await client.raw(connected, "CLUSTER", "ADDSLOTS", *own)
                for other in self.nodes[:number]:
                    await client.raw(connected, "CLUSTER", "MEET", "127.0.0.1", other.port)
        await self.until_served()

    async def until_served(self, *, timeout: float = _FORM_TIMEOUT) -> None:
        """Wait until every node knows the others and serves its slots. Raises TimeoutError."""
        for node in self.nodes:

            async def complete(node: RedisServer = node) -> bool:
                return await self._is_complete(node)

            await until_async(complete, what=f"{node.address} sees the whole cluster", timeout=timeout)

    async def slot_of(self, key: client.Name) -> int:
        """The slot of a key, as the server computes it."""
        async with client.connect(self._first_running().url) as connected:
            return int(await client.raw(connected, "CLUSTER", "KEYSLOT", key))

    async def owner_of(self, slot: int) -> RedisServer:
        """The node that serves a slot, as a running node knows it. Raises LookupError when nobody does."""
        async with client.connect(self._first_running().url) as connected:
            for first, last, (_, port, *_), *_ in await client.raw(connected, "CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"slot {slot} is served by nobody")

    async def names_at(self, node: RedisServer, name: Callable[[], str], count: int) -> list[str]:
        """``count`` of the names that ``name`` gives, of keys that ``node`` serves."""
        names: list[str] = []
        while len(names) < count:
            candidate = name()
            if await self.owner_of(await self.slot_of(candidate)) is node:
                names.append(candidate)
        return names

    async def slot_move(self, slot: int, to: RedisServer) -> SlotMove:
        """A move in single steps, for tests that look at its middle. Raises ValueError when ``to`` owns the slot."""
        source = await self.owner_of(slot)
        if source is to:
            raise ValueError(f"slot {slot} is at {to.address} already")
        others = [node for node in self.nodes if node is not source and node is not to and node.running]
        return SlotMove(slot, source=source, target=to, others=others)

    async def move_slot(self, slot: int, to: RedisServer, *, keys_at_once: int = 10) -> None:
        """Move a slot with its keys, as ``redis-cli --cluster reshard`` does, while clients go on using it."""
        move = await self.slot_move(slot, to)
        await move.begin()
        while await move.move_keys(keys_at_once):
            pass
        await move.end()

    async def restart(self, node: RedisServer) -> None:
        """Start a node again, after it was killed; returns when every node serves its slots."""
        await node.restart()
        await self.until_served()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def output(self) -> str:
        return "\n".join(node.output() for node in self.nodes)

    async def _is_complete(self, node: RedisServer) -> bool:
        async with client.connect(node.url) as connected:
            state = bytes(await client.raw(connected, "CLUSTER", "INFO")).decode().splitlines()
        count = len(self.nodes)
        return {"cluster_state:ok", f"cluster_known_nodes:{count}", f"cluster_size:{count}"}.issubset(state)

    def _first_running(self) -> RedisServer:
        return next(node for node in self.nodes if node.running)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _node_port(*, taken: list[int]) -> int:
    """A free port whose bus port is free too, and low enough to stay so: see ``kafka_harness.ports``."""
    for _ in range(_ATTEMPTS):
        port = free_port()
        if port in taken or port + _BUS_OFFSET >= 32_000:
            continue
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port + _BUS_OFFSET))
            except OSError:
                continue
            return port
    raise RuntimeError("no free pair of ports found for a node of a cluster")
