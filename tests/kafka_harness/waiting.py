"""Waiting for a condition that only polling can see, with a deadline and a message that says what did not happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T], *, what: str, timeout: float = 30.0, every: float = 0.05) -> T:
    """Ask ``condition`` every ``every`` seconds until it is truthy; returns what it said.

    Raises TimeoutError with ``what`` and the last answer after ``timeout`` seconds.
    """

    async def ask() -> T:
        return condition()

    return await until_async(ask, what=what, timeout=timeout, every=every)


async def until_async(
    condition: Callable[[], Awaitable[T]], *, what: str, timeout: float = 30.0, every: float = 0.05
) -> T:
    """As ``until``, for a condition that must be awaited."""
    deadline = time.monotonic() + timeout
    while not (answer := await condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:g} s still not: {what} (last answer: {answer!r})")
        await asyncio.sleep(every)
    return answer
