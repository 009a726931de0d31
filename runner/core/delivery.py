"""The life of one batch: what to do next until every record of it is settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.core.lanes import Ordering
from runner.core.retry import RetryPolicy
from runner.model import (
    Condition,
    Failed,
    FunctionError,
    GiveUp,
    Invoke,
    Outcome,
    PartlyFailed,
    Position,
    Record,
    Settle,
    Step,
    Succeeded,
    Throttled,
    TooLarge,
    WaitUntil,
)


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How a mapping treats a batch that did not succeed."""

    retry: RetryPolicy
    ordering: Ordering
    bisect: bool = False


class Delivery:
    """A batch of one lane as a state machine: it is told outcomes and the time, and says the next step.

    Every record comes out exactly once, in a ``Settle`` or a ``GiveUp``; the caller stores or drops what is given up
    before it asks on. ``Invoke`` and ``WaitUntil`` are statements: asking again gives them again, as of the new time.
    A segment is a run of the batch that is invoked as one; the next one is at the end of the list.
    """

    __slots__ = (
        "_attempts",
        "_due",
        "_error",
        "_handed_out",
        "_not_before",
        "_policy",
        "_segments",
        "_waits",
        "charged",
    )

    def __init__(
        self, records: Sequence[Record], policy: DeliveryPolicy, attempts: Mapping[int, int] | None = None
    ) -> None:
        """``attempts``: what was charged to records before, by sequence."""
        self._policy = policy
        self._segments: list[Sequence[Record]] = [records]
        self._due: deque[Settle | GiveUp] = deque()
        self._handed_out: Settle | GiveUp | None = None  # being settled, until the caller asks on
        self._attempts = dict(attempts or ())  # by sequence; read only of records that come again
        self._waits = 0  # in a row without an attempt: throttled or unreachable
        self._not_before = float("-inf")
        self._error: FunctionError | None = None
        self.charged: Mapping[Position, int] = {}  # by the last outcome: the attempts of records that come again
        if attempts:
            self._give_up_exhausted()

    @property
    def first_unsettled(self) -> Record | None:
        """The lowest record in fetch order that is not settled; what came out counts until the caller asks on."""
        candidates = [step.records[0] for step in self._due] + [segment[0] for segment in self._segments]
        if self._handed_out is not None:
            candidates.append(self._handed_out.records[0])
        return min(candidates, key=lambda record: record.sequence, default=None)

    @property
    def unsettled_records(self) -> int:
        """How many are not settled, without what came out last: of that the caller knows."""
        return sum(len(step.records) for step in self._due) + sum(map(len, self._segments))

    @property
    def error(self) -> FunctionError | None:
        """What the last invocation that did not succeed said."""
        return self._error

    @property
    def upcoming_records(self) -> int:
        """How many the next invocation hands over."""
        return len(self._segments[-1]) if self._segments else 0

    def next_step(self, now: float) -> Step | None:
        """None: every record came out."""
        self._handed_out = None
        if not self._due and self._segments:
            self._expire(now)
        if self._due:
            self._handed_out = self._due.popleft()
            return self._handed_out
        if not self._segments:
            return None
        segment = self._segments[-1]
        if now < self._not_before:
            expires_at = min(map(self._policy.retry.expires_at, segment))
            return WaitUntil(min(self._not_before, expires_at), self._not_before, self._error)
        return Invoke(segment, 1 + self._most_attempts(segment))

    def on_outcome(self, outcome: Outcome, now: float, jitter: float) -> None:
        """The outcome of the last ``Invoke``; ``jitter`` is uniform in [0, 1)."""
        segment = self._segments.pop()
        self.charged = {}
        waits, self._waits, self._not_before = self._waits, 0, float("-inf")
        if not isinstance(outcome, Succeeded):
            self._error = outcome.error
        match outcome:
            case Succeeded():
                self._settle(segment)
            case Throttled(retry_after=retry_after):
                # Age and order say what happens next, attempts do not: nothing was tried.
                self._waits = waits + 1
                self._segments.append(segment)
                retry = self._policy.retry
                delay = min(retry_after or 0.0, retry.maximum_retry_after)
                # A function that says "at once", or that may not say when, is not hammered.
                self._not_before = now + (delay or retry.backoff(self._waits, jitter))
            case TooLarge():
                if len(segment) > 1:
                    self._split(segment)
                else:
                    self._give_up(segment, Condition.MAXIMUM_PAYLOAD_SIZE_EXCEEDED)
            case Failed():
                if len(segment) > 1 and self._policy.bisect:
                    # A split uses up no attempt: otherwise healthy records would die with the poisoned one.
                    self._split(segment)
                else:
                    self._try_again(segment, failed=segment, now=now, jitter=jitter)
            case PartlyFailed(positions=positions):
                self._cut(segment, positions, now, jitter)

    def _cut(self, segment: Sequence[Record], positions: frozenset[Position], now: float, jitter: float) -> None:
        failed = [record for record in segment if record.position in positions]
        assert failed, "a partial failure names a record of its invocation"
        again = self._come_again(segment, failed)
        kept = {record.sequence for record in again}
        self._settle([record for record in segment if record.sequence not in kept])
        self._try_again(again, failed=failed, now=now, jitter=jitter)

    def _come_again(self, segment: Sequence[Record], failed: Sequence[Record]) -> Sequence[Record]:
        match self._policy.ordering:
            case Ordering.PARTITION:
                return [record for record in segment if record.sequence >= failed[0].sequence]
            case Ordering.KEY:
                lowest: dict[bytes | None, int] = {}
                for record in failed:
                    lowest.setdefault(record.key, record.sequence)
                return [record for record in segment if record.key in lowest and record.sequence >= lowest[record.key]]
            case Ordering.NONE:
                return failed

    def _try_again(self, segment: Sequence[Record], *, failed: Sequence[Record], now: float, jitter: float) -> None:
        """Charge an attempt to ``failed``, give up those that have none left, and keep the rest of ``segment``."""
        retry = self._policy.retry
        attempts = self._attempts
        for record in failed:
            attempts[record.sequence] = attempts.get(record.sequence, 0) + 1
        self.charged = {record.position: attempts[record.sequence] for record in failed}
        exhausted = [record for record in failed if retry.is_exhausted(attempts[record.sequence])]
        if exhausted:
            gone = {record.sequence for record in exhausted}
            segment = [record for record in segment if record.sequence not in gone]
            self._give_up(exhausted, Condition.RETRY_ATTEMPTS_EXHAUSTED)
        if segment:
            self._segments.append(segment)
            if len(exhausted) < len(failed):
                self._not_before = now + retry.backoff(self._most_attempts(segment), jitter)

    def _give_up_exhausted(self) -> None:
        """Whoever charged the last attempt did not come to give the records up."""
        (segment,) = self._segments
        exhausted = [
            record
            for record in segment
            if (attempts := self._attempts.get(record.sequence)) and self._policy.retry.is_exhausted(attempts)
        ]
        if exhausted:
            gone = {record.sequence for record in exhausted}
            rest = [record for record in segment if record.sequence not in gone]
            self._segments = [rest] if rest else []
            self._give_up(exhausted, Condition.RETRY_ATTEMPTS_EXHAUSTED)

    def _expire(self, now: float) -> None:
        if self._policy.retry.maximum_age is None:
            return
        segment = self._segments[-1]
        expires_at = self._policy.retry.expires_at
        expired = [record for record in segment if expires_at(record) <= now]
        if not expired:
            return
        rest = [record for record in segment if expires_at(record) > now]
        if rest:
            self._segments[-1] = rest
        else:
            self._segments.pop()
            self._not_before = float("-inf")
        self._give_up(expired, Condition.RECORD_AGE_EXCEEDED)

    def _split(self, segment: Sequence[Record]) -> None:
        half = (len(segment) + 1) // 2
        self._segments += [segment[half:], segment[:half]]

    def _settle(self, records: Sequence[Record]) -> None:
        if records:
            self._due.append(Settle(records))

    def _give_up(self, records: Sequence[Record], condition: Condition) -> None:
        attempts = [self._attempts.get(record.sequence, 0) for record in records]
        self._due.append(GiveUp(records, condition, attempts, self._error))

    def _most_attempts(self, segment: Sequence[Record]) -> int:
        if not self._attempts:
            return 0
        return max([self._attempts.get(record.sequence, 0) for record in segment])
