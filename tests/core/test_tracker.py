"""The checkpoint is the lowest unsettled position, whatever the positions look like."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core_strategies import OpaquePosition, a_record, records_of
from runner.core import tracker as tracker_module
from runner.core.tracker import Tracker
from runner.model import Position, Record


class TrackerMachine(RuleBasedStateMachine):
    """Against a model that keeps everything and looks at all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = Tracker()
        self.positions: list[Position] = []
        self.unsettled: set[int] = set()
        self.next_position: Position | None = None
        self.passed = 0  # positions that the source has given out or passed over

    def _position(self) -> Position:
        return OpaquePosition(f"{self.passed * 7919 % 10_007}-{self.passed}")

    @rule(gaps=st.lists(st.integers(1, 3), max_size=20), markers=st.integers(0, 3))
    def fetch(self, gaps: list[int], markers: int) -> None:
        self._fetch(gaps, markers)

    @rule(count=st.integers(1_000, 3_000))
    def fetch_a_lot(self, count: int) -> None:
        self._fetch([1] * count, 0)

    def _fetch(self, gaps: list[int], markers: int) -> None:
        first = len(self.positions)
        for gap in gaps:
            self.passed += gap
            self.positions.append(self._position())
        self.passed += 1 + markers
        self.next_position = self._position()
        self.tracker.fetched(self.positions[first:], self.next_position)
        self.unsettled.update(range(first, len(self.positions)))

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def settle_some(self, data: st.DataObject) -> None:
        nearby = sorted(self.unsettled)[:40]
        self._settle(data.draw(st.lists(st.sampled_from(nearby), unique=True, max_size=10)))

    @precondition(lambda self: self.unsettled)
    @rule()
    def settle_the_lowest(self) -> None:
        self._settle([min(self.unsettled)])

    @precondition(lambda self: self.unsettled)
    @rule(kept=st.integers(0, 3))
    def settle_nearly_all(self, kept: int) -> None:
        self._settle(sorted(self.unsettled)[kept:])

    def _settle(self, chosen: list[int]) -> None:
        self.tracker.settle([a_record(sequence) for sequence in chosen])
        self.unsettled.difference_update(chosen)

    @invariant()
    def agrees_with_the_model(self) -> None:
        head = min(self.unsettled, default=len(self.positions))
        checkpoint = self.positions[head] if self.unsettled else self.next_position
        settled = len(self.positions) - len(self.unsettled)
        assert self.tracker.checkpoint == checkpoint
        assert self.tracker.head == head
        assert self.tracker.fetched_records == len(self.positions)
        assert self.tracker.settled_records == settled
        assert self.tracker.unsettled_records == len(self.unsettled)
        assert self.tracker.ahead_records == settled - head


TestTrackerMachine = TrackerMachine.TestCase
TestTrackerMachine.settings = settings(max_examples=50, stateful_step_count=20)


def test_no_checkpoint_before_the_first_fetch() -> None:
    assert Tracker().checkpoint is None


def test_a_fetch_of_markers_only_moves_the_checkpoint() -> None:
    tracker = Tracker()
    tracker.fetched([], 17)
    assert tracker.checkpoint == 17
    tracker.fetched([], 40)
    assert tracker.checkpoint == 40


def test_a_fetch_of_markers_does_not_pass_an_unsettled_record() -> None:
    tracker = Tracker()
    tracker.fetched([5], 6)
    tracker.fetched([], 9)
    assert tracker.checkpoint == 5
    tracker.settle([a_record(0, position=5)])
    assert tracker.checkpoint == 9


def test_all_settled_is_the_position_after_the_last_fetch_not_the_last_record_plus_one() -> None:
    tracker = Tracker()
    tracker.fetched(["7-0", "9-4"], "12-0")
    tracker.settle([a_record(1), a_record(0)])
    assert tracker.checkpoint == "12-0"


@pytest.mark.parametrize("count", [10, 10_000])
def test_a_record_is_settled_once(count: int) -> None:
    tracker = Tracker()
    tracker.fetched(range(count), count)
    tracker.settle(records_of(count - 5))
    for sequence in (0, count // 3, count - 6):
        with pytest.raises(AssertionError):
            tracker.settle([a_record(sequence)])
    assert tracker.checkpoint == count - 5


def test_releasing_a_long_run_behind_a_stuck_head_does_not_look_at_each_record() -> None:
    assert _lines_to_release(200_000) == _lines_to_release(10_000)


def test_a_long_settled_run_is_not_kept() -> None:
    tracker = Tracker()
    tracker.fetched(range(200_000), 200_000)
    tracker.settle(records_of(199_999))
    assert len(tracker._positions) == len(tracker._flags) == 1


def _lines_to_release(count: int) -> int:
    tracker = Tracker()
    tracker.fetched(range(count + 1), count + 1)
    head, *rest = records_of(count)
    tracker.settle(rest)
    assert (tracker.checkpoint, tracker.ahead_records) == (0, count - 1)
    lines = _lines_executed(lambda: tracker.settle([head]))
    assert (tracker.checkpoint, tracker.ahead_records) == (count, 0)
    return lines


def _lines_executed(call: Callable[[], None]) -> int:
    """Lines of the tracker's module that ``call`` runs through: a measure of work that no machine's load changes."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != tracker_module.__file__:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


def test_only_the_sequence_of_a_record_counts() -> None:
    tracker = Tracker()
    tracker.fetched([3, 4], 5)
    strangers: list[Record] = [a_record(1, position="elsewhere")]
    tracker.settle(strangers)
    assert (tracker.checkpoint, tracker.ahead_records) == (3, 1)
