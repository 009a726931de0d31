"""The table of all metrics, which the documentation is printed from (``python -m runner.telemetry.metrics``)."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

PREFIX: Final = "stream_runner_"

SUCCESS: Final = "success"
"""The outcome of an invocation that has no error."""
FAILURE: Final = "failure"
"""The result of an invocation that has one, of whatever kind."""
UNKNOWN: Final = "unknown"
"""Why an invocation is to be made again when no error is at hand."""


class Kind(enum.StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One metric. ``unit`` says to people what its value counts; ``bounds`` are a histogram's upper bounds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    unit: str
    bounds: tuple[float, ...] = ()


METRICS: Final[list[Metric]] = []

_MAPPING: Final = ("mapping", "function")
_PARTITION: Final = ("mapping", "function", "topic", "partition")

_SHORT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_LONG_SECONDS: Final = (*_SHORT_SECONDS, 30.0, 60.0, 300.0, 900.0)
_BATCH_RECORDS: Final = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)


def _declare(metric: Metric) -> Metric:
    METRICS.append(metric)
    return metric


def _counter(name: str, unit: str, text: str, labels: tuple[str, ...] = _MAPPING) -> Metric:
    return _declare(Metric(f"{PREFIX}{name}_total", Kind.COUNTER, text, labels, unit))


def _gauge(name: str, unit: str, text: str, labels: tuple[str, ...] = _MAPPING) -> Metric:
    return _declare(Metric(f"{PREFIX}{name}", Kind.GAUGE, text, labels, unit))


def _histogram(name: str, unit: str, bounds: tuple[float, ...], text: str, *labels: str) -> Metric:
    return _declare(Metric(f"{PREFIX}{name}", Kind.HISTOGRAM, text, (*_MAPPING, *labels), unit, bounds))


# --- lag: the ones to be woken up by -----------------------------------------------------------------------------

LAG_SECONDS: Final = _gauge(
    "lag_seconds",
    "seconds",
    "Age of the oldest unsettled record, at least the time since the partition was last known to be caught up. 0 only "
    "while its end, as learnt within 10 s, is reached and everything is settled; absent while never known.",
    _PARTITION,
)
LAG_RECORDS: Final = _gauge(
    "lag_records",
    "records",
    "Records that are not settled yet, up to the partition's last stable end; absent while the end is not known.",
    _PARTITION,
)

# --- the way of the records --------------------------------------------------------------------------------------

RECORDS_FETCHED: Final = _counter("records_fetched", "records", "Records fetched from the source.")
RECORDS_REDELIVERED: Final = _counter(
    "records_redelivered",
    "records",
    "Records fetched that were handed out before, to whoever it was; always 0 where the source does not know (Kafka).",
)
RECORDS_TRIMMED: Final = _counter(
    "records_trimmed",
    "records",
    "Records that this process removed from the source because nobody needs them any more, where it was told to.",
)
BYTES_FETCHED: Final = _counter("bytes_fetched", "bytes", "Bytes of key, value and headers of the records fetched.")
RECORDS_SETTLED: Final = _counter(
    "records_settled",
    "records",
    "Records settled: delivered, refused by the filter, stored as a dead letter, dropped by policy, or a tombstone "
    "that the mapping skips.",
    (*_MAPPING, "outcome"),
)
END_TO_END_LATENCY: Final = _histogram(
    "end_to_end_latency_seconds",
    "seconds",
    _LONG_SECONDS,
    "From a record's timestamp to its delivery. One observation a batch, of its first record, which waited longest; "
    "records without a timestamp are left out.",
)
LAST_SETTLED: Final = _gauge(
    "last_settled_timestamp_seconds", "seconds", "When a record was last settled, in epoch seconds; 0: none yet."
)
LAST_POLL: Final = _gauge(
    "last_poll_timestamp_seconds",
    "seconds",
    "When the source was last polled, with or without records, in epoch seconds; absent before the first poll.",
)

# --- invocations -------------------------------------------------------------------------------------------------

INVOCATIONS: Final = _counter(
    "invocations",
    "invocations",
    "Invocations that ended, by outcome: success, or the kind of error.",
    (*_MAPPING, "outcome"),
)
INVOCATION_DURATION: Final = _histogram(
    "invocation_duration_seconds",
    "seconds",
    _LONG_SECONDS,
    "How long invocations took, by result: success, or failure of any kind.",
    "result",
)
BATCH_RECORDS: Final = _histogram("batch_records", "records", _BATCH_RECORDS, "Records handed over in one invocation.")
INVOCATIONS_IN_FLIGHT: Final = _gauge("inflight_invocations", "invocations", "Invocations that run now.")
BATCHES_WAITING: Final = _gauge(
    "waiting_batches", "batches", "Batches that are due and wait for a permit to be invoked."
)
INVOCATIONS_OVERDUE: Final = _counter(
    "invocations_overdue",
    "invocations",
    "Invocations found past their timeout while they could not be stopped: they keep their lane and their permit.",
)
RETRIES: Final = _counter(
    "retries",
    "batches",
    "Invocations to be made again, by the kind of error that caused it; unknown: the function gave none.",
    (*_MAPPING, "reason"),
)
RECORDS_RETRIED: Final = _counter("records_retried", "records", "Records in the invocations to be made again.")

# --- records given up --------------------------------------------------------------------------------------------

DEAD_LETTERS: Final = _counter(
    "dead_letters",
    "records",
    "Records given up, by condition and result: stored at the destination, or dropped because there is none.",
    (*_MAPPING, "condition", "result"),
)
DEAD_LETTER_FAILURES: Final = _counter(
    "dead_letter_write_failures", "records", "Dead letters that the destination did not store; each is written again."
)
DEAD_LETTERS_OVERDUE: Final = _counter(
    "dead_letter_writes_overdue", "records", "Dead letters whose write passed its deadline and is still awaited."
)

# --- checkpoints, assignments ------------------------------------------------------------------------------------

CHECKPOINTS: Final = _counter(
    "checkpoints",
    "checkpoints",
    "Checkpoints of one or more partitions, by result: stored, failed (made again), or fenced (another owner).",
    (*_MAPPING, "result"),
)
CHECKPOINT_DURATION: Final = _histogram(
    "checkpoint_duration_seconds", "seconds", _SHORT_SECONDS, "How long storing a checkpoint took."
)
CHECKPOINT_POSITION: Final = _gauge(
    "checkpoint_position",
    "position",
    "The partition's checkpoint, where positions are numbers: all before it is settled.",
    _PARTITION,
)
REBALANCES: Final = _counter("rebalances", "assignments", "Assignments of partitions received, empty ones included.")
ASSIGNED_PARTITIONS: Final = _gauge("assigned_partitions", "partitions", "Partitions assigned to this process.")
DRAIN_DURATION: Final = _histogram(
    "drain_duration_seconds",
    "seconds",
    _LONG_SECONDS,
    "How long a partition took to settle what was dispatched before it was let go.",
)
RECORDS_REPEATED: Final = _counter(
    "records_repeated",
    "records",
    "Records settled beyond the checkpoint when their partition was let go: they come again.",
)
STALE_RECORDS: Final = _counter(
    "stale_records",
    "records",
    "Records whose result came after their assignment was over, or whose invocation was cancelled for that: they move "
    "no checkpoint, and may come again, here or elsewhere.",
)
DATA_LOSSES: Final = _counter(
    "data_losses",
    "ranges",
    "Ranges of records that the source had lost and that this process passed over. Where on_data_loss: fail stops at "
    "one, nothing is passed over nor counted, not even when somebody moves the group on by hand: mapping_problem with "
    "the reason DATA_LOSS shows it.",
)
DATA_LOSS_RECORDS: Final = _counter(
    "data_loss_records",
    "records",
    "Records in the lost ranges that were passed over, where their number is known, holes included.",
)

# --- buffers -----------------------------------------------------------------------------------------------------

UNSETTLED_RECORDS: Final = _gauge("unsettled_records", "records", "Records fetched and not settled yet.", _PARTITION)
UNSETTLED_BYTES: Final = _gauge(
    "unsettled_bytes", "bytes", "Bytes of the records fetched and not settled yet.", _PARTITION
)
AHEAD_RECORDS: Final = _gauge(
    "ahead_records",
    "records",
    "Records settled beyond the lowest unsettled one: a crash repeats them, and those settled since the last commit.",
    _PARTITION,
)
PAUSES: Final = _counter("partition_pauses", "pauses", "Times that a partition reached a limit and was paused.")
PAUSED_PARTITIONS: Final = _gauge(
    "paused_partitions",
    "partitions",
    "Partitions that are paused now, by the limit they reached.",
    (*_MAPPING, "reason"),
)

# --- states ------------------------------------------------------------------------------------------------------

MAPPING_STATE: Final = _gauge(
    "mapping_state", "boolean", "1 for the mapping's state, 0 for the others.", (*_MAPPING, "state")
)
MAPPING_PROBLEM: Final = _gauge(
    "mapping_problem",
    "boolean",
    "1 for the reason of the mapping's problem, 0 for the others; where partitions have several, the first one's.",
    (*_MAPPING, "reason"),
)
PROBLEM_PARTITIONS: Final = _gauge(
    "problem_partitions",
    "partitions",
    "Partitions that cannot be read, or stopped at a place they cannot pass, while others may go on; those too that "
    "for this reason are not assigned to this process, and have no lag.",
)

# --- limits ------------------------------------------------------------------------------------------------------

MAPPING_CONCURRENCY_LIMIT: Final = _gauge(
    "mapping_concurrency_limit", "invocations", "Most invocations of the mapping at once; absent without a limit."
)
FUNCTION_CONCURRENCY_IN_USE: Final = _gauge(
    "function_concurrency_in_use",
    "invocations",
    "Invocations of a function with reserved concurrency that run now, of all its mappings.",
    ("function",),
)
FUNCTION_CONCURRENCY_LIMIT: Final = _gauge(
    "function_concurrency_limit", "invocations", "Most invocations of the function at once.", ("function",)
)
CONCURRENCY_IN_USE: Final = _gauge("concurrency_in_use", "invocations", "Invocations of this process that run now.", ())
CONCURRENCY_LIMIT: Final = _gauge("concurrency_limit", "invocations", "Most invocations of this process at once.", ())
BUFFER_USED: Final = _gauge("buffer_used_bytes", "bytes", "Bytes of unsettled records in this process.", ())
BUFFER_LIMIT: Final = _gauge("buffer_limit_bytes", "bytes", "Bytes of unsettled records at which fetching pauses.", ())

# --- the process -------------------------------------------------------------------------------------------------

EVENT_LOOP_LAG: Final = _gauge(
    "event_loop_lag_seconds", "seconds", "How late the event loop ran a timer: the worst of the last minute.", ()
)
LOG_MESSAGES: Final = _counter(
    "log_messages", "messages", "Log messages of warning and above, those suppressed as repeats included.", ("level",)
)
CONFIG_RELOAD_SUCCESSFUL: Final = _gauge(
    "config_last_reload_successful", "boolean", "1 when the last attempt to load the configuration succeeded.", ()
)
CONFIG_RELOAD_TIMESTAMP: Final = _gauge(
    "config_last_reload_success_timestamp_seconds",
    "seconds",
    "When the configuration was last loaded with success, in epoch seconds; 0: never.",
    (),
)
BUILD_INFO: Final = _gauge("build_info", "boolean", "Always 1; the labels say what runs.", ("version", "python"))


def markdown() -> str:
    """The table as Markdown, a row a metric in the order of declaration."""
    rows = ["| Metric | Type | Labels | Unit | Meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {metric.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
