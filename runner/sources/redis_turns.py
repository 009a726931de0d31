"""Calls about a shared stream that must not take effect after what is called later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from runner.clients.redis import Script
from runner.clients.redis_errors import Effect, RedisFailure
from runner.clients.redis_wire import Reply
from runner.sources.redis_shared_scripts import IDENTIFY_SHARED


class Call(Protocol):
    """``StreamReader.call``."""

    def __call__(
        self, script: Script, *arguments: bytes | str, allowed: Collection[bytes] = ()
    ) -> Awaitable[list[Reply]]: ...


class Turns:
    """Those of one assignment, made one at a time. What was given up on may still be on its way: then who calls is in
    doubt, and takes the next of ``numbers``, those of its consumer from 1 on, before anything else."""

    def __init__(self, call: Call, numbers: Iterator[int], *, is_first: bool, on_doubt: Callable[[], None]) -> None:
        """``is_first``: nothing was asked for in our consumer's name before. ``on_doubt`` is called when it is not
        known what a call has done."""
        self.is_in_doubt = not is_first
        self._call = call
        self._numbers = numbers
        self._number = 0
        self._on_doubt = on_doubt

    async def call(self, script: Script, *arguments: bytes | str, allowed: Collection[bytes] = ()) -> list[Reply]:
        """Raises AssignmentOver, RedisFailure."""
        await self.end_doubt()
        with self._in_doubt_if_cut_off():
            return await self._call(script, b"%d" % self._number, *arguments, allowed=allowed)

    async def end_doubt(self) -> None:
        """Make what was given up on come too late. Raises AssignmentOver, RedisFailure."""
        if not self.is_in_doubt:
            return
        self._number = next(self._numbers)
        with self._in_doubt_if_cut_off():
            await self._call(IDENTIFY_SHARED, b"%d" % self._number)
            self.is_in_doubt = False

    @contextmanager
    def _in_doubt_if_cut_off(self) -> Iterator[None]:
        try:
            yield
        except RedisFailure as failure:
            if failure.effect is Effect.UNKNOWN:
                self._begin_to_doubt()
            raise
        except asyncio.CancelledError:
            self._begin_to_doubt()
            raise

    def _begin_to_doubt(self) -> None:
        self.is_in_doubt = True
        self._on_doubt()
