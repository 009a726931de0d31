"""Turns counters, snapshots, limits into metric families when a scrape asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from runner.core.flow import PauseReason
from runner.model import MappingState, Reason
from runner.telemetry import metrics
from runner.telemetry.counters import Histogram, MappingCounters
from runner.telemetry.metrics import Kind, Metric
from runner.telemetry.snapshot import LimitsSnapshot, MappingSnapshot, PartitionSnapshot

Key: TypeAlias = tuple[str, str]
"""A mapping with its function: the labels that every series of a mapping has."""


@dataclass(slots=True)
class ProcessFacts:
    """What is true of the process as a whole, besides its mappings."""

    version: str
    python: str
    reload_successful: bool = False
    reloaded_at: float = 0.0


class _Page:
    """The families of one scrape: each declared metric once, in order, with or without series."""

    def __init__(self) -> None:
        self.families: dict[Metric, Family] = {metric: _family(metric) for metric in metrics.METRICS}

    def add(self, metric: Metric, labels: Sequence[str], value: float) -> None:
        family = self.families[metric]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(labels, value)

    def add_histogram(self, metric: Metric, labels: Sequence[str], histogram: Histogram) -> None:
        family = self.families[metric]
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, histogram.cumulative(), histogram.sum)


class RunnerCollector(Collector):
    """Reads counters and asks for snapshots at each scrape; nothing is remembered between two scrapes, so that a
    mapping or a partition that is gone has no series."""

    def __init__(
        self,
        *,
        counters: Mapping[Key, MappingCounters],
        snapshots: Callable[[], Sequence[MappingSnapshot]],
        limits: Callable[[], LimitsSnapshot] | None,
        facts: ProcessFacts,
        loop_lag: Callable[[], float],
        log_messages: Mapping[str, int],
    ) -> None:
        self._counters = counters
        self._snapshots = snapshots
        self._limits = limits
        self._facts = facts
        self._loop_lag = loop_lag
        self._log_messages = log_messages

    def collect(self) -> Iterable[Family]:
        page = _Page()
        for key, counters in self._counters.items():
            _add_counts(page, _texts(key), counters)
            _add_histograms(page, _texts(key), counters)
        # While a mapping is replaced it may be listed twice; a series may not.
        for key, snapshot in {(each.mapping, each.function): each for each in self._snapshots()}.items():
            _add_mapping(page, _texts(key), snapshot)
        if self._limits is not None:
            _add_limits(page, self._limits())
        self._add_process(page)
        return page.families.values()

    def _add_process(self, page: _Page) -> None:
        facts = self._facts
        page.add(metrics.EVENT_LOOP_LAG, (), self._loop_lag())
        for level, count in self._log_messages.items():
            page.add(metrics.LOG_MESSAGES, (level,), count)
        page.add(metrics.CONFIG_RELOAD_SUCCESSFUL, (), facts.reload_successful)
        page.add(metrics.CONFIG_RELOAD_TIMESTAMP, (), facts.reloaded_at)
        page.add(metrics.BUILD_INFO, (facts.version, facts.python), 1)


def _family(metric: Metric) -> Family:
    # The unit is written out only where the name ends with it; elsewhere the library would put it into the name.
    unit = metric.unit if metric.name.removesuffix("_total").endswith(f"_{metric.unit}") else ""
    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.help, labels=metric.labels, unit=unit)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels, unit=unit)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels, unit=unit)


def _text(value: str) -> str:
    """A label value that can be encoded: a file's name may hold what UTF-8 cannot, and would spoil the whole scrape."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _texts(key: Key) -> Key:
    mapping, function = key
    return _text(mapping), _text(function)


def _add_counts(page: _Page, key: Key, counters: MappingCounters) -> None:
    for metric, value in (
        (metrics.RECORDS_FETCHED, counters.records_fetched),
        (metrics.RECORDS_REDELIVERED, counters.records_redelivered),
        (metrics.RECORDS_TRIMMED, counters.records_trimmed),
        (metrics.BYTES_FETCHED, counters.bytes_fetched),
        (metrics.LAST_SETTLED, counters.last_settled),
        (metrics.INVOCATIONS_OVERDUE, counters.invocations_overdue),
        (metrics.RECORDS_RETRIED, counters.records_retried),
        (metrics.DEAD_LETTER_FAILURES, counters.dead_letter_failures),
        (metrics.DEAD_LETTERS_OVERDUE, counters.dead_letters_overdue),
        (metrics.REBALANCES, counters.rebalances),
        (metrics.RECORDS_REPEATED, counters.records_repeated),
        (metrics.STALE_RECORDS, counters.stale_records),
        (metrics.DATA_LOSSES, counters.data_losses),
        (metrics.DATA_LOSS_RECORDS, counters.data_loss_records),
        (metrics.PAUSES, counters.pauses),
    ):
        page.add(metric, key, value)
    for how, count in counters.records_settled.items():
        page.add(metrics.RECORDS_SETTLED, (*key, how), count)
    for error, count in counters.invocations.items():
        page.add(metrics.INVOCATIONS, (*key, error or metrics.SUCCESS), count)
    for error, count in counters.retries.items():
        page.add(metrics.RETRIES, (*key, error or metrics.UNKNOWN), count)
    for condition, count in counters.dead_letters_stored.items():
        page.add(metrics.DEAD_LETTERS, (*key, condition, "stored"), count)
    for condition, count in counters.dead_letters_dropped.items():
        page.add(metrics.DEAD_LETTERS, (*key, condition, "dropped"), count)
    page.add(metrics.CHECKPOINTS, (*key, "stored"), counters.checkpoints_stored)
    page.add(metrics.CHECKPOINTS, (*key, "failed"), counters.checkpoints_failed)
    page.add(metrics.CHECKPOINTS, (*key, "fenced"), counters.checkpoints_fenced)


def _add_histograms(page: _Page, key: Key, counters: MappingCounters) -> None:
    page.add_histogram(metrics.END_TO_END_LATENCY, key, counters.end_to_end_latency)
    page.add_histogram(metrics.INVOCATION_DURATION, (*key, metrics.SUCCESS), counters.success_duration)
    page.add_histogram(metrics.INVOCATION_DURATION, (*key, metrics.FAILURE), counters.failure_duration)
    page.add_histogram(metrics.BATCH_RECORDS, key, counters.batch_records)
    page.add_histogram(metrics.CHECKPOINT_DURATION, key, counters.checkpoint_duration)
    page.add_histogram(metrics.DRAIN_DURATION, key, counters.drain_duration)


def _add_mapping(page: _Page, key: Key, snapshot: MappingSnapshot) -> None:
    assigned = {partition.partition: partition for partition in snapshot.partitions if partition.assigned}
    for state in MappingState:
        page.add(metrics.MAPPING_STATE, (*key, state), state is snapshot.state)
    current = snapshot.problem.reason if snapshot.problem is not None else None
    for reason in Reason:
        page.add(metrics.MAPPING_PROBLEM, (*key, reason), reason is current)
    page.add(metrics.ASSIGNED_PARTITIONS, key, len(assigned))
    stopped = {each.partition for each in snapshot.partitions if each.problem is not None}
    page.add(metrics.PROBLEM_PARTITIONS, key, len(stopped))
    for pause in PauseReason:
        count = sum(each.paused_reason is pause for each in assigned.values())
        page.add(metrics.PAUSED_PARTITIONS, (*key, pause), count)
    page.add(metrics.INVOCATIONS_IN_FLIGHT, key, snapshot.inflight)
    page.add(metrics.BATCHES_WAITING, key, snapshot.waiting)
    if snapshot.concurrency_limit is not None:
        page.add(metrics.MAPPING_CONCURRENCY_LIMIT, key, snapshot.concurrency_limit)
    if snapshot.polled_at is not None:
        page.add(metrics.LAST_POLL, key, snapshot.polled_at)
    for partition in assigned.values():
        _add_partition(page, key, partition)


def _add_partition(page: _Page, key: Key, snapshot: PartitionSnapshot) -> None:
    labels = (*key, _text(snapshot.partition.topic), str(snapshot.partition.number))
    if snapshot.lag_seconds is not None:
        page.add(metrics.LAG_SECONDS, labels, snapshot.lag_seconds)
    if snapshot.lag_records is not None:
        page.add(metrics.LAG_RECORDS, labels, snapshot.lag_records)
    page.add(metrics.UNSETTLED_RECORDS, labels, snapshot.unsettled_records)
    page.add(metrics.UNSETTLED_BYTES, labels, snapshot.unsettled_bytes)
    page.add(metrics.AHEAD_RECORDS, labels, snapshot.ahead_records)
    if isinstance(snapshot.checkpoint, int):
        page.add(metrics.CHECKPOINT_POSITION, labels, snapshot.checkpoint)


def _add_limits(page: _Page, limits: LimitsSnapshot) -> None:
    page.add(metrics.CONCURRENCY_IN_USE, (), limits.concurrency.in_use)
    page.add(metrics.CONCURRENCY_LIMIT, (), limits.concurrency.limit)
    page.add(metrics.BUFFER_USED, (), limits.buffer_bytes.in_use)
    page.add(metrics.BUFFER_LIMIT, (), limits.buffer_bytes.limit)
    for function, usage in limits.functions.items():
        page.add(metrics.FUNCTION_CONCURRENCY_IN_USE, (_text(function),), usage.in_use)
        page.add(metrics.FUNCTION_CONCURRENCY_LIMIT, (_text(function),), usage.limit)
