"""Calls to servers of which one may be silent, while the others' answers are not to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from collections.abc import Set as AbstractSet

import anyio
import anyio.abc


class Calls:
    """Each is about some names; at most one about a name is under way. How long it may last is its own business."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._ended = asyncio.Event()

    @property
    def names(self) -> AbstractSet[str]:
        """What the calls that are under way are about."""
        return self._names

    def start(self, tasks: anyio.abc.TaskGroup, names: Collection[str], call: Callable[[], Awaitable[None]]) -> None:
        """Nothing, when one about any of ``names`` is under way."""
        if self._names.isdisjoint(names):
            self._names.update(names)
            tasks.start_soon(self._run, names, call)

    async def _run(self, names: Collection[str], call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        finally:
            self._names.difference_update(names)
            self._ended.set()

    async def wait(self, names: Collection[str], seconds: float) -> None:
        """Until the calls about these names have ended, or the time is over."""
        with anyio.move_on_after(seconds):
            while not self._names.isdisjoint(names):
                self._ended.clear()
                await self._ended.wait()
