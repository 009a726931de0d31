"""What a partition asks of the mapping that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from runner.engine.timers import Timer
from runner.model import GiveUp

if TYPE_CHECKING:
    from runner.engine.lane import Lane
    from runner.engine.partition import PartitionWorker


class Host(Protocol):
    """Nothing here waits."""

    def enqueue(self, lane: Lane) -> None:
        """The lane has something to invoke once a permit is free."""
        ...

    def at(self, when: float, callback: Callable[[], None]) -> Timer: ...

    def give_up(self, lane: Lane, step: GiveUp) -> bool:
        """True: dropped by policy, settled at once. False: ``on_stored`` is called when the destination has it."""
        ...

    def set_paused(self, worker: PartitionWorker, paused: bool) -> None: ...

    def fence(self, worker: PartitionWorker) -> None:
        """The worker's lease is over: discard it."""
        ...

    def now(self) -> float: ...

    def jitter(self) -> float: ...
