"""Policies of mappings, with only what a test is about said."""

from __future__ import annotations

from collections.abc import Callable

from runner.core.batcher import BatchPolicy
from runner.core.delivery import DeliveryPolicy
from runner.core.flow import FlowLimits
from runner.core.lanes import Ordering
from runner.core.retry import FOR_EVER, RetryPolicy
from runner.engine.policy import MappingPolicy
from runner.model import Record


def a_policy(
    *,
    name: str = "orders-to-scripted",
    batch_size: int = 10,
    window: float = 0.0,
    ordering: Ordering = Ordering.PARTITION,
    factor: int = 1,
    attempts: int = FOR_EVER,
    backoff: float = 2.0,
    maximum_backoff: float = 30.0,
    age: float | None = None,
    bisect: bool = False,
    records: int = 10_000,
    size: int = 1 << 20,
    ahead: int = 10_000,
    concurrency: int | None = None,
    wants: Callable[[Record], bool] | None = None,
    skip_tombstones: bool = False,
    drain_timeout: float = 30.0,
    commit_interval: float = 1.0,
    commit_timeout: float = 5.0,
) -> MappingPolicy:
    """Times are in seconds; ``records``, ``size`` in bytes and ``ahead`` are the high marks of a partition."""
    return MappingPolicy(
        name=name,
        function="scripted",
        batch=BatchPolicy(records=batch_size, window=window, maximum_bytes=1 << 20, size_of=lambda record: record.size),
        delivery=DeliveryPolicy(
            retry=RetryPolicy(
                maximum_attempts=attempts, initial_backoff=backoff, maximum_backoff=maximum_backoff, maximum_age=age
            ),
            ordering=ordering,
            bisect=bisect,
        ),
        flow=FlowLimits(records=records, bytes=size, ahead=ahead),
        parallelization_factor=factor,
        maximum_concurrency=concurrency,
        wants=wants,
        skip_tombstones=skip_tombstones,
        drain_timeout=drain_timeout,
        commit_interval=commit_interval,
        commit_timeout=commit_timeout,
    )
