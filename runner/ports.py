"""What the engine asks of the world: a source, a function, a destination, an observer, a clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from runner.model import (
    Backlog,
    DeadLetter,
    ErrorKind,
    Fetched,
    FunctionError,
    Invocation,
    Lease,
    MappingState,
    Outcome,
    Partition,
    Position,
    Problem,
    Record,
    Settlement,
)


class SourceError(Exception):
    """The source cannot go on for now: the mapping closes, its state is ``problem``, and it is opened again later."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class CheckpointFenced(Exception):
    """The checkpoint was refused because its partitions have, or may have, another owner. Never retried.

    ``partitions`` are the refused ones, where the checkpoints of the others were stored; None: all were refused.
    ``failed`` says of those others whose could not be stored for now, as with CheckpointFailed, why.
    """

    def __init__(
        self,
        text: str,
        partitions: Collection[Partition] | None = None,
        failed: Mapping[Partition, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.partitions = partitions
        self.failed = failed or {}


class CheckpointFailed(Exception):
    """The checkpoint could not be stored for now; the caller hands over the newest one again later."""


class DestinationError(Exception):
    """A dead letter was certainly not stored and may be stored again: the lane waits and tries later."""


class FunctionNotValid(Exception):
    """The function cannot be built: its module cannot be imported, its credentials cannot be read. ``hint`` is what to
    do about it."""

    def __init__(self, text: str, hint: str = "check the function's settings, and what they name") -> None:
        super().__init__(text)
        self.hint = hint


class SourceListener(Protocol):
    """What a source tells the engine. All calls come from the event loop that opened the source."""

    def assigned(self, partitions: Collection[Partition]) -> None:
        """These partitions are ours and will be fetched. A new assignment: nothing of an earlier one is reused."""
        ...

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """These partitions must be let go. Returns when they are drained and checkpointed, or their time is over."""
        ...

    def leased(self, partition: Partition, lease: Lease) -> None:
        """The partition is ours by ``lease``: told right after ``assigned``, and at every renewal."""
        ...

    def acknowledged(self, partition: Partition, records: int) -> None:
        """So many more of the records that the source was told are settled will not come again (see
        ``AcknowledgesRecords``)."""
        ...

    def taken(self, partition: Partition, records: int) -> None:
        """So many of the records that the source was told are settled were another consumer's by then: that they are
        settled here does not count."""
        ...

    async def lost(self, partitions: Collection[Partition]) -> None:
        """These partitions are, or may be, another owner's. Nothing is drained and nothing of them counts any more;
        returns when what ran for them was cancelled, or would not end."""
        ...

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None:
        """The source stopped at a place of this partition that it cannot pass, or (None) it goes on again."""
        ...

    def data_lost(self, partition: Partition, first: Position, next_available: Position, records: int | None) -> None:
        """Records from ``first`` up to ``next_available`` are gone and were passed over as the user's policy says."""
        ...

    def trimmed(self, partition: Partition, records: int) -> None:
        """The source has removed so many records, which nobody needs any more, as the user's policy says."""
        ...

    def source_warning(self, text: str) -> None:
        """Something that people should know of the source, and that keeps nothing from running."""
        ...


class Source(Protocol):
    """Ordered within a partition. ``fetch`` and ``checkpoint`` may run at the same time; neither runs twice at once.

    A source hands out no record before the position it starts from is stored, gives every record of an assignment
    its ``sequence`` (0, 1, 2, ...), and begins again at the stored checkpoint with every new assignment.
    """

    @property
    def description(self) -> str:
        """Where it reads, for people and for payloads: bootstrap servers, a directory. Holds no secret."""
        ...

    @property
    def group(self) -> str:
        """The consumer group, or the mapping's name where the source has none."""
        ...

    @property
    def joined(self) -> bool:
        """Whether an assignment, even an empty one, was received since ``open``."""
        ...

    @property
    def caught_up(self) -> bool:
        """With ``stop_at_end``: everything up to the end as it was at ``open`` has been fetched. Else always False."""
        ...

    async def open(self, listener: SourceListener) -> None:
        """Called first, once. Raises SourceError."""
        ...

    async def fetch(self) -> Sequence[Fetched]:
        """Wait for records, about a second at most; empty when there are none. Raises SourceError."""
        ...

    def pause(self, partition: Partition) -> None:
        """Fetch no more of it until ``resume``. Ignored when it is not ours."""
        ...

    def resume(self, partition: Partition) -> None: ...

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        """Store, for each partition, the position to begin at the next time. Raises CheckpointFenced, CheckpointFailed.

        May be cancelled; then it is unknown whether the checkpoint was stored."""
        ...

    def backlog(self, partition: Partition) -> Backlog | None:
        """None when nothing was ever heard of the partition's end."""
        ...

    async def close(self) -> None:
        """Leave the group, free everything. Bounded in time, never raises; may be called unopened, or twice."""
        ...


@runtime_checkable
class AcknowledgesRecords(Protocol):
    """A source that is told of each settled record, beside the checkpoint, so that only others come again."""

    def settled(self, partition: Partition, records: Sequence[Record]) -> None:
        """Acknowledge ``records`` with the next checkpoint at the latest. Ignored for a partition that is not ours."""
        ...

    def attempted(self, partition: Partition, attempts: Mapping[Position, int]) -> None:
        """Keep how many attempts were charged to records that come again, for who is given them after us."""
        ...

    async def charge(self, partition: Partition, attempts: Mapping[Position, int]) -> None:
        """As ``attempted``, for records that may end this process when they are tried, which happens when this has
        returned. Raises CheckpointFenced, CheckpointFailed: then they must not be tried now."""
        ...

    async def still_ours(self, partition: Partition, records: Sequence[Record]) -> Sequence[bool]:
        """Which of ``records`` are ours to give up, in their order; others are another consumer's by now.

        Raises CheckpointFenced, CheckpointFailed: not known now."""
        ...


@runtime_checkable
class TakesPartitions(Protocol):
    """A source that takes partitions by itself, whenever some are free."""

    def stop_taking(self) -> None:
        """The mapping stops: take no more, for good, and keep what is ours until it is drained and ``close`` is called.
        May be called unopened, or twice."""
        ...


class Function(Protocol):
    """What is invoked. Many invocations may run at once."""

    @property
    def name(self) -> str: ...

    @property
    def timeout(self) -> float:
        """Seconds that an invocation may last."""
        ...

    @property
    def fixed_size(self) -> int:
        """Bytes of an encoded body besides its records."""
        ...

    @property
    def largest_expansion(self) -> tuple[float, int]:
        """(a, b) such that ``size_of(record) <= a * record.size + b`` for every record."""
        ...

    def size_of(self, record: Record) -> int:
        """Bytes of ``record`` in the encoded body; an upper bound where exactness costs too much."""
        ...

    async def open(self) -> None:
        """Called first, once. Raises FunctionNotValid."""
        ...

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Never raises for what the function did. Cancelled only when its result no longer counts."""
        ...

    async def close(self) -> None:
        """Bounded in time, never raises."""
        ...


class Destination(Protocol):
    """Where dead letters are stored."""

    @property
    def description(self) -> str: ...

    async def open(self) -> None:
        """Called first, once. Does not connect: an unavailable destination must not keep a mapping from running."""
        ...

    async def store(self, letters: Sequence[DeadLetter]) -> Sequence[DestinationError | None]:
        """Store each letter durably; one result a letter, in order; None: stored.

        Called for letters of one source partition at a time, and for several partitions at once: one that hangs must
        not keep the others waiting where it can be helped.

        Returns only when the fate of every letter is known: a write that outlives its deadline is reported through
        the observer and awaited on, since sending it again could store it twice. May be cancelled at stop."""
        ...

    async def close(self) -> None:
        """Bounded in time, never raises."""
        ...


@runtime_checkable
class StoresOnce(Protocol):
    """A destination that knows by itself which letters it holds: one that comes again is stored only if it is not there
    any more."""

    @property
    def stores_once(self) -> bool: ...


class Clock(Protocol):
    """One clock: seconds since the epoch, anchored once to a monotonic clock, so that it never steps back."""

    def now(self) -> float: ...

    async def sleep_until(self, time: float) -> None: ...


class Observer:
    """What happens to one mapping, in verbs; the base class hears nothing. Never raises, never blocks.

    Called once a batch, a fetch or an event, never once a record.
    """

    def records_fetched(self, partition: Partition, records: int, size: int) -> None: ...

    def records_redelivered(self, partition: Partition, records: int) -> None:
        """So many of the records just fetched were handed out before."""

    def records_trimmed(self, partition: Partition, records: int) -> None:
        """So many records, which nobody needs any more, were removed from the source."""

    def records_settled(self, partition: Partition, how: Settlement, records: Sequence[Record], now: float) -> None: ...

    def invocation_started(self, invocation: Invocation) -> None: ...

    def invocation_ended(
        self, invocation: Invocation, error: ErrorKind | None, seconds: float, function_error: FunctionError | None
    ) -> None: ...

    def invocation_overdue(self, invocation: Invocation, seconds: float) -> None:
        """A handler is past its timeout and cannot be stopped; it keeps its lane and its permit."""

    def retry_scheduled(self, partition: Partition, error: FunctionError | None, records: int, at: float) -> None: ...

    def given_up(self, letter: DeadLetter, stored: bool) -> None:
        """``stored``: at the destination; otherwise dropped, because there is none."""

    def destination_failed(self, text: str, records: int) -> None: ...

    def destination_overdue(self, text: str, records: int) -> None: ...

    def checkpoint_stored(self, partitions: int, seconds: float) -> None: ...

    def checkpoint_failed(self, text: str, fenced: bool) -> None: ...

    def stale_results(self, partition: Partition | None, records: int) -> None:
        """Results came that can move no checkpoint any more: the assignment they belong to is over."""

    def invocation_cancelled(self, invocation: Invocation) -> None:
        """No result came before the assignment that the invocation belongs to was over."""

    def partitions_assigned(self, partitions: Collection[Partition]) -> None: ...

    def partitions_revoked(self, partitions: Collection[Partition]) -> None: ...

    def partition_drained(self, partition: Partition, seconds: float, repeated: int, unsettled: int) -> None:
        """``repeated`` records are settled beyond the checkpoint and will come again, and so will ``unsettled`` ones
        that were begun."""

    def partition_paused(self, partition: Partition, reason: str, lane: str) -> None: ...

    def partition_resumed(self, partition: Partition) -> None: ...

    def data_lost(
        self, partition: Partition, first: Position, next_available: Position, records: int | None
    ) -> None: ...

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None: ...

    def source_warning(self, text: str) -> None:
        """Something that people should know of the source, and that keeps nothing from running."""

    def crashed(self, traceback: str) -> None:
        """A defect ended the mapping; it is started again."""

    def state_changed(self, state: MappingState, problem: Problem | None) -> None: ...

    def end_not_in_sight(self, problem: Problem, is_tried_again: bool) -> None:
        """A mapping that is to run until it has caught up could not begin. ``is_tried_again``: the problem may pass by
        itself; otherwise the mapping ends without having begun."""
