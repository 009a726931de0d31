"""Records, positions and outcomes for the tests of the core, by hand or by hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from hypothesis import strategies as st

from runner.core.delivery import Delivery
from runner.model import (
    NO_TIMESTAMP,
    SUCCEEDED,
    ErrorKind,
    Failed,
    FunctionError,
    GiveUp,
    Invoke,
    Outcome,
    Partition,
    PartlyFailed,
    Position,
    Record,
    Settle,
    Step,
    Throttled,
    TooLarge,
    WaitUntil,
)

ORDERS = Partition("orders", 0)
ERROR = FunctionError(ErrorKind.ERROR, "ValueError", "poison")
PARTIAL = FunctionError(ErrorKind.PARTIAL, "BatchItemFailures", "some failed")
THROTTLED = FunctionError(ErrorKind.THROTTLED, "429", "slow down")
TOO_LARGE = FunctionError(ErrorKind.TOO_LARGE, "MaximumPayload", "too large")

_MOST_STEPS = 100_000


class OpaquePosition(str):
    """A position that refuses whatever goes beyond equality."""

    __slots__ = ()

    def _refuse(self, other: object) -> NoReturn:
        raise AssertionError(f"a position was calculated with or put in order: {self!r}, {other!r}")

    __add__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse


def a_record(
    sequence: int,
    *,
    key: bytes | None = None,
    position: Position | None = None,
    timestamp_ms: int = NO_TIMESTAMP,
    size: int = 1,
) -> Record:
    """Its position is ``sequence`` among gaps, unless one is given."""
    place = 1_000 + 3 * sequence if position is None else position
    return Record(ORDERS, place, key, b"", (), timestamp_ms, sequence, size)


def records_of(count: int, *, timestamp_ms: int = NO_TIMESTAMP) -> list[Record]:
    return [a_record(sequence, timestamp_ms=timestamp_ms) for sequence in range(count)]


def keyed(keys: Sequence[bytes | None]) -> list[Record]:
    return [a_record(sequence, key=key) for sequence, key in enumerate(keys)]


def sequences(records: Sequence[Record]) -> list[int]:
    return [record.sequence for record in records]


def naming(*records: Record) -> PartlyFailed:
    return PartlyFailed(frozenset(record.position for record in records), PARTIAL)


@dataclass
class Journal:
    """What came out of a delivery, in order, and when it began and ended."""

    started: float
    now: float
    steps: list[Step] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def invocations(self) -> list[Invoke]:
        return [step for step in self.steps if isinstance(step, Invoke)]

    @property
    def invoked(self) -> list[list[int]]:
        return [sequences(step.records) for step in self.invocations]

    @property
    def given_up(self) -> list[GiveUp]:
        return [step for step in self.steps if isinstance(step, GiveUp)]

    @property
    def waits(self) -> list[WaitUntil]:
        return [step for step in self.steps if isinstance(step, WaitUntil)]

    @property
    def waited(self) -> list[float]:
        """The seconds of each wait, when invocations take none."""
        times = [self.started] + [wait.retry_at for wait in self.waits]
        return [after - before for before, after in pairwise(times)]

    @property
    def delivered(self) -> list[Record]:
        return [record for step in self.steps if isinstance(step, Settle) for record in step.records]

    @property
    def came_out(self) -> list[Record]:
        return [record for step in self.steps if isinstance(step, Settle | GiveUp) for record in step.records]


def deliver(
    delivery: Delivery,
    function: Callable[[Invoke], Outcome],
    *,
    now: float = 0.0,
    jitter: float = 0.5,
    seconds: float = 0.0,
) -> Journal:
    """Do what ``delivery`` says until every record came out. An invocation takes ``seconds``, a wait its time."""
    journal = Journal(now, now)
    while (step := delivery.next_step(journal.now)) is not None:
        journal.steps.append(step)
        assert len(journal.steps) < _MOST_STEPS, "the delivery does not end"
        match step:
            case Invoke():
                assert delivery.next_step(journal.now) == step, "asking again changes nothing"
                assert delivery.upcoming_records == len(step.records)
                outcome = function(step)
                journal.outcomes.append(outcome)
                journal.now += seconds
                delivery.on_outcome(outcome, journal.now, jitter)
            case WaitUntil():
                assert delivery.next_step(journal.now) == step, "asking again changes nothing"
                assert journal.now < step.time <= step.retry_at, "a wait leads somewhere"
                journal.now = step.time
            case Settle() | GiveUp():
                assert step.records, "nothing comes out empty"
    assert delivery.upcoming_records == 0
    return journal


def poisoned_by(*poison: int) -> Callable[[Invoke], Outcome]:
    """A function that fails whenever it sees one of these sequences."""
    return lambda step: Failed(ERROR) if set(poison) & set(sequences(step.records)) else SUCCEEDED


def in_turn(*outcomes: Outcome) -> Callable[[Invoke], Outcome]:
    """A function that answers with ``outcomes``, then succeeds for ever."""
    answers = iter(outcomes)
    return lambda _step: next(answers, SUCCEEDED)


@dataclass(frozen=True)
class Verdict:
    """What a function says to an invocation, whatever is in it; ``named`` chooses by index among its records."""

    kind: str
    named: frozenset[int] = frozenset({0})
    retry_after: float | None = None

    def about(self, records: Sequence[Record]) -> Outcome:
        match self.kind:
            case "failed":
                return Failed(ERROR)
            case "partly failed":
                chosen = {index % len(records) for index in self.named}
                return naming(*[records[index] for index in chosen])
            case "throttled":
                return Throttled(THROTTLED, self.retry_after)
            case "too large":
                return TooLarge(TOO_LARGE)
            case _:
                return SUCCEEDED


def judged_by(script: Sequence[Verdict]) -> Callable[[Invoke], Outcome]:
    """A function that answers as ``script`` says, then succeeds for ever."""
    verdicts = iter(script)
    return lambda step: next(verdicts, Verdict("succeeded")).about(step.records)


keys = st.sampled_from([None, b"", b"a", b"b", b"c"])

verdicts = st.builds(
    Verdict,
    st.sampled_from(["failed", "partly failed", "throttled", "too large", "succeeded"]),
    st.frozensets(st.integers(0, 15), min_size=1, max_size=4),
    st.none() | st.floats(0, 400),
)

scripts = st.lists(verdicts, max_size=30)


@st.composite
def batches(draw: st.DrawFn, *, timestamps: st.SearchStrategy[int] | None = None) -> list[Record]:
    """One to sixteen records with holes in their positions, which are numbers or not."""
    count = draw(st.integers(1, 16))
    first = draw(st.integers(0, 10_000))
    steps = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    is_opaque = draw(st.booleans())
    records = []
    for index in range(count):
        offset = first + sum(steps[:index])
        position: Position = OpaquePosition(f"{offset}-0") if is_opaque else offset
        stamp = NO_TIMESTAMP if timestamps is None else draw(timestamps)
        records.append(a_record(first + index, key=draw(keys), position=position, timestamp_ms=stamp))
    return records
