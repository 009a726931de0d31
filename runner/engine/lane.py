"""A lane: records of one partition that run one batch after another."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runner.core.batcher import Batcher
from runner.core.delivery import Delivery, DeliveryPolicy
from runner.engine.carried import Carried
from runner.engine.timers import Timer
from runner.model import Invocation, Record

if TYPE_CHECKING:
    from runner.engine.partition import PartitionWorker


class LaneState(enum.Enum):
    """What a lane waits for."""

    IDLE = "more records"
    QUEUED = "a permit"
    RUNNING = "the function"
    WAITING = "its next attempt"
    STORING = "the destination"
    HELD_BACK = "the lane that holds the lowest unsettled record"
    ABANDONED = "the next owner"


class Lane:
    """Data only: an idle lane costs nothing. Its partition's worker changes it."""

    __slots__ = (
        "batcher",
        "cancel",
        "delivery",
        "index",
        "invocation",
        "is_suspect",
        "retry_at",
        "state",
        "storing",
        "timer",
        "worker",
    )

    def __init__(self, worker: PartitionWorker, index: int, batcher: Batcher) -> None:
        self.worker = worker
        self.index = index
        self.batcher = batcher
        self.delivery: Delivery | None = None
        self.state = LaneState.IDLE
        self.timer: Timer | None = None
        self.retry_at = 0.0
        self.storing = 0  # records given up that the destination does not have yet
        self.cancel: Callable[[], None] | None = None  # ends the running invocation; set by the mapping's task
        self.invocation: Invocation | None = None  # the running one
        self.is_suspect = False  # its delivery is of one record, which may have ended the processes that tried it

    @property
    def first_unsettled(self) -> Record | None:
        """The lowest record in fetch order that the lane holds; of records that are being stored the first, even if it
        is stored before the others."""
        first = None if self.delivery is None else self.delivery.first_unsettled
        return self.batcher.first if first is None else first

    @property
    def unsettled_records(self) -> int:
        """Of those that were begun: dispatched, or on their way to the destination."""
        return self.storing + (0 if self.delivery is None else self.delivery.unsettled_records)

    def begin(self, before: int, policy: DeliveryPolicy, carried: Carried) -> Sequence[Record]:
        """Take the next batch, of records with sequences below ``before``, as the lane's delivery; empty: there is
        none."""
        first = self.batcher.first
        if carried and first is not None:
            before = carried.before(first.sequence, before)
        batch = self.batcher.take(before)
        if batch:
            self.is_suspect = carried.is_suspect(batch[0])
            self.delivery = Delivery(batch, policy, carried.take(batch) if carried else None)
        return batch

    def stop_waiting(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
