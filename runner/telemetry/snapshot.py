"""What a mapping and its partitions look like at one moment, as the gauges and the admin side show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.core.flow import PauseReason
from runner.model import LastError, MappingState, Partition, Position, Problem


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """One partition of a mapping.

    A partition that is not ``assigned`` (any more) is shown to people, and counted where it has a problem, but has no
    series. ``lag_records`` and ``lag_seconds`` are None while they were never known, and then have no series either.
    ``ahead_records`` are settled beyond the lowest unsettled record. ``blocking_lane`` names the lane whose records
    keep a paused partition from going on; ``waiting_for`` says in a few words what the partition waits for, "" when it
    waits for nothing.
    """

    partition: Partition
    assigned: bool
    lag_records: int | None
    lag_seconds: float | None
    unsettled_records: int
    unsettled_bytes: int
    ahead_records: int
    paused_reason: PauseReason | None
    blocking_lane: str | None
    waiting_for: str
    checkpoint: Position | None
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class MappingSnapshot:
    """One mapping.

    ``last_error`` is of the newest invocation that failed, whatever came after it; None: none has, in this life of the
    mapping.
    ``joined``: an assignment, even an empty one, was received at least once. ``inflight`` invocations hold a permit,
    ``waiting`` batches want one, ``concurrency_limit`` is the most that may be in flight (None: the process's alone
    counts). ``polled_at`` is when the poller last turned, in epoch seconds; None: not yet. ``config`` is the mapping's
    configuration as JSON values; what it holds of secrets is a ``Secret``, which shows nothing.
    """

    mapping: str
    function: str
    state: MappingState
    problem: Problem | None
    last_processing_result: str
    joined: bool
    partitions: Sequence[PartitionSnapshot] = ()
    inflight: int = 0
    waiting: int = 0
    concurrency_limit: int | None = None
    polled_at: float | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    last_error: LastError | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a limit is in use."""

    in_use: int
    limit: int


@dataclass(frozen=True, slots=True)
class LimitsSnapshot:
    """The limits that mappings share: the process's invocations and buffered bytes, and for each function with a
    reserved concurrency its invocations."""

    concurrency: Usage
    buffer_bytes: Usage
    functions: Mapping[str, Usage] = field(default_factory=dict)
