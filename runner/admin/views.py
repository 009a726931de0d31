"""The JSON that shows mappings to people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from runner.clients.secret import Secret
from runner.model import LastError, MappingState, Partition, Position, Problem


class PartitionView(Protocol):
    """What is shown of a partition; ``None`` stands for what is not known, or not the case."""

    @property
    def partition(self) -> Partition: ...
    @property
    def assigned(self) -> bool: ...
    @property
    def lag_records(self) -> int | None: ...
    @property
    def lag_seconds(self) -> float | None: ...
    @property
    def unsettled_records(self) -> int: ...
    @property
    def unsettled_bytes(self) -> int: ...
    @property
    def ahead_records(self) -> int: ...
    @property
    def paused_reason(self) -> str | None: ...
    @property
    def blocking_lane(self) -> str | None: ...
    @property
    def waiting_for(self) -> str: ...
    @property
    def checkpoint(self) -> Position | None: ...
    @property
    def problem(self) -> Problem | None: ...


class MappingView(Protocol):
    """What is shown of a mapping."""

    @property
    def mapping(self) -> str: ...
    @property
    def function(self) -> str: ...
    @property
    def state(self) -> MappingState: ...
    @property
    def problem(self) -> Problem | None: ...
    @property
    def last_processing_result(self) -> str: ...
    @property
    def last_error(self) -> LastError | None: ...
    @property
    def joined(self) -> bool: ...
    @property
    def partitions(self) -> Sequence[PartitionView]: ...
    @property
    def inflight(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def concurrency_limit(self) -> int | None: ...
    @property
    def polled_at(self) -> float | None: ...
    @property
    def config(self) -> Mapping[str, object]: ...


def mappings_json(mappings: Iterable[MappingView]) -> bytes:
    """``{"mappings": [...]}`` by name, in ASCII. Raises TypeError for a configuration that is not JSON."""
    shown = [_mapping(each) for each in sorted(mappings, key=lambda each: each.mapping)]
    text = json.dumps({"mappings": shown}, ensure_ascii=True, allow_nan=False, indent=2, default=_hidden)
    return text.encode("ascii") + b"\n"


def _mapping(view: MappingView) -> dict[str, Any]:
    return {
        "mapping": view.mapping,
        "function": view.function,
        "state": view.state,
        "problem": _problem(view.problem),
        "last_processing_result": view.last_processing_result,
        "last_error": _last_error(view.last_error),
        "joined": view.joined,
        "inflight": view.inflight,
        "waiting": view.waiting,
        "concurrency_limit": view.concurrency_limit,
        "polled_at": view.polled_at,
        "config": view.config,
        "partitions": [_partition(each) for each in sorted(view.partitions, key=lambda each: each.partition)],
    }


def _partition(view: PartitionView) -> dict[str, Any]:
    return {
        "topic": view.partition.topic,
        "partition": view.partition.number,
        "assigned": view.assigned,
        "lag_records": view.lag_records,
        "lag_seconds": view.lag_seconds,
        "unsettled_records": view.unsettled_records,
        "unsettled_bytes": view.unsettled_bytes,
        "ahead_records": view.ahead_records,
        "paused_reason": view.paused_reason,
        "blocking_lane": view.blocking_lane,
        "waiting_for": view.waiting_for or None,
        "checkpoint": view.checkpoint,
        "problem": _problem(view.problem),
    }


def _last_error(last: LastError | None) -> dict[str, str | int | float | None] | None:
    if last is None:
        return None
    error = last.error
    return {
        "kind": error.kind,
        "type": error.type,
        "text": error.text,
        "status_code": error.status_code,
        "at": last.at,
    }


def _problem(problem: Problem | None) -> dict[str, str] | None:
    return None if problem is None else {"reason": problem.reason, "text": problem.text, "hint": problem.hint}


def _hidden(value: object) -> str:
    if isinstance(value, Secret):
        return "***"
    raise TypeError(f"a configuration value of type {type(value).__name__} is not JSON")
