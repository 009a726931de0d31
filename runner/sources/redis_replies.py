"""What stands in the replies of our scripts."""

from __future__ import annotations

from runner.clients.redis_wire import Reply


def bytes_in(value: Reply) -> bytes:
    """A text that may be anything."""
    assert isinstance(value, bytes)
    return value


def ids_in(value: Reply) -> list[str]:
    """The ids of entries."""
    assert isinstance(value, list)
    return [bytes_in(each).decode() for each in value]
