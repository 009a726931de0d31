"""The lag is never younger than the oldest record that is not settled."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core_strategies import a_record
from runner.core.lag import Lag
from runner.core.tracker import Tracker
from runner.model import Backlog


class Reading:
    """One partition that is read, settled and asked for its lag."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.lag = Lag(self.tracker)

    def fetch(self, count: int, backlog: Backlog | None) -> None:
        first = self.tracker.fetched_records
        self.tracker.fetched(range(first, first + count), first + count)
        self.lag.note_end(backlog)

    def settle(self, *sequences: int) -> None:
        self.tracker.settle([a_record(sequence) for sequence in sequences])
        self.lag.note_settled()


def test_unknown_before_anything_is_known() -> None:
    assert Reading().lag.seconds(100.0, None, None) is None


def test_unknown_while_only_the_distance_to_the_end_is_known() -> None:
    assert Reading().lag.seconds(100.0, Backlog(5, 99.0), None) is None


def test_unknown_while_the_end_is_not() -> None:
    reading = Reading()
    reading.fetch(1, Backlog(None, 99.0))
    reading.settle(0)
    assert reading.lag.seconds(100.0, Backlog(None, 99.0), None) is None


@pytest.mark.parametrize(("now", "expected"), [(100.0, 0.0), (110.0, 0.0), (110.5, 10.5), (130.0, 30.0)])
def test_zero_only_while_the_end_was_learnt_within_ten_seconds(now: float, expected: float) -> None:
    assert Reading().lag.seconds(now, Backlog(0, 100.0), None) == expected


def test_not_zero_at_the_end_while_something_is_unsettled() -> None:
    reading = Reading()
    at_the_end = Backlog(0, 100.0)
    reading.fetch(2, at_the_end)
    reading.settle(1)
    assert reading.lag.seconds(100.0, at_the_end, 93.0) == 7.0
    reading.settle(0)
    assert reading.lag.seconds(100.0, at_the_end, None) == 0.0


def test_not_zero_before_the_end_though_all_that_was_fetched_is_settled() -> None:
    reading = Reading()
    assert reading.lag.seconds(100.0, Backlog(0, 100.0), None) == 0.0
    assert reading.lag.seconds(105.0, Backlog(3, 105.0), None) == 5.0


def test_the_age_of_the_oldest_unsettled_record() -> None:
    reading = Reading()
    reading.fetch(1, Backlog(10, 100.0))
    assert reading.lag.seconds(100.0, Backlog(10, 100.0), 40.0) == 60.0


def test_at_least_the_time_since_it_was_current() -> None:
    reading = Reading()
    reading.lag.seconds(100.0, Backlog(0, 100.0), None)
    reading.fetch(1, Backlog(1, 120.0))
    assert reading.lag.seconds(120.0, Backlog(1, 120.0), 119.0) == 20.0
    assert reading.lag.seconds(120.0, Backlog(1, 120.0), None) == 20.0


@pytest.mark.parametrize("oldest", [101.0, 1e12])
def test_a_timestamp_in_the_future_is_now(oldest: float) -> None:
    reading = Reading()
    reading.fetch(1, Backlog(1, 100.0))
    assert reading.lag.seconds(100.0, Backlog(1, 100.0), oldest) == 0.0


def test_a_partition_that_keeps_up_under_load_was_current_when_the_end_was_learnt() -> None:
    """It is never seen at its end, yet all up to an end that was learnt before is settled."""
    reading = Reading()
    reading.fetch(2, Backlog(2, 100.0))
    reading.settle(0, 1)
    reading.fetch(2, Backlog(5, 101.0))
    assert reading.lag.seconds(103.0, Backlog(5, 101.0), None) is None
    reading.settle(2, 3)
    assert reading.lag.seconds(103.0, Backlog(5, 101.0), None) == 3.0


def test_a_newer_end_that_is_nearer_takes_the_place_of_the_mark() -> None:
    """Holes make an end look farther than it is: fifty of these hundred positions never hold a record."""
    reading = Reading()
    reading.fetch(1, Backlog(100, 100.0))
    reading.fetch(49, Backlog(2, 200.0))
    reading.settle(*range(50))
    reading.fetch(2, Backlog(7, 201.0))
    reading.settle(50, 51)
    assert reading.lag.seconds(204.0, Backlog(7, 201.0), None) == 4.0


class LagMachine(RuleBasedStateMachine):
    """Against the truth about when each record was produced, with a source that learns of the end now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = Reading()
        self.now = 1_000.0
        self.produced: list[float] = []
        self.fetched = 0
        self.unsettled: set[int] = set()
        self.known_end: tuple[int, float] | None = None
        self.has_timestamps = True

    @rule(seconds=st.floats(0.0, 8.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(0, 5))
    def produce(self, count: int) -> None:
        self.produced += [self.now] * count

    @rule()
    def learn_the_end(self) -> None:
        self.known_end = (len(self.produced), self.now)

    @rule(count=st.integers(0, 5))
    def fetch(self, count: int) -> None:
        count = min(count, len(self.produced) - self.fetched)
        self.unsettled.update(range(self.fetched, self.fetched + count))
        self.fetched += count
        self.reading.fetch(count, self._backlog())

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.unsettled)), unique=True))
        self.unsettled.difference_update(chosen)
        self.reading.settle(*chosen)

    @rule()
    def settle_all(self) -> None:
        self.reading.settle(*sorted(self.unsettled))
        self.unsettled.clear()

    @rule()
    def timestamps_come_and_go(self) -> None:
        self.has_timestamps = not self.has_timestamps

    def _backlog(self) -> Backlog | None:
        if self.known_end is None:
            return None
        end, learnt_at = self.known_end
        return Backlog(max(0, end - self.fetched), learnt_at)

    @invariant()
    def what_is_older_than_the_lag_is_settled(self) -> None:
        oldest = self.produced[min(self.unsettled)] if self.unsettled and self.has_timestamps else None
        backlog = self._backlog()
        seconds = self.reading.lag.seconds(self.now, backlog, oldest)
        if seconds is None:
            assert oldest is None
            return
        assert seconds >= 0.0
        current_as_of = self.now - seconds
        if seconds == 0.0 and not self.unsettled and backlog is not None and backlog.records == 0:
            assert self.now - backlog.learnt_at <= 10.0
            current_as_of = backlog.learnt_at
        waiting = self.unsettled | set(range(self.fetched, len(self.produced)))
        assert all(self.produced[sequence] >= current_as_of - 1e-6 for sequence in waiting)


TestLagMachine = LagMachine.TestCase
TestLagMachine.settings = settings(max_examples=80, stateful_step_count=25)
