"""A batch is due by count, encoded bytes or window, and nothing is lost on the way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core_strategies import a_record, records_of, sequences
from runner.core.batcher import Batcher, BatchPolicy
from runner.model import Record

AT_ONCE = -math.inf


def plain_size(record: Record) -> int:
    return record.size


def encoded_size(record: Record) -> int:
    """Larger than the record, differently for each, and below ``1.5 * size + 9``."""
    return record.size + record.size // 3 + record.sequence % 10


def a_policy(records: int = 100, window: float = 1.0, maximum_bytes: int = 1_000_000) -> BatchPolicy:
    return BatchPolicy(records, window, maximum_bytes, plain_size)


policies = st.one_of(
    st.builds(BatchPolicy, st.integers(1, 8), st.floats(0, 10), st.integers(1, 60), st.just(plain_size)),
    st.builds(
        BatchPolicy,
        st.integers(1, 8),
        st.floats(0, 10),
        st.integers(1, 120),
        st.just(encoded_size),
        fixed_bytes=st.integers(0, 30),
        expansion=st.just(1.5),
        overhead_bytes=st.just(9),
    ),
)


class BatcherMachine(RuleBasedStateMachine):
    """Against a model that remembers when each record came and adds up all bytes each time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sequence = 0
        self.waiting: list[tuple[Record, float]] = []
        self.added: list[int] = []
        self.left: list[int] = []  # taken or dropped

    @initialize(policy=policies)
    def begin(self, policy: BatchPolicy) -> None:
        self.policy = policy
        self.batcher = Batcher(policy)

    @rule(sizes=st.lists(st.integers(0, 40), max_size=12), seconds=st.floats(0, 3), gap=st.integers(0, 2))
    def add(self, sizes: list[int], seconds: float, gap: int) -> None:
        self.now += seconds
        self.sequence += gap
        records = [a_record(self.sequence + index, size=size) for index, size in enumerate(sizes)]
        self.sequence += len(records)
        self.batcher.add(records, self.now)
        self.waiting += [(record, self.now) for record in records]
        self.added += sequences(records)

    @rule()
    def take(self) -> None:
        expected = self._next_batch()
        assert self.batcher.take() == expected
        del self.waiting[: len(expected)]
        self.left += sequences(expected)

    @rule(back=st.integers(0, 12))
    def drop_after(self, back: int) -> None:
        line = self.sequence - back
        dropped = [record for record, _ in self.waiting if record.sequence > line]
        assert self.batcher.drop_after(line) == len(dropped)
        del self.waiting[len(self.waiting) - len(dropped) :]
        self.left += sequences(dropped)

    def _next_batch(self) -> list[Record]:
        size = self.policy.fixed_bytes
        batch: list[Record] = []
        for record, _ in self.waiting[: self.policy.records]:
            size += self.policy.size_of(record)
            if batch and size > self.policy.maximum_bytes:
                break
            batch.append(record)
        return batch

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.batcher) == len(self.waiting)
        assert self.batcher.first is (self.waiting[0][0] if self.waiting else None)
        assert self.batcher.due_at() == self._due_at()
        assert sorted(self.left + [record.sequence for record, _ in self.waiting]) == self.added

    def _due_at(self) -> float | None:
        if not self.waiting:
            return None
        size = self.policy.fixed_bytes + sum([self.policy.size_of(record) for record, _ in self.waiting])
        if len(self.waiting) >= self.policy.records or size >= self.policy.maximum_bytes:
            return AT_ONCE
        return self.waiting[0][1] + self.policy.window


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = settings(max_examples=120, stateful_step_count=20)


@given(policies, st.lists(st.integers(0, 40), max_size=60))
def test_the_batches_are_the_records_in_order(policy: BatchPolicy, sizes: list[int]) -> None:
    records = [a_record(sequence, size=size) for sequence, size in enumerate(sizes)]
    batcher = Batcher(policy)
    batcher.add(records, 0.0)
    taken: list[Record] = []
    while batch := batcher.take():
        encoded = policy.fixed_bytes + sum(map(policy.size_of, batch))
        assert len(batch) <= policy.records
        assert len(batch) == 1 or encoded <= policy.maximum_bytes
        taken += batch
    assert taken == records


def test_nothing_is_due_without_records() -> None:
    batcher = Batcher(a_policy(window=0.0))
    batcher.add([], 5.0)
    assert batcher.due_at() is None
    assert batcher.take() == []


def test_a_batch_is_due_by_its_count() -> None:
    batcher = Batcher(a_policy(records=3))
    batcher.add(records_of(2), 10.0)
    assert batcher.due_at() == 11.0
    batcher.add([a_record(2)], 10.5)
    assert batcher.due_at() == AT_ONCE


def test_the_window_runs_from_the_first_record_of_the_batch() -> None:
    batcher = Batcher(a_policy(window=2.0))
    batcher.add([a_record(0)], 10.0)
    batcher.add([a_record(1)], 11.5)
    assert batcher.due_at() == 12.0


def test_the_window_of_what_a_take_leaves_runs_from_its_own_first_record() -> None:
    batcher = Batcher(a_policy(records=2, window=2.0))
    batcher.add([a_record(0)], 10.0)
    batcher.add([a_record(1), a_record(2)], 11.0)
    assert sequences(batcher.take()) == [0, 1]
    assert batcher.due_at() == 13.0


def test_an_empty_arrival_opens_no_window() -> None:
    batcher = Batcher(a_policy(window=2.0))
    batcher.add([], 10.0)
    batcher.add([a_record(0)], 11.0)
    assert batcher.due_at() == 13.0


def test_a_window_of_what_was_dropped_is_forgotten() -> None:
    batcher = Batcher(a_policy(window=2.0))
    batcher.add(records_of(3), 10.0)
    assert batcher.drop_after(0) == 2
    assert sequences(batcher.take()) == [0]
    batcher.add([a_record(5)], 20.0)
    assert batcher.due_at() == 22.0


@pytest.mark.parametrize(("sizes", "due"), [([60, 39], 11.0), ([60, 40], AT_ONCE), ([60, 41], AT_ONCE)])
def test_a_batch_is_due_when_its_bytes_are_used_up(sizes: list[int], due: float) -> None:
    batcher = Batcher(a_policy(maximum_bytes=100))
    batcher.add([a_record(sequence, size=size) for sequence, size in enumerate(sizes)], 10.0)
    assert batcher.due_at() == due


def test_a_batch_may_fill_the_limit_to_the_last_byte() -> None:
    batcher = Batcher(a_policy(maximum_bytes=100))
    batcher.add([a_record(sequence, size=size) for sequence, size in enumerate([60, 40, 1])], 0.0)
    assert sequences(batcher.take()) == [0, 1]


def test_what_a_take_leaves_is_measured_again() -> None:
    batcher = Batcher(a_policy(maximum_bytes=100))
    batcher.add([a_record(sequence, size=60) for sequence in range(3)], 10.0)
    assert sequences(batcher.take()) == [0]
    assert batcher.due_at() == AT_ONCE
    assert sequences(batcher.take()) == [1]
    assert batcher.due_at() == 11.0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_record_over_the_limit_goes_alone(place: int) -> None:
    sizes = [10, 10, 10]
    sizes.insert(place, 500)
    batcher = Batcher(a_policy(maximum_bytes=100))
    batcher.add([a_record(sequence, size=size) for sequence, size in enumerate(sizes)], 0.0)
    assert batcher.due_at() == AT_ONCE
    batches = []
    while batch := batcher.take():
        batches.append(sequences(batch))
    assert [place] in batches
    assert [sequence for taken in batches for sequence in taken] == [0, 1, 2, 3]


def test_the_fixed_bytes_of_a_body_count() -> None:
    batcher = Batcher(BatchPolicy(100, 1.0, 100, plain_size, fixed_bytes=50))
    batcher.add([a_record(0, size=30), a_record(1, size=30)], 0.0)
    assert sequences(batcher.take()) == [0]


def test_dropping_keeps_what_is_up_to_the_line() -> None:
    batcher = Batcher(a_policy(maximum_bytes=100))
    batcher.add([a_record(sequence, size=40) for sequence in (2, 5, 9)], 10.0)
    assert batcher.drop_after(5) == 1
    assert batcher.due_at() == 11.0
    assert sequences(batcher.take()) == [2, 5]
    assert batcher.drop_after(-1) == 0


def test_what_was_dropped_no_longer_weighs() -> None:
    def size_of(_record: Record) -> int:
        raise AssertionError("the bound alone says that the rest fits")

    batcher = Batcher(BatchPolicy(10, 1.0, 1_000, size_of))
    batcher.add([a_record(0, size=10), a_record(1, size=5_000)], 10.0)
    batcher.drop_after(0)
    assert batcher.due_at() == 11.0


def test_a_long_backlog_is_not_measured_again_for_each_batch() -> None:
    asked = 0

    def size_of(record: Record) -> int:
        nonlocal asked
        asked += 1
        return record.size

    batcher = Batcher(BatchPolicy(1, 1.0, 1_000, size_of))
    batcher.add([a_record(sequence, size=900) for sequence in range(2_000)], 0.0)
    while batcher.due_at() is not None:
        batcher.take()
    assert asked <= 2 * 2_000


def test_small_records_are_never_measured() -> None:
    def size_of(_record: Record) -> int:
        raise AssertionError("the bound alone says that they fit")

    batcher = Batcher(BatchPolicy(10, 1.0, 1_000, size_of, fixed_bytes=100, expansion=1.5, overhead_bytes=20))
    for sequence in range(30):
        batcher.add([a_record(sequence, size=10)], float(sequence))
        if batcher.due_at() == AT_ONCE:
            assert len(batcher.take()) == 10
    assert len(batcher) == 0
