"""Waiting for a condition that only polling can see, with a deadline and a message that says what did not happen."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(
    condition: Callable[[], T | Awaitable[T]], *, what: str, timeout: float = 30.0, every: float = 0.05
) -> T:
    """Ask ``condition`` every ``every`` seconds until it is truthy; returns what it said.

    Raises TimeoutError with ``what`` and the last answer after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:g} s still not: {what} (last answer: {value!r})")
        await asyncio.sleep(every)
