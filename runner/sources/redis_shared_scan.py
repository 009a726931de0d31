"""Looking for entries of a shared stream that nobody keeps, or that are ours without that we know."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from runner.clients.redis import RedisClient
from runner.core.lease import LeaseTimes
from runner.sources.redis_reader import StreamPlace
from runner.sources.redis_replies import bytes_in, ids_in
from runner.sources.redis_scripts import CONSUMER, CONSUMER_PREFIX, MOST_IDS
from runner.sources.redis_shared_scripts import FORGET_MS
from runner.sources.redis_shared_takeover_scripts import SCAN
from runner.sources.redis_turns import Call

HANDED_BACK: Final = CONSUMER
"""The consumer that has what was handed back: who made it pending is gone."""

_JITTER: Final = (0.75, 1.0)  # of a heartbeat between two scans, so that processes do not scan all at once


class Seen(NamedTuple):
    """``ids`` are nobody's or ours, whether we know of them or not; ``others_wait``: other consumers have something
    up to the end. ``run_id`` is the server's, empty where it is not told."""

    run_id: bytes
    others_wait: bool
    ids: Sequence[str]


class Scan:
    """When to look, and where to go on; ``end`` is the last id that is waited for, if any. Times are in seconds."""

    def __init__(self, times: LeaseTimes, end: str | None, *, now: Callable[[], float]) -> None:
        self._times = times
        self._end = end or ""
        self._now = now
        self.begin_anew()

    def begin_anew(self) -> None:
        """What was found is to be found again; it is due now."""
        self._due = self._now()
        self._page_from = b"-"
        self._silent_from = (b"", b"-")  # a consumer, of any bytes, and an id

    @property
    def due_in(self) -> float:
        """Zero or less: now."""
        return self._due - self._now()

    def hurry(self) -> None:
        """It is due now."""
        self._due = self._now()

    async def look(self, call: Call, least_idle: bytes) -> Seen:
        """Look at the next of what is to be looked at; when that was the last of it, the next time is in a heartbeat.
        Raises AssignmentOver, RedisFailure."""
        reply = await call(
            SCAN,
            least_idle,
            self._page_from,
            *self._silent_from,
            b"%d" % MOST_IDS,
            HANDED_BACK,
            CONSUMER_PREFIX,
            b"%d" % FORGET_MS,
            self._end,
        )
        self._page_from = bytes_in(reply[3])
        silent, _ = self._silent_from = bytes_in(reply[5]), bytes_in(reply[6])
        if not silent:
            self._due = self._now() + self._times.heartbeat * random.uniform(*_JITTER)
        return Seen(bytes_in(reply[1]), reply[2] != b"", ids_in(reply[4]))


async def own_page(client: RedisClient, place: StreamPlace, start: str, timeout: float) -> list[str]:
    """The ids of what our consumer has, MOST_IDS at most, from ``start`` on, which is XPENDING's. Raises
    RedisFailure."""
    page = await client.execute(
        "XPENDING",
        place.stream,
        place.group,
        start,
        "+",
        MOST_IDS,
        place.consumer,
        key=place.stream,
        timeout=timeout,
    )
    assert isinstance(page, list)
    return ids_in([entry[0] for entry in page if isinstance(entry, list)])
