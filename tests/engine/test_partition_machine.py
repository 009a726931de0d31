"""A partition's worker under whatever order of fetches, outcomes, waits, stores, drains and losses hypothesis finds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core_strategies import Verdict, a_record, keys, verdicts
from engine_harness.policies import a_policy
from runner.core.flow import ByteBudget
from runner.core.lanes import Ordering
from runner.engine.lane import Lane
from runner.engine.partition import PartitionWorker
from runner.engine.timers import Timer
from runner.model import Fetched, GiveUp, Invoke, Partition, Position, Record, Settlement
from runner.ports import Observer

ORDERS = Partition("orders", 0)
DRAIN_TIMEOUT = 5.0


@dataclass
class Waiting:
    """Given up, not at the destination yet."""

    lane: Lane
    records: list[Record]


class World(Observer):
    """A Host and an Observer that keep everything, and do nothing by themselves."""

    def __init__(self, has_destination: bool) -> None:
        self.time = 0.0
        self.queue: deque[Lane] = deque()
        self.timers: list[tuple[float, Timer]] = []
        self.giving_up: list[Waiting] = []
        self.paused = False
        self.settled: dict[int, Settlement] = {}
        self._has_destination = has_destination

    def enqueue(self, lane: Lane) -> None:
        self.queue.append(lane)

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback, lambda: None)
        self.timers.append((when, timer))
        return timer

    def give_up(self, lane: Lane, step: GiveUp) -> bool:
        assert len(step.attempts) == len(step.records)
        if self._has_destination:
            self.giving_up.append(Waiting(lane, list(step.records)))
        return not self._has_destination

    def set_paused(self, worker: PartitionWorker, paused: bool) -> None:
        self.paused = paused

    def fence(self, worker: PartitionWorker) -> None:
        worker.discard()

    def now(self) -> float:
        return self.time

    def jitter(self) -> float:
        return 0.5

    def records_settled(self, partition: Partition, how: Settlement, records: Sequence[Record], now: float) -> None:
        for record in records:
            assert record.sequence not in self.settled, "settled twice"
            self.settled[record.sequence] = how

    def pass_time(self, seconds: float) -> None:
        end = self.time + seconds
        while due := [entry for entry in self.timers if entry[0] <= end and not entry[1].is_over]:
            when, timer = min(due, key=lambda entry: entry[0])
            self.time = max(self.time, when)
            timer.fire()
        self.time = end
        self.timers = [entry for entry in self.timers if not entry[1].is_over]


class PartitionMachine(RuleBasedStateMachine):
    """Plays source, function, destination and clock for one worker."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []
        self.next_position: Position | None = None
        self.running: list[tuple[Lane, Invoke]] = []
        self.line: int | None = None
        self.budget = ByteBudget(1 << 30)

    @initialize(
        ordering=st.sampled_from(Ordering),
        factor=st.sampled_from([1, 2, 5]),
        batch_size=st.sampled_from([1, 2, 7]),
        attempts=st.sampled_from([-1, 0, 2]),
        bisect=st.booleans(),
        window=st.sampled_from([0.0, 3.0]),
        age=st.sampled_from([None, 6.0]),
        marks=st.sampled_from([(10_000, 10_000), (8, 4)]),
        has_destination=st.booleans(),
        picky=st.booleans(),
    )
    def assign(
        self,
        ordering: Ordering,
        factor: int,
        batch_size: int,
        attempts: int,
        bisect: bool,
        window: float,
        age: float | None,
        marks: tuple[int, int],
        has_destination: bool,
        picky: bool,
    ) -> None:
        self.ordering = ordering if factor > 1 or ordering is not Ordering.NONE else Ordering.PARTITION
        self.world = World(has_destination)
        policy = a_policy(
            batch_size=batch_size,
            window=window,
            ordering=ordering,
            factor=1 if ordering is Ordering.PARTITION else factor,
            attempts=attempts,
            backoff=1.0,
            maximum_backoff=8.0,
            age=age,
            bisect=bisect,
            records=marks[0],
            ahead=marks[1],
            wants=(lambda record: record.sequence % 5 != 3) if picky else None,
        )
        self.worker = PartitionWorker(ORDERS, policy, self.world, self.world, self.budget)

    @precondition(lambda self: not self.world.paused)
    @rule(some=st.lists(st.tuples(keys, st.integers(0, 2)), max_size=12), hole=st.integers(0, 2))
    def fetch(self, some: list[tuple[bytes | None, int]], hole: int) -> None:
        first = self.worker.tracker.fetched_records
        records = []
        position = self.next_position if isinstance(self.next_position, int) else 0
        for index, (key, gap) in enumerate(some):
            position += gap
            stamp = int(self.world.time * 1000)
            records.append(a_record(first + index, key=key, position=position, timestamp_ms=stamp))
            position += 1
        if self.line is None and not self.worker.is_discarded:
            self.records += records
            self.next_position = position + hole
        size = sum(record.size for record in records)
        self.worker.accept(Fetched(ORDERS, records, position + hole, size), self.world.time, None)

    @precondition(lambda self: self.world.queue)
    @rule()
    def take_permit(self) -> None:
        lane = self.world.queue.popleft()
        step = self.worker.start(lane, self.world.time)
        if step is not None:
            self._check_start(step)
            self.running.append((lane, step))

    def _check_start(self, step: Invoke) -> None:
        assert not self.worker.is_discarded
        assert step.records
        settled = self.world.settled
        assert not any(record.sequence in settled for record in step.records), "invoked again after it was settled"
        if self.line is not None:
            assert step.records[0].sequence <= self.line, "started beyond the line"
        if self.ordering is Ordering.NONE:
            return
        last = step.records[-1]
        mine = {record.sequence for record in step.records}
        for record in self.records[: last.sequence]:
            if self.ordering is Ordering.PARTITION or record.key in {each.key for each in step.records}:
                later = [each.sequence for each in step.records if self._same_order(each, record)]
                if later and record.sequence < max(later):
                    assert record.sequence in settled or record.sequence in mine, "started before its predecessor"

    def _same_order(self, one: Record, other: Record) -> bool:
        return self.ordering is Ordering.PARTITION or one.key == other.key

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 30), verdict=verdicts)
    def come_back(self, which: int, verdict: Verdict) -> None:
        lane, step = self.running.pop(which % len(self.running))
        self.worker.running -= 1
        if not self.worker.is_discarded:
            self.worker.on_outcome(lane, verdict.about(step.records), self.world.time)

    @precondition(lambda self: self.world.giving_up)
    @rule(which=st.integers(0, 30), count=st.integers(1, 8))
    def store(self, which: int, count: int) -> None:
        waiting = self.world.giving_up[which % len(self.world.giving_up)]
        stored, waiting.records = waiting.records[:count], waiting.records[count:]
        if not waiting.records:
            self.world.giving_up.remove(waiting)
        self.worker.on_stored(waiting.lane, stored, self.world.time)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.line is None and not self.worker.is_discarded)
    @rule(dispatch=st.booleans())
    def drain(self, dispatch: bool) -> None:
        self.line = self.worker._dispatched
        self.worker.drain(self.world.time + DRAIN_TIMEOUT, dispatch=dispatch)

    @precondition(lambda self: len(self.records) > 20)
    @rule()
    def lose(self) -> None:
        self.worker.discard()

    @invariant()
    def the_checkpoint_is_the_lowest_unsettled_record(self) -> None:
        if not hasattr(self, "worker"):
            return
        unsettled = [record for record in self.records if record.sequence not in self.world.settled]
        expected = unsettled[0].position if unsettled else self.next_position
        tracker = self.worker.tracker
        assert tracker.checkpoint == expected
        assert tracker.unsettled_records == len(unsettled)
        head = unsettled[0].sequence if unsettled else len(self.records)
        assert tracker.ahead_records == len([each for each in self.world.settled if each > head])

    @invariant()
    def the_bytes_are_those_of_the_unsettled_records(self) -> None:
        if not hasattr(self, "worker"):
            return
        unsettled = sum(record.size for record in self.records if record.sequence not in self.world.settled)
        assert self.worker.unsettled_bytes == (0 if self.worker.is_discarded else unsettled)
        assert self.budget.used == (0 if self.worker.is_discarded else self.worker.held_bytes)

    @invariant()
    def a_line_only_falls(self) -> None:
        if hasattr(self, "worker") and self.line is not None:
            assert self.worker._line is not None
            assert self.worker._line <= self.line
            self.line = self.worker._line

    def teardown(self) -> None:
        """From any state, a function and a destination that are well bring the partition to its end."""
        if not hasattr(self, "worker"):
            return
        for _ in range(1_000):
            if self.running:
                self.come_back(0, Verdict("succeeded"))
            elif self.world.giving_up:
                self.store(0, 100)
            elif self.world.queue:
                self.take_permit()
            elif self.world.timers:
                self.world.pass_time(1.0)
            else:
                break
        self.the_checkpoint_is_the_lowest_unsettled_record()
        self.the_bytes_are_those_of_the_unsettled_records()
        if self.worker.is_discarded:
            return
        if self.line is None:
            assert len(self.world.settled) == len(self.records), "a lane is stuck"
            assert not self.world.paused, "a partition with nothing unsettled stays paused"
            return
        assert self.worker._quiet.is_set(), "the drain does not end"


TestPartitionMachine = PartitionMachine.TestCase
TestPartitionMachine.settings = settings(stateful_step_count=40)
