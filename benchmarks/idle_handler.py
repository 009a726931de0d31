"""A handler that is never called."""

from __future__ import annotations


async def handle(records: object, context: object) -> None:
    raise AssertionError("nothing was produced")
