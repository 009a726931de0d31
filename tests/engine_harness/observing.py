"""An observer that keeps what happens to one mapping."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from runner.model import (
    DeadLetter,
    ErrorKind,
    FunctionError,
    Invocation,
    MappingState,
    Partition,
    Problem,
    Record,
    Settlement,
)
from runner.ports import Observer


class RecordingObserver(Observer):
    """``calls`` counts every kind of call; the rest is what the tests ask for in detail."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.settled: defaultdict[Settlement, list[Record]] = defaultdict(list)
        self.retries: list[tuple[Partition, float]] = []
        self.given_up_letters: list[tuple[DeadLetter, bool]] = []
        self.repeated: list[tuple[Partition, int]] = []
        self.unsettled: list[tuple[Partition, int]] = []
        self.problems: list[tuple[Partition, Problem | None]] = []
        self.stale = 0
        self.cancelled = 0
        self.pauses: list[tuple[str, str]] = []
        self.states: list[tuple[MappingState, Problem | None]] = []
        self.commit_failures: list[tuple[str, bool]] = []
        self.crashes: list[str] = []
        self.not_begun: list[tuple[Problem, bool]] = []

    def values(self, how: Settlement) -> list[bytes | None]:
        return [record.value for record in self.settled[how]]

    def records_settled(self, partition: Partition, how: Settlement, records: Sequence[Record], now: float) -> None:
        self.calls["settled"] += 1
        self.settled[how] += records

    def invocation_started(self, invocation: Invocation) -> None:
        self.calls["started"] += 1

    def invocation_ended(
        self, invocation: Invocation, error: ErrorKind | None, seconds: float, function_error: FunctionError | None
    ) -> None:
        self.calls["ended"] += 1

    def retry_scheduled(self, partition: Partition, error: FunctionError | None, records: int, at: float) -> None:
        self.retries.append((partition, at))

    def given_up(self, letter: DeadLetter, stored: bool) -> None:
        self.given_up_letters.append((letter, stored))

    def destination_failed(self, text: str, records: int) -> None:
        self.calls["destination_failed"] += 1

    def checkpoint_stored(self, partitions: int, seconds: float) -> None:
        self.calls["checkpoints"] += 1

    def checkpoint_failed(self, text: str, fenced: bool) -> None:
        self.commit_failures.append((text, fenced))

    def stale_results(self, partition: Partition | None, records: int) -> None:
        self.stale += records

    def invocation_cancelled(self, invocation: Invocation) -> None:
        self.cancelled += len(invocation.records)

    def partitions_assigned(self, partitions: Collection[Partition]) -> None:
        self.calls["assigned"] += 1

    def partitions_revoked(self, partitions: Collection[Partition]) -> None:
        self.calls["revoked"] += 1

    def partition_drained(self, partition: Partition, seconds: float, repeated: int, unsettled: int) -> None:
        self.repeated.append((partition, repeated))
        self.unsettled.append((partition, unsettled))

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None:
        self.problems.append((partition, problem))

    def partition_paused(self, partition: Partition, reason: str, lane: str) -> None:
        self.pauses.append((reason, lane))

    def partition_resumed(self, partition: Partition) -> None:
        self.calls["resumed"] += 1

    def crashed(self, traceback: str) -> None:
        self.crashes.append(traceback)

    def state_changed(self, state: MappingState, problem: Problem | None) -> None:
        self.states.append((state, problem))

    def end_not_in_sight(self, problem: Problem, is_tried_again: bool) -> None:
        self.not_begun.append((problem, is_tried_again))
