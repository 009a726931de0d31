"""What a mapping was told to do, as the engine needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.core.batcher import BatchPolicy
from runner.core.delivery import DeliveryPolicy
from runner.core.flow import FlowLimits
from runner.model import Record


@dataclass(frozen=True, slots=True)
class MappingPolicy:
    """Times are in seconds. ``wants`` is the compiled filter, None when every record is wanted."""

    name: str
    function: str
    batch: BatchPolicy
    delivery: DeliveryPolicy
    flow: FlowLimits
    parallelization_factor: int = 1
    maximum_concurrency: int | None = None
    wants: Callable[[Record], bool] | None = None
    skip_tombstones: bool = False
    drain_timeout: float = 30.0
    commit_interval: float = 1.0
    commit_timeout: float = 5.0
