"""The section that binds a source to a function."""

from __future__ import annotations

import enum
from typing import Final

from runner.config.destinations import OnFailureConfig
from runner.config.patterns import FilterPattern, Pattern
from runner.config.scalars import Choice, Duration, DurationOrNever, Flag, Instant, Size, Text, WholeNumber
from runner.config.sections import Items, Section, derived_key, key, section
from runner.config.sources import SourceConfig
from runner.core.lanes import Ordering

_DAY: Final = 24 * 3600
_MOST_RECORDS: Final = 10_000_000
NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
NAME_EXPECTS: Final = "a name of 1 to 100 letters, digits, '.', '_' and '-' that begins with a letter or a digit"


class StartingPosition(enum.StrEnum):
    """Where a mapping without a checkpoint begins: the oldest record, the end, or a point in time."""

    TRIM_HORIZON = "trim_horizon"
    LATEST = "latest"
    AT_TIMESTAMP = "at_timestamp"


class OnDataLoss(enum.StrEnum):
    """What to do when the checkpoint's position is gone: stop there, or go on at the earliest available."""

    FAIL = "fail"
    CONTINUE = "continue"


class Tombstones(enum.StrEnum):
    """What to do with records without a value."""

    DELIVER = "deliver"
    SKIP = "skip"


class FunctionResponseType(enum.StrEnum):
    """What a function's response may say."""

    REPORT_BATCH_ITEM_FAILURES = "report_batch_item_failures"


@section()
class RetryBackoff:
    """How long to wait before a retry: a random time below a bound that doubles with every attempt."""

    initial: float = key(Duration(0.001, _DAY), "The bound before the first retry.", default=0.2)
    maximum: float = key(Duration(0.001, _DAY), "The highest bound.", default=30.0)


@section()
class BufferConfig:
    """What a mapping holds of one partition, at most; then fetching it pauses."""

    records: int = key(WholeNumber(1, _MOST_RECORDS), "Unsettled records.", default=10_000)
    bytes: int = key(Size(1000, 1 << 40), "Their size.", default=32_000_000)


@section()
class FilterConfig:
    """One filter."""

    pattern: FilterPattern = key(Pattern(), "One of Lambda's event patterns: a mapping, or JSON as a text.")


@section()
class FilterCriteria:
    """Which records are delivered: those that any of the filters matches. Without filters, all are."""

    filters: tuple[FilterConfig, ...] = key(Items(Section(FilterConfig), 0, 10), "At most ten.", default=())


@section()
class DestinationConfig:
    """Where records go that the function did not deal with."""

    on_failure: OnFailureConfig | None = key(Section(OnFailureConfig), "Where dead letters are stored.", default=None)


@section()
class MappingConfig:
    """One source bound to one function."""

    function: str = key(Text("a function's name", NAME_PATTERN), "The function to invoke, by its name in 'functions'.")
    source: SourceConfig = key(Section(SourceConfig), "Where records come from.")
    enabled: bool = key(Flag(), "Whether this mapping runs.", default=True)
    starting_position: StartingPosition = key(
        Choice(StartingPosition, aws={member.name: member for member in StartingPosition}),
        "Where to begin when there is no checkpoint.",
        default=StartingPosition.TRIM_HORIZON,
    )
    starting_position_timestamp: float | None = key(
        Instant(), "With at_timestamp: the point in time, in epoch seconds or as 2025-01-31T08:00:00Z.", default=None
    )
    on_data_loss: OnDataLoss = key(
        Choice(OnDataLoss),
        "When records are gone before they were read: stop there, or go on.",
        default=OnDataLoss.FAIL,
    )
    batch_size: int = key(WholeNumber(1, 10_000), "Records in one invocation, at most.", default=100)
    maximum_batching_window: float = key(
        Duration(0, 300), "How long a batch's first record waits for others.", default=0.5
    )
    parallelization_factor: int = key(WholeNumber(1, 1000), "Lanes of one partition.", default=1)
    ordering: Ordering = derived_key(
        Choice(Ordering),
        "The order that is kept: of a partition, of each key, or none.",
        derived="partition at parallelization_factor 1, key above; none of shared streams",
    )
    maximum_concurrency: int | None = key(
        WholeNumber(1, 100_000), "Invocations of this mapping at once, in this process.", default=None
    )
    maximum_retry_attempts: int = derived_key(
        WholeNumber(-1, 10_000),
        "Attempts after the first; -1 for ever.",
        derived="-1, or 10 when there is an on_failure destination",
    )
    retry_backoff: RetryBackoff = key(Section(RetryBackoff), "How long to wait before a retry.", default=RetryBackoff())
    maximum_retry_after: float = key(
        Duration(0, _DAY),
        "The longest wait that a function's Retry-After may ask for; 0s: retry_backoff alone says how long.",
        default=300.0,
    )
    maximum_record_age: float | None = key(
        DurationOrNever(60, 7 * _DAY), "Older records are given up; -1 for never.", default=None
    )
    bisect_batch_on_function_error: bool = key(
        Flag(), "Whether a batch that fails is tried again in halves.", default=False
    )
    function_response_types: tuple[FunctionResponseType, ...] = key(
        Items(
            Choice(
                FunctionResponseType,
                aws={"ReportBatchItemFailures": FunctionResponseType.REPORT_BATCH_ITEM_FAILURES},
            ),
            0,
            1,
        ),
        "report_batch_item_failures: the function's response names the records that failed.",
        default=(),
    )
    maximum_payload: int = key(Size(1000, 1 << 30), "The largest encoded body of an invocation.", default=6_000_000)
    buffer: BufferConfig = key(Section(BufferConfig), "What is held of one partition.", default=BufferConfig())
    maximum_ahead: int = key(
        WholeNumber(1, _MOST_RECORDS),
        "How far beyond a partition's lowest unsettled record another may be started, in records. A crash repeats as "
        "many at most, and what was settled since the last commit.",
        default=10_000,
    )
    drain_timeout: float = derived_key(
        Duration(0, _DAY), "How long a stop or a rebalance waits for what was begun.", derived="the function's timeout"
    )
    commit_interval: float = key(Duration(0.01, 300), "How often checkpoints are stored.", default=1.0)
    commit_timeout: float = key(Duration(0.01, 300), "How long storing a checkpoint may take.", default=5.0)
    tombstones: Tombstones = key(
        Choice(Tombstones), "Whether records without a value are delivered.", default=Tombstones.DELIVER
    )
    filter_criteria: FilterCriteria = key(
        Section(FilterCriteria),
        "Which records are delivered; the others are settled at once.",
        default=FilterCriteria(),
    )
    destination_config: DestinationConfig = key(
        Section(DestinationConfig), "Where records go that are given up.", default=DestinationConfig()
    )

    @property
    def on_failure(self) -> OnFailureConfig | None:
        return self.destination_config.on_failure

    @property
    def reports_batch_item_failures(self) -> bool:
        return FunctionResponseType.REPORT_BATCH_ITEM_FAILURES in self.function_response_types
