"""Decides which log messages are repeats, so that a flood becomes a few lines while every message is counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

BURST: Final = 3
INTERVAL: Final = 10.0
CAPACITY: Final = 1000
KINDS: Final = 10


class LogCounts:
    """Messages by level, suppressed ones included: warning, error, critical."""

    __slots__ = ("by_level",)

    def __init__(self) -> None:
        self.by_level = {"warning": 0, "error": 0, "critical": 0}

    def count(self, level: int) -> None:
        """``level`` is one of the logging module's numbers; below warning nothing is counted."""
        if level < logging.WARNING:
            return
        if level < logging.ERROR:
            self.by_level["warning"] += 1
        elif level < logging.CRITICAL:
            self.by_level["error"] += 1
        else:
            self.by_level["critical"] += 1


class MessageKey(NamedTuple):
    """What makes two messages repeats of each other. ``event`` is the message without its values, ``kind`` what of
    these makes it another kind of message all the same: a failure's kind, type and status. "" is any kind."""

    logger: str
    event: str
    mapping: str | None
    level: int
    kind: str = ""


class Summary(NamedTuple):
    """``suppressed`` messages of one key within ``seconds``, of which ``newest`` came last."""

    key: MessageKey
    suppressed: int
    seconds: float
    newest: logging.LogRecord


class _Repeats:
    __slots__ = ("admitted", "last", "newest", "since", "suppressed")

    def __init__(self, now: float) -> None:
        self.admitted = 1
        self.suppressed = 0
        self.since = now  # when the first of the suppressed ones came
        self.last = now
        self.newest: logging.LogRecord | None = None  # of the suppressed ones


class RepeatLimiter:
    """Admits the first ``burst`` messages of a key, then only sums up, at most once in ``interval`` seconds.

    A key that was silent for an interval starts anew. Messages of which there are ``kinds`` kinds already, alike but
    for these, are all of the kind "": how many there can be is the function's to say. At most ``capacity`` keys are
    remembered: the oldest makes room, and what was suppressed of it is summed up. Not thread-safe: its handler's lock
    guards it.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        burst: int = BURST,
        interval: float = INTERVAL,
        capacity: int = CAPACITY,
        kinds: int = KINDS,
    ) -> None:
        self._monotonic = monotonic
        self._burst = burst
        self._interval = interval
        self._capacity = capacity
        self._most_kinds = kinds
        self._keys: dict[MessageKey, _Repeats] = {}
        self._kinds: Counter[MessageKey] = Counter()  # how many there are, by the key of the kind ""
        self._evicted: list[Summary] = []
        self._next_look = 0.0

    @property
    def pending(self) -> bool:
        """Whether something suppressed is still to be summed up."""
        return bool(self._evicted) or any(repeats.suppressed for repeats in self._keys.values())

    def admit(self, key: MessageKey, example: Callable[[], logging.LogRecord], *, burst: int | None = None) -> bool:
        """Whether this message is to be written; otherwise it is part of a later summary, and ``example`` makes what
        that keeps of it; what that raises is raised, and the message in none. ``burst``: another one than the usual."""
        now = self._monotonic()
        key = self._known_or_any_kind(key)
        repeats = self._keys.get(key)
        if repeats is None:
            self._make_room(now)
            self._keys[key] = _Repeats(now)
            self._kinds[key._replace(kind="")] += 1
            return True
        if not repeats.suppressed and now - repeats.last >= self._interval:
            repeats.admitted = 0
        repeats.last = now
        if not repeats.suppressed and repeats.admitted < (self._burst if burst is None else burst):
            repeats.admitted += 1
            return True
        repeats.newest = example()
        if not repeats.suppressed:
            repeats.since = now
        repeats.suppressed += 1
        return False

    def due(self) -> list[Summary]:
        """Summaries whose interval is over, each handed out once."""
        now = self._monotonic()
        summaries = self._take_evicted()
        if now < self._next_look:
            return summaries
        for key, repeats in list(self._keys.items()):
            if repeats.suppressed and now - repeats.since >= self._interval:
                summaries.append(_sum_up(key, repeats, now))
            elif not repeats.suppressed and now - repeats.last >= self._interval:
                self._forget(key)
        # A tenth of the interval late at most: looking through all keys at every message would cost more than writing.
        self._next_look = now + self._interval / 10
        return summaries

    def drain(self) -> list[Summary]:
        """Everything still to be summed up, whether its interval is over or not."""
        now = self._monotonic()
        summaries = self._take_evicted()
        summaries += [_sum_up(key, repeats, now) for key, repeats in self._keys.items() if repeats.suppressed]
        return summaries

    def _known_or_any_kind(self, key: MessageKey) -> MessageKey:
        if not key.kind or key in self._keys:
            return key
        any_kind = key._replace(kind="")
        return any_kind if self._kinds[any_kind] >= self._most_kinds else key

    def _take_evicted(self) -> list[Summary]:
        evicted, self._evicted = self._evicted, []
        return evicted

    def _make_room(self, now: float) -> None:
        if len(self._keys) < self._capacity:
            return
        oldest = next(iter(self._keys))
        repeats = self._forget(oldest)
        if repeats.suppressed:
            self._evicted.append(_sum_up(oldest, repeats, now))

    def _forget(self, key: MessageKey) -> _Repeats:
        any_kind = key._replace(kind="")
        self._kinds[any_kind] -= 1
        if not self._kinds[any_kind]:
            del self._kinds[any_kind]
        return self._keys.pop(key)


def _sum_up(key: MessageKey, repeats: _Repeats, now: float) -> Summary:
    assert repeats.newest is not None, "there is an example of what was suppressed"
    summary = Summary(key, repeats.suppressed, now - repeats.since, repeats.newest)
    repeats.suppressed = 0
    repeats.newest = None
    return summary
