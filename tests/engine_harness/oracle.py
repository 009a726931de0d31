"""What must hold at every moment of a simulation, told by somebody who sees all of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from runner.core.lanes import Ordering
from runner.model import (
    Condition,
    DeadLetter,
    Invocation,
    MappingState,
    Partition,
    Position,
    Problem,
    Record,
    Settlement,
)
from runner.ports import Observer
from runner.testing import MemoryStream


class Violation(AssertionError):
    """A promise was broken."""


class Oracle:
    """Knows what the function answered and what the destination holds, and checks what the engine makes of it.

    ``group_of`` gives the unit of order of a record, None when it has none. A record is its partition and position.
    """

    def __init__(self, stream: CheckedStream, ordering: Ordering, attempts: int, *, has_destination: bool) -> None:
        self.settled: dict[Partition, set[Position]] = defaultdict(set)
        self.invoked = 0
        self.repeated = 0
        self._stream = stream
        self._ordering = ordering
        self._attempts = attempts
        self._has_destination = has_destination
        self._handled: dict[Partition, set[Position]] = defaultdict(set)
        self._stored: dict[Partition, set[Position]] = defaultdict(set)
        self._busy: dict[object, Invocation] = {}
        self._latest: dict[object, Position] = {}  # the highest record of a group that came to its end
        stream.check = self.check_checkpoint

    def group_of(self, record: Record) -> object | None:
        match self._ordering:
            case Ordering.PARTITION:
                return record.partition
            case Ordering.KEY:
                return record.partition, record.key
            case Ordering.NONE:
                return None

    # --- the function

    def begins(self, invocation: Invocation) -> None:
        """I3: one invocation of a group at a time."""
        self.invoked += len(invocation.records)
        for group in self._groups(invocation):
            if group in self._busy:
                raise Violation(f"{group} is invoked twice at once")
            self._busy[group] = invocation
        positions = [record.position for record in invocation.records]
        if positions != sorted(positions, key=_number):
            raise Violation(f"a batch is out of order: {positions}")

    def ends(self, invocation: Invocation) -> None:
        """However it ended."""
        for group in self._groups(invocation):
            del self._busy[group]

    def handled(self, records: Sequence[Record]) -> None:
        """The function answered that these are dealt with."""
        for record in records:
            self._comes_to_its_end(record, self._handled)

    def _groups(self, invocation: Invocation) -> Collection[object]:
        return {group for record in invocation.records if (group := self.group_of(record)) is not None}

    def _comes_to_its_end(self, record: Record, ends: dict[Partition, set[Position]]) -> None:
        """I3: the first ends of a group's records are in their order."""
        is_first = not self._has_ended(record)
        ends[record.partition].add(record.position)
        group = self.group_of(record)
        if group is None or not is_first:
            return
        latest = self._latest.get(group)
        if latest is not None and _number(latest) > _number(record.position):
            raise Violation(f"{group}: {record.position} came to its first end after {latest}")
        self._latest[group] = record.position

    def _has_ended(self, record: Record) -> bool:
        ends = (self._handled, self._stored, self.settled)
        return any(record.position in each[record.partition] for each in ends)

    # --- the destination and the engine

    def stored(self, letter: DeadLetter) -> None:
        if letter.condition is Condition.RETRY_ATTEMPTS_EXHAUSTED and letter.attempts <= self._attempts:
            raise Violation(f"{letter.record.position} is given up after {letter.attempts} attempts")
        self._comes_to_its_end(letter.record, self._stored)

    def settles(self, partition: Partition, how: Settlement, records: Sequence[Record]) -> None:
        """I1: what the engine calls settled has reached its end."""
        for record in records:
            match how:
                case Settlement.DELIVERED:
                    is_true = record.position in self._handled[partition]
                case Settlement.DEAD_LETTERED:
                    is_true = record.position in self._stored[partition]
                case Settlement.DROPPED:
                    is_true = not self._has_destination
                    self._comes_to_its_end(record, self.settled)
                case Settlement.FILTERED | Settlement.SKIPPED:
                    is_true = True
            if not is_true:
                raise Violation(f"{partition}: {record.position} is not {how}")
            self.settled[partition].add(record.position)

    def check_checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        """I2: nothing unsettled is below a checkpoint. I6: no checkpoint goes back."""
        for partition, position in positions.items():
            before = self._stream.checkpoints.get(partition)
            if before is not None and _number(position) < _number(before):
                raise Violation(f"the checkpoint of {partition} goes back from {before} to {position}")
            lost = [each for each in self.unsettled(partition) if _number(each) < _number(position)]
            if lost:
                raise Violation(f"the checkpoint {position} of {partition} passes {lost}")

    def unsettled(self, partition: Partition) -> list[Position]:
        settled = self.settled[partition]
        return [record.position for record in self._stream.logs[partition].records if record.position not in settled]

    @property
    def is_done(self) -> bool:
        """Everything is settled, and the checkpoints say so."""
        return all(
            not self.unsettled(partition) and self._stream.checkpoints.get(partition) == log.end
            for partition, log in self._stream.logs.items()
        )


def _number(position: Position) -> int:
    assert isinstance(position, int)
    return position


class CheckedStream(MemoryStream):
    """Has every checkpoint checked before it is stored."""

    check: Callable[[Mapping[Partition, Position]], None] = staticmethod(lambda positions: None)

    def store(self, positions: Mapping[Partition, Position]) -> None:
        self.check(positions)
        super().store(positions)


class _Assignment:
    """What one assignment of a partition has settled."""

    def __init__(self) -> None:
        self.positions: set[Position] = set()
        self._sequences: set[int] = set()
        self._head = 0

    def settle(self, record: Record) -> None:
        self.positions.add(record.position)
        self._sequences.add(record.sequence)

    @property
    def head(self) -> int:
        """The sequence of the lowest unsettled record, or of the next one to come."""
        while self._head in self._sequences:
            self._sequences.remove(self._head)
            self._head += 1
        return self._head


class CheckingObserver(Observer):
    """Of one life of one mapping: what its partitions settle, and what they say when they are let go.

    Nothing may be started that is more than ``ahead`` records beyond the lowest unsettled one.
    """

    def __init__(self, oracle: Oracle, stream: MemoryStream, *, ahead: int) -> None:
        self.problems: list[str] = []
        self.announced = 0
        self._oracle = oracle
        self._stream = stream
        self._ahead = ahead
        self._assignments: dict[Partition, _Assignment] = {}
        self._is_fenced = False

    def records_settled(self, partition: Partition, how: Settlement, records: Sequence[Record], now: float) -> None:
        if how not in (Settlement.FILTERED, Settlement.SKIPPED):  # these were never started
            self._check_ahead(partition, records)
        mine = self._assignments[partition]
        for record in records:
            if record.position in mine.positions:
                raise Violation(f"{partition}: {record.position} is settled twice by one assignment")
            mine.settle(record)
        self._oracle.settles(partition, how, records)

    def invocation_started(self, invocation: Invocation) -> None:
        settled = self._assignments[invocation.partition].positions
        again = [each.position for each in invocation.records if each.position in settled]
        if again:
            raise Violation(f"{invocation.partition}: {again} are invoked after they were settled")
        self._check_ahead(invocation.partition, invocation.records)

    def _check_ahead(self, partition: Partition, records: Sequence[Record]) -> None:
        head = self._assignments[partition].head
        too_far = [record.position for record in records if record.sequence > head + self._ahead]
        if too_far:
            raise Violation(f"{partition}: {too_far} are more than {self._ahead} records beyond the lowest unsettled")

    def checkpoint_failed(self, text: str, fenced: bool) -> None:
        self._is_fenced |= fenced

    def partitions_assigned(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._assignments[partition] = _Assignment()

    def partition_drained(self, partition: Partition, seconds: float, repeated: int, unsettled: int) -> None:
        """I4: exactly what is settled beyond the checkpoint comes again."""
        mine = self._assignments.pop(partition)
        checkpoint = self._stream.checkpoints[partition]
        beyond = len([position for position in mine.positions if _number(position) >= _number(checkpoint)])
        if repeated != beyond and not self._is_fenced:
            raise Violation(f"{partition} announces {repeated} repeated records, and {beyond} come again")
        self.announced += repeated

    def state_changed(self, state: MappingState, problem: Problem | None) -> None:
        if problem is not None:
            self.problems.append(str(problem))
