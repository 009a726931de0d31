"""What the engine's objects look like from outside at one moment."""

from __future__ import annotations

from collections import Counter

from runner.engine.lane import LaneState
from runner.engine.mapping import Mapping
from runner.engine.partition import PartitionWorker
from runner.engine.supervisor import Slot
from runner.model import Partition, Problem
from runner.telemetry.snapshot import MappingSnapshot, PartitionSnapshot


def snapshot_of(slot: Slot, now: float) -> MappingSnapshot:
    """``now`` in the clock's seconds."""
    mapping = slot.mapping
    shown = slot.shown
    if mapping is None:
        return MappingSnapshot(
            mapping=shown.name,
            function=shown.function,
            state=slot.state,
            problem=slot.current_problem,
            last_processing_result="No records processed" if slot.problem is None else "PROBLEM: see the reason",
            joined=slot.is_ready,
        )
    return MappingSnapshot(
        mapping=shown.name,
        function=shown.function,
        state=slot.state,
        problem=slot.current_problem,
        last_processing_result=mapping.dispatcher.last_result,
        joined=slot.is_ready or mapping.source.joined,
        last_error=mapping.dispatcher.last_error,
        partitions=[
            *(_partition(mapping, worker, now) for worker in mapping.workers.values()),
            *(
                _stopped(partition, problem)
                for partition, problem in mapping.troubles.by_partition.items()
                if partition not in mapping.workers
            ),
        ],
        inflight=mapping.dispatcher.in_flight,
        waiting=mapping.dispatcher.queued,
        concurrency_limit=mapping.policy.maximum_concurrency,
        polled_at=mapping.polled_at,
    )


def _partition(mapping: Mapping, worker: PartitionWorker, now: float) -> PartitionSnapshot:
    backlog = mapping.source.backlog(worker.partition)
    tracker = worker.tracker
    unsettled = tracker.unsettled_records
    lane = worker.blocking_lane()
    return PartitionSnapshot(
        partition=worker.partition,
        assigned=True,
        lag_records=None if backlog is None or backlog.records is None else backlog.records + unsettled,
        lag_seconds=worker.lag_seconds(now, backlog),
        unsettled_records=unsettled,
        unsettled_bytes=worker.unsettled_bytes,
        ahead_records=tracker.ahead_records,
        paused_reason=worker.flow.reason,
        blocking_lane=None if lane is None or worker.flow.reason is None else str(lane.index),
        waiting_for=_waiting_for(worker, unsettled),
        checkpoint=tracker.checkpoint,
        problem=mapping.troubles.by_partition.get(worker.partition),
    )


def _stopped(partition: Partition, problem: Problem) -> PartitionSnapshot:
    """One that is not ours because of its problem, or that we do not know the owner of."""
    return PartitionSnapshot(
        partition=partition,
        assigned=False,
        lag_records=None,
        lag_seconds=None,
        unsettled_records=0,
        unsettled_bytes=0,
        ahead_records=0,
        paused_reason=None,
        blocking_lane=None,
        waiting_for="",
        checkpoint=None,
        problem=problem,
    )


def _waiting_for(worker: PartitionWorker, unsettled: int) -> str:
    """In a few words: ``3 lanes wait for the function, 1 lane waits for its next attempt``."""
    counts: Counter[LaneState] = Counter(
        lane.state for lane in worker.lanes.values() if lane.state is not LaneState.IDLE
    )
    words = [
        f"{counts[state]} lane{'s wait' if counts[state] > 1 else ' waits'} for {state.value}"
        for state in LaneState
        if counts[state]
    ]
    if not words and unsettled:
        return "a batch to fill"
    return ", ".join(words)
