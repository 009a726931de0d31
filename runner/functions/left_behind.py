"""Calls of handlers that still run although nobody waits for their result any more, in the whole process."""

from __future__ import annotations

from typing import Final

_calls: Final[set[object]] = set()


def count() -> int:
    """How many there are."""
    return len(_calls)


def add(call: object) -> None:
    """From any thread, as ``discard``."""
    _calls.add(call)


def discard(call: object) -> None:
    """``call`` has ended; nothing happens when it was not left behind."""
    _calls.discard(call)
