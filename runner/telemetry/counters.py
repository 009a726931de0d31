"""Plain integers that a mapping's events are counted in: a metric library's own counters cost too much a batch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, NamedTuple

from prometheus_client.utils import floatToGoString

from runner.model import Condition, ErrorKind, Settlement
from runner.telemetry import metrics

_INFINITY: Final = "+Inf"


class Histogram:
    """Counts of observations under fixed upper bounds."""

    __slots__ = ("_bounds", "_counts", "_labels", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._labels = [*map(floatToGoString, bounds), _INFINITY]
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Pairs of an upper bound, as the exposition format writes it, with the observations up to it."""
        buckets: list[tuple[str, float]] = []
        total = 0
        for label, count in zip(self._labels, self._counts, strict=True):
            total += count
            buckets.append((label, total))
        return buckets


class Totals(NamedTuple):
    """What became of one mapping's records so far, for a summary."""

    fetched: int
    settled: Mapping[Settlement, int]
    retried: int
    repeated: int
    invocations: int


class MappingCounters:
    """Everything counted of one mapping. Each label value of a closed set is there, at 0, from the start."""

    __slots__ = (
        "batch_records",
        "bytes_fetched",
        "checkpoint_duration",
        "checkpoints_failed",
        "checkpoints_fenced",
        "checkpoints_stored",
        "data_loss_records",
        "data_losses",
        "dead_letter_failures",
        "dead_letters_dropped",
        "dead_letters_overdue",
        "dead_letters_stored",
        "drain_duration",
        "end_to_end_latency",
        "failure_duration",
        "invocations",
        "invocations_overdue",
        "last_settled",
        "pauses",
        "rebalances",
        "records_fetched",
        "records_redelivered",
        "records_repeated",
        "records_retried",
        "records_settled",
        "records_trimmed",
        "retries",
        "stale_records",
        "success_duration",
    )

    def __init__(self) -> None:
        self.records_fetched = 0
        self.records_redelivered = 0
        self.records_trimmed = 0
        self.bytes_fetched = 0
        self.records_settled = dict.fromkeys(Settlement, 0)
        self.last_settled = 0.0
        self.end_to_end_latency = Histogram(metrics.END_TO_END_LATENCY.bounds)
        self.invocations: dict[ErrorKind | None, int] = dict.fromkeys((None, *ErrorKind), 0)
        self.success_duration = Histogram(metrics.INVOCATION_DURATION.bounds)
        self.failure_duration = Histogram(metrics.INVOCATION_DURATION.bounds)
        self.batch_records = Histogram(metrics.BATCH_RECORDS.bounds)
        self.invocations_overdue = 0
        self.retries: dict[ErrorKind | None, int] = dict.fromkeys((None, *ErrorKind), 0)
        self.records_retried = 0
        self.dead_letters_stored = dict.fromkeys(Condition, 0)
        self.dead_letters_dropped = dict.fromkeys(Condition, 0)
        self.dead_letter_failures = 0
        self.dead_letters_overdue = 0
        self.checkpoints_stored = 0
        self.checkpoints_failed = 0
        self.checkpoints_fenced = 0
        self.checkpoint_duration = Histogram(metrics.CHECKPOINT_DURATION.bounds)
        self.rebalances = 0
        self.drain_duration = Histogram(metrics.DRAIN_DURATION.bounds)
        self.records_repeated = 0
        self.stale_records = 0
        self.data_losses = 0
        self.data_loss_records = 0
        self.pauses = 0

    def totals(self) -> Totals:
        return Totals(
            fetched=self.records_fetched,
            settled=dict(self.records_settled),
            retried=self.records_retried,
            repeated=self.records_repeated,
            invocations=sum(self.invocations.values()),
        )
