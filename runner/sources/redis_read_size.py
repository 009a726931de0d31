"""What of a stream is asked for at once, and how much of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from runner.clients.redis_errors import FailureKind, RedisFailure

MOST_BYTES: Final = 250_000
MOST_ENTRIES: Final = 500
"""Of one reply, about: a script stops the server for as long as it takes."""

STEP: Final = 25
"""A script reads so many, and looks at their size before it reads on: nobody knows how large the next ones are."""

LARGE_REPLY: Final = 1_000_000
"""Bytes after which it does not."""

_FIRST_ENTRIES: Final = 10
"""Nobody knows yet how large they are."""

_CUT_OFF: Final = frozenset({FailureKind.TIMEOUT, FailureKind.CONNECTION_LOST})


class Read(NamedTuple):
    """What is to be read: up to ``most`` entries after an id, or those that nobody has read (``>``), or nothing ("").
    ``goes_on``: also behind entries that were trimmed unread."""

    after: str = ""
    most: int = 0
    goes_on: bool = False


NOTHING: Final = Read()


class ReadSize:
    """As many ``entries`` as had room in a reply lately: more after small ones, fewer after large ones, and fewer still
    after a reply that did not come, since it may have been too long to come in time."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries = _FIRST_ENTRIES

    def came(self, entries: int, size: int) -> None:
        """So many entries of ``size`` bytes together."""
        if entries:
            self.entries = max(1, min(MOST_ENTRIES, MOST_BYTES * entries // max(size, 1), 2 * self.entries))

    def failed(self, failure: RedisFailure) -> None:
        if failure.kind in _CUT_OFF:
            self.entries = max(1, self.entries // 4)
