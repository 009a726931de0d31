"""An owner stops before the store can give its partition away, whatever delays its messages have."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from runner.core.lease import HeldLease, LeaseTimes

TIMES = LeaseTimes(duration=10.0, heartbeat=2.0)


def test_it_ends_a_margin_before_the_store_would_end_it() -> None:
    lease = HeldLease(7, sent_at=100.0, times=TIMES)
    assert lease.until == 108.0
    assert not lease.is_over(107.9)
    assert lease.is_over(108.0)


def test_a_renewal_counts_from_when_it_was_sent() -> None:
    lease = HeldLease(7, sent_at=100.0, times=TIMES)
    assert lease.renewed(sent_at=102.0, now=107.0)
    assert lease.until == 110.0


def test_a_renewal_that_is_overtaken_by_a_later_one_takes_nothing_back() -> None:
    lease = HeldLease(7, sent_at=100.0, times=TIMES)
    assert lease.renewed(sent_at=104.0, now=105.0)
    assert lease.renewed(sent_at=102.0, now=106.0)
    assert lease.until == 112.0


def test_what_is_over_stays_over() -> None:
    lease = HeldLease(7, sent_at=100.0, times=TIMES)
    assert not lease.renewed(sent_at=107.0, now=108.0)
    assert lease.is_over(0.0), "another may have owned the partition since"
    ended = HeldLease(8, sent_at=100.0, times=TIMES)
    ended.end()
    assert not ended.renewed(sent_at=101.0, now=102.0)


@dataclass
class Store:
    """One lease by the rules of the store, on a clock of its own that runs ``drift`` times as fast."""

    drift: float
    generation: int = 0
    owner: int = -1
    expires_at: float = 0.0
    owned: list[tuple[int, int]] = field(default_factory=list)

    def take(self, owner: int, now: float) -> int | None:
        if self.owner != owner and now * self.drift < self.expires_at:
            return None
        self.generation += 1
        self.owner, self.expires_at = owner, now * self.drift + TIMES.duration
        return self.generation

    def renew(self, owner: int, generation: int, now: float) -> bool:
        if (owner, generation) != (self.owner, self.generation):
            return False
        self.expires_at = now * self.drift + TIMES.duration
        return True


calls = st.lists(st.tuples(st.floats(0.0, 6.0), st.floats(0.0, 12.0), st.floats(0.0, 12.0)), max_size=15)


@given(st.tuples(calls, calls, calls), st.floats(0.85, 1.2))
def test_no_two_owners_believe_in_a_lease_at_the_same_time(
    calls: tuple[list[tuple[float, float, float]], ...], drift: float
) -> None:
    """Each member asks, one call after the other: it pauses, its request takes its time, and so does the answer."""
    store = Store(drift)
    held: dict[int, HeldLease] = {}
    answers: dict[int, int | bool | None] = {}
    believed: dict[int, tuple[float, float]] = {}
    moments: list[tuple[float, int, str, float]] = []
    for member, asked in enumerate(calls):
        now = 0.0
        for pause, there, back in asked:
            sent_at = now + pause
            now = sent_at + there + back
            moments += [(sent_at, member, "sent", sent_at), (sent_at + there, member, "heard", sent_at)]
            moments.append((now, member, "answered", sent_at))
    renewing: dict[int, HeldLease | None] = {}
    for now, member, what, sent_at in sorted(moments, key=lambda moment: moment[0]):
        if what == "sent":
            lease = held.get(member)
            renewing[member] = None if lease is None or lease.is_over(now) else lease
        elif what == "heard":
            lease = renewing[member]
            heard = store.take(member, now) if lease is None else store.renew(member, lease.generation, now)
            answers[member] = heard
        elif (lease := renewing[member]) is not None:
            if answers[member] and lease.renewed(sent_at, now):
                believed[lease.generation] = believed[lease.generation][0], lease.until
        elif (generation := answers[member]) is not None:
            lease = held[member] = HeldLease(generation, sent_at, TIMES)
            if not lease.is_over(now):
                believed[generation] = now, lease.until
    in_order = [believed[generation] for generation in sorted(believed)]
    for (_, until), (begin, _) in itertools.pairwise(in_order):
        assert until <= begin
