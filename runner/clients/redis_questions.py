"""Questions that go to several servers side by side, and that nobody ends by no longer waiting for the answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

from runner.clients.redis_errors import FailureKind, RedisFailure
from runner.clients.redis_url import Address

T = TypeVar("T")

_ASK_TIMEOUT: Final = 1.0
"""Seconds that one server may take to answer."""
_HEAD_START: Final = 0.1
"""Seconds that those asked before have for themselves."""
_MOST_AT_ONCE: Final = 8
"""So that a question to many silent servers costs few connections; about what the two times above allow anyway."""


class SharedQuestion(Generic[T]):
    """At most one is under way, in a task of its own: who is cut off while waiting leaves it running for the next."""

    def __init__(self, ask: Callable[[], Awaitable[T]], where: str) -> None:
        self._ask = ask
        self._where = where
        self._task: asyncio.Task[T | RedisFailure] | None = None
        self._closed = False

    async def answer(self) -> T:
        """Of the question that is under way, or else of a new one. Raises RedisFailure."""
        if self._closed:
            raise RedisFailure(FailureKind.CLOSED, self._where)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        task = self._task
        await asyncio.wait([task])
        if task.cancelled():
            raise RedisFailure(FailureKind.CLOSED, self._where)
        answer = task.result()
        if isinstance(answer, RedisFailure):
            # Each who waits has one of its own: a traceback grows where it is raised.
            raise RedisFailure(answer.kind, answer.text, answer.effect) from answer
        return answer

    async def _run(self) -> T | RedisFailure:
        """Does not raise what may find nobody waiting."""
        try:
            return await self._ask()
        except RedisFailure as failure:
            return failure

    async def close(self) -> None:
        """End the one that is under way, and those who wait for it. Takes no time."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


async def first_answer(addresses: Iterable[Address], ask: Callable[[Address], Awaitable[T]]) -> tuple[Address, T]:
    """Who of ``addresses``, asked one shortly after the other, is the first to answer, and what.

    Raises the RedisFailure of the first of them when none does.
    """
    waiting = deque(dict.fromkeys(addresses))
    assert waiting, "a URL names at least one server"
    first, failures = waiting[0], dict[Address, RedisFailure]()
    asked: dict[asyncio.Task[T | RedisFailure], Address] = {}
    try:
        while waiting or asked:
            if waiting and len(asked) < _MOST_AT_ONCE:
                address = waiting.popleft()
                asked[asyncio.create_task(_asked(address, ask))] = address
            is_next = waiting and len(asked) < _MOST_AT_ONCE
            await asyncio.wait(asked, timeout=_HEAD_START if is_next else None, return_when=asyncio.FIRST_COMPLETED)
            # Of several that have answered meanwhile, the one that was asked first counts.
            for task in [each for each in asked if each.done()]:
                address, answer = asked.pop(task), task.result()
                if not isinstance(answer, RedisFailure):
                    return address, answer
                failures[address] = answer
    finally:
        for task in asked:
            task.cancel()
        if asked:
            await asyncio.wait(asked)
    raise failures[first]


async def _asked(address: Address, ask: Callable[[Address], Awaitable[T]]) -> T | RedisFailure:
    """Does not raise what nobody looks at once another has answered."""
    try:
        async with asyncio.timeout(_ASK_TIMEOUT):
            return await ask(address)
    except RedisFailure as failure:
        return failure
    except TimeoutError:
        return RedisFailure(FailureKind.TIMEOUT, f"{address}: no answer within {_ASK_TIMEOUT:g} s")
