"""The one place where a process's metrics come together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import choose_encoder

from runner.ports import Observer
from runner.telemetry.collector import Key, ProcessFacts, RunnerCollector
from runner.telemetry.counters import MappingCounters, Totals
from runner.telemetry.loop_monitor import LoopMonitor
from runner.telemetry.observer import MappingObserver
from runner.telemetry.repeats import LogCounts
from runner.telemetry.snapshot import LimitsSnapshot, MappingSnapshot


class Telemetry:
    """Gives each mapping its observer, and renders what all of them counted.

    ``snapshots`` and ``limits`` are asked at each scrape, in the thread that renders; without ``limits`` their metrics
    have no series. ``log_counts`` are those of the configured logs. ``loop`` measures once its ``run`` is started.
    """

    def __init__(
        self,
        *,
        version: str,
        snapshots: Callable[[], Sequence[MappingSnapshot]] = tuple,
        limits: Callable[[], LimitsSnapshot] | None = None,
        log_counts: LogCounts | None = None,
    ) -> None:
        self.loop = LoopMonitor()
        self.registry = CollectorRegistry(auto_describe=False)
        self._counters: dict[Key, MappingCounters] = {}
        self._facts = ProcessFacts(version=version, python=platform.python_version())
        counts = log_counts if log_counts is not None else LogCounts()
        self.registry.register(
            RunnerCollector(
                counters=self._counters,
                snapshots=snapshots,
                limits=limits,
                facts=self._facts,
                loop_lag=self.loop.lag_seconds,
                log_messages=counts.by_level,
            )
        )
        ProcessCollector(registry=self.registry)

    def observer(self, mapping: str, function: str) -> Observer:
        """An observer whose metrics appear at once, at 0; those of an earlier observer of the same pair go on."""
        counters = self._counters.setdefault((mapping, function), MappingCounters())
        return MappingObserver(mapping, function, counters)

    def forget(self, mapping: str, function: str | None = None) -> None:
        """Remove the series of a mapping that is gone; with ``function``, only those it has with that function."""
        for key in [key for key in self._counters if key[0] == mapping and function in (None, key[1])]:
            del self._counters[key]

    def totals(self, mapping: str, function: str) -> Totals:
        """What was counted so far. Raises KeyError for a pair that has no observer."""
        return self._counters[mapping, function].totals()

    def config_loaded(self, *, successful: bool, now: float) -> None:
        """The configuration was loaded, at the start or again; ``now`` in epoch seconds."""
        self._facts.reload_successful = successful
        if successful:
            self._facts.reloaded_at = now

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def expose(self, accept: str) -> tuple[str, bytes]:
        """All metrics in the format that an ``Accept`` header asks for: its content type, and the text."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)
