"""Whether a partition that is owned by lease is still ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MARGIN_SHARE: Final = 0.2
"""The part of a lease that its owner does not use, so that clocks and pauses may be off by that much."""

HEARTBEATS: Final = 3
"""How many renewals a lease must have time for besides its margin, so that losing one costs nothing."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """All in seconds. ``duration`` is what the store grants from when it hears of a renewal."""

    duration: float
    heartbeat: float

    @property
    def margin(self) -> float:
        return self.duration * MARGIN_SHARE

    @property
    def longest_heartbeat(self) -> float:
        """``duration >= 3 * heartbeat + margin`` is what keeps an owner that lost one renewal."""
        return (self.duration - self.margin) / HEARTBEATS

    @property
    def longest_call(self) -> float:
        """Who counts its lease from the sending of a call, while that is under way, has so long for it: the call has
        failed well before the lease is over."""
        return self.duration / 2


class HeldLease:
    """One partition's lease as its owner knows it, by its own monotonic clock.

    The store counts a lease from when it hears of it, which is after the owner has sent it: whoever counts from the
    sending, and stops a margin earlier, has always stopped before the store gives the partition away. What is over
    stays over: a renewal that is heard of too late may have been overtaken by another owner.
    """

    __slots__ = ("_is_over", "_times", "_until", "generation")

    def __init__(self, generation: int, sent_at: float, times: LeaseTimes) -> None:
        """``sent_at``: the time right before the request that took the lease was sent."""
        self.generation = generation
        self._times = times
        self._until = sent_at + times.duration - times.margin
        self._is_over = False

    @property
    def until(self) -> float:
        """From this time on nothing may be started."""
        return self._until

    def is_over(self, now: float) -> bool:
        if now >= self._until:
            self._is_over = True
        return self._is_over

    def renewed(self, sent_at: float, now: float) -> bool:
        """The store granted what was asked for at ``sent_at``. False: too late, the lease is over."""
        if self.is_over(now):
            return False
        self._until = max(self._until, sent_at + self._times.duration - self._times.margin)
        return not self.is_over(now)

    def end(self) -> None:
        """The store says that it is another's, or that it is gone."""
        self._is_over = True
