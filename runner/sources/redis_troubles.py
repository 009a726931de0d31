"""What one stream's readers are told to be wrong, from failure to success."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from runner.clients.redis_errors import RedisFailure, problem_of
from runner.model import Problem

_TOLERATED: Final = 2
"""How many failures in a row are not told when no server has answered: a connection that was lost is replaced soon."""

_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before the next try, by how often it has failed in a row."""

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0
"""Short enough for a stream that comes into being to be read within ten seconds."""
_LONGEST_PAUSE_IN_SILENCE: Final = 1.0
"""A try that nobody answers has taken seconds itself."""


def pause_to_begin(tries: int, failure: RedisFailure | None = None) -> float:
    """Seconds before a stream is tried again that could not be begun so often (from 1) in a row, the last time for
    ``failure``, or (None) for what it is like. What a server says may be so of thousands of streams, and for long."""
    is_silent = failure is not None and not failure.is_answer
    longest = _LONGEST_PAUSE_IN_SILENCE if is_silent else _LONGEST_PAUSE
    return float(min(_FIRST_PAUSE * 2.0 ** min(tries - 1, 10), longest))


class Troubles:
    """By what was tried. ``where`` names the server; ``tell`` gets the first that there is, or None, when it changes.

    What a server has answered is told at once, anything else when it has failed more often than may happen."""

    def __init__(self, where: str, tell: Callable[[Problem | None], None]) -> None:
        self._where = where
        self._tell = tell
        self._failures: Counter[str] = Counter()
        self._known: dict[str, Problem] = {}
        self._told: Problem | None = None

    def go_on_with(self, tried: str, problem: Problem) -> None:
        """It was told of somebody who tried the same before, and lasts until that works."""
        self._failures[tried] = 1
        self._known[tried] = self._told = problem

    def failed(self, tried: str, failure: RedisFailure) -> float:
        """Returns the seconds to wait before it is tried again."""
        self._failures[tried] += 1
        if failure.is_answer or self._failures[tried] > _TOLERATED:
            self._known[tried] = problem_of(failure, self._where)
            self._tell_first()
        return _PAUSES[min(self._failures[tried], len(_PAUSES)) - 1]

    def worked(self, tried: str) -> None:
        if self._failures.pop(tried, 0):
            self._known.pop(tried, None)
            self._tell_first()

    def _tell_first(self) -> None:
        first = next(iter(self._known.values()), None)
        if first != self._told:
            self._told = first
            self._tell(first)
