"""Entries that are added at a steady pace while a test does something else."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from redis.asyncio import Redis

from e2e_support.redis_group import StreamGroup
from kafka_harness import producing

_INTERVAL = 0.1


class PacedLoad:
    """Within its ``async with`` block every stream of the group gets ``a_second`` entries a second, in small lots.

    ``keys`` different keys take turns in a stream; every ``poison_every``-th entry is poison, none at 0.
    """

    def __init__(
        self, group: StreamGroup, client: Redis, *, a_second: float, keys: int = 37, poison_every: int = 0
    ) -> None:
        self._group = group
        self._client = client
        self._a_second = a_second
        self._keys = keys
        self._poison_every = poison_every
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_adding(), name=f"load-{self._group.base}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        # Not cancelled: an entry that is added must also be noted.
        self._ending.set()
        await self._task

    async def _keep_adding(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        added = 0
        while not self._ending.is_set():
            due = int((loop.time() - began) * self._a_second) - added
            items = producing.numbered(due, keys=self._keys, poison_every=self._poison_every, start=added)
            if items:
                await asyncio.gather(*[self._group.add(self._client, stream, items) for stream in self._group.streams])
            added += due
            try:
                async with asyncio.timeout(_INTERVAL):
                    await self._ending.wait()
            except TimeoutError:
                continue
