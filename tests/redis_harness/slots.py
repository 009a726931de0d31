"""One slot on its way from node to node, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from redis_harness import client
from redis_harness.server import RedisServer

_MIGRATE_TIMEOUT_MS = 10_000


class SlotMove:
    """Between ``begin`` and ``end`` the source answers for the keys it still has; for others it sends clients on.

    A command on several keys of which some have moved is refused with TRYAGAIN meanwhile.
    """

    def __init__(
        self, slot: int, *, source: RedisServer, target: RedisServer, others: Sequence[RedisServer] = ()
    ) -> None:
        self.slot = slot
        self.source = source
        self.target = target
        self._others = others

    async def begin(self) -> None:
        # In this order: a client must not be sent on before it is expected.
        await self._set(self.target, "IMPORTING", await identity(self.source))
        await self._set(self.source, "MIGRATING", await identity(self.target))

    async def move_keys(self, count: int) -> int:
        """Move at most ``count`` of the keys that are left; returns how many went."""
        async with client.connect(self.source.url) as source:
            keys = await client.raw(source, "CLUSTER", "GETKEYSINSLOT", self.slot, count)
            if keys:
                await client.raw(
                    source,
                    *("MIGRATE", "127.0.0.1", self.target.port, "", 0, _MIGRATE_TIMEOUT_MS),
                    *(() if self.target.options.password is None else ("AUTH", self.target.options.password)),
                    "KEYS",
                    *keys,
                )
        return len(keys)

    async def end(self) -> None:
        """Give the slot to the target. Raises ResponseError when the source still has keys of it."""
        node = await identity(self.target)
        # In this order: for a moment both say that it is theirs, never that it is the other's.
        for server in (self.target, self.source, *self._others):
            await self._set(server, "NODE", node)

    async def _set(self, server: RedisServer, state: str, node: bytes) -> None:
        async with client.connect(server.url) as connected:
            await client.raw(connected, "CLUSTER", "SETSLOT", self.slot, state, node)


async def identity(server: RedisServer) -> bytes:
    """The name by which the nodes of a cluster know one of them."""
    async with client.connect(server.url) as connected:
        return bytes(await client.raw(connected, "CLUSTER", "MYID"))
