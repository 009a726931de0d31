"""One assignment of one partition, in order: gather, invoke, settle."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from runner.core.batcher import Batcher
from runner.core.flow import RECORD_OVERHEAD, ByteBudget, Flow
from runner.core.lag import Lag
from runner.core.lanes import Lanes
from runner.core.tracker import Tracker
from runner.engine.carried import Carried
from runner.engine.host import Host
from runner.engine.lane import Lane, LaneState
from runner.engine.policy import MappingPolicy
from runner.engine.selection import select
from runner.model import (
    Backlog,
    Fetched,
    GiveUp,
    Invoke,
    Lease,
    Outcome,
    Partition,
    Record,
    Settle,
    Settlement,
    WaitUntil,
)
from runner.ports import AcknowledgesRecords, Observer


class PartitionWorker:
    """Owns the tracker, the lanes and the deliveries of one assignment, and is thrown away with it.

    No method waits, except ``drained``: the mapping's tasks call in, and the worker says what comes next. Nothing is
    dispatched beyond ``_line`` once the partition drains.
    """

    def __init__(
        self,
        partition: Partition,
        policy: MappingPolicy,
        host: Host,
        observer: Observer,
        budget: ByteBudget,
        keeper: AcknowledgesRecords | None = None,
    ) -> None:
        """``keeper``: the source, where it is told of each settled record and of attempts."""
        self.partition = partition
        self.tracker = Tracker()
        self.lanes: dict[int, Lane] = {}
        self.flow = Flow(policy.flow, budget)
        self.unsettled_bytes = 0
        self.running = 0  # invocations that were started and have not come back
        self.stored_sequence = 0  # everything below it is settled and checkpointed
        self.stored_records = 0  # how many do not come again: settled and, for the source, done with
        self.lease: Lease | None = None
        self.is_discarded = False
        self._policy = policy
        self._host = host
        self._observer = observer
        self._budget = budget
        self._keeper = keeper
        self._carried = Carried()
        self._places = Lanes(
            policy.delivery.ordering,
            policy.parallelization_factor,
            batch_records=policy.batch.records,
            load=self._load,
        )
        self._dispatched = -1  # the highest sequence that was put into a delivery
        self._line: int | None = None  # set by drain
        self._drain_until = float("inf")
        self._may_dispatch = True
        self._held_back: list[Lane] = []  # what they hold next waits until the head moves
        self._quiet = anyio.Event()
        self._lag = Lag(self.tracker)

    def leased(self, lease: Lease) -> None:
        """What runs may still wait for a connection or a process: it goes by the renewed lease too."""
        self.lease = lease
        for lane in self.lanes.values():
            if lane.invocation is not None:
                lane.invocation.lease = lease

    def holds_lease(self, now: float) -> bool:
        """False: another may own the partition by now, and the worker is discarded."""
        if self.lease is not None and now >= self.lease.until:
            self._host.fence(self)
        return not self.is_discarded

    @property
    def repeated_records(self) -> int:
        """Settled, and yet to come again if the assignment ended now."""
        return self.tracker.settled_records - self.stored_records

    # --- fetched records

    def accept(self, fetched: Fetched, now: float, backlog: Backlog | None) -> None:
        """Records from the source, in order. Dropped while draining: they are fetched again by the next owner."""
        if self._line is not None or self.is_discarded:
            return
        records = fetched.records
        self.tracker.fetched([record.position for record in records], fetched.next_position)
        self.unsettled_bytes += fetched.size
        self._carried.note(fetched)
        self._budget.used += fetched.size + RECORD_OVERHEAD * len(records)
        self._lag.note_end(backlog)
        wanted, refused = select(records, self._policy)
        for how, others in refused:
            self._settle(others, how, now)
        for index, part in self._places.place(wanted):
            lane = self.lanes.get(index)
            if lane is None:
                lane = self.lanes[index] = Lane(self, index, Batcher(self._policy.batch))
            lane.batcher.add(part, now)
            if lane.state is LaneState.IDLE:
                self._consider(lane, now)
        self.update_flow()

    def _load(self, index: int) -> int:
        lane = self.lanes.get(index)
        if lane is None:
            return 0
        return len(lane.batcher) + (self._policy.batch.records if lane.delivery is not None else 0)

    # --- lanes

    def _consider(self, lane: Lane, now: float) -> None:
        """An idle lane: queue it when a batch is due, else wake up when it will be."""
        due_at = lane.batcher.due_at()
        if due_at is None:
            return
        if due_at <= now or self.flow.reason is not None or self._line is not None:
            self._queue(lane)
        elif lane.timer is None:
            lane.timer = self._host.at(due_at, lambda: self._window_closed(lane))

    def _window_closed(self, lane: Lane) -> None:
        lane.timer = None
        if lane.state is LaneState.IDLE and not self.is_discarded:
            self._consider(lane, self._host.now())

    def _queue(self, lane: Lane) -> None:
        lane.stop_waiting()
        lane.state = LaneState.QUEUED
        self._host.enqueue(lane)

    def start(self, lane: Lane, now: float) -> Invoke | None:
        """A queued lane has a permit: what to invoke; None when it turned out that there is nothing now."""
        if self.is_discarded or lane.state is not LaneState.QUEUED:
            return None
        if not self.holds_lease(now):
            return None
        step = self._advance(lane, now) if self._has_batch(lane) else None
        if step is not None:
            lane.state = LaneState.RUNNING
            self.running += 1
        else:
            self.update_flow()  # what was given up without an invocation is settled, and no outcome will follow
        return step

    def _has_batch(self, lane: Lane) -> bool:
        """Take the lane's next batch where it has none. False: all that it has is too far ahead."""
        if lane.delivery is not None:
            return True
        before = self.tracker.head + self._policy.flow.ahead + 1
        batch = lane.begin(before, self._policy.delivery, self._carried)
        if batch:
            self._dispatched = max(self._dispatched, batch[-1].sequence)
        elif len(lane.batcher):
            lane.state = LaneState.HELD_BACK
            self._held_back.append(lane)
            self.update_flow()
            return False
        return True

    def _release(self) -> None:
        """The lowest unsettled record is another one now."""
        lanes, self._held_back = self._held_back, []
        for lane in lanes:
            if lane.state is LaneState.HELD_BACK:
                self._queue(lane)

    def _advance(self, lane: Lane, now: float) -> Invoke | None:
        """Do what needs no permit; return the invocation that comes next, or None when the lane waits for something."""
        while lane.delivery is not None:
            match lane.delivery.next_step(now):
                case Settle(records=records):
                    self._settle(records, Settlement.DELIVERED, now)
                case GiveUp() as step:
                    if not self._host.give_up(lane, step):
                        lane.state = LaneState.STORING
                        lane.storing = len(step.records)
                        return None
                    self._settle(step.records, Settlement.DROPPED, now)
                case WaitUntil() as step:
                    self._wait(lane, step)
                    return None
                case Invoke() as step:
                    if self._line is None or (self._may_dispatch and step.records[0].sequence <= self._line):
                        return step
                    self._abandon(lane)
                    return None
                case None:
                    lane.delivery = None
        lane.state = LaneState.IDLE
        self._consider(lane, now)
        self._check_quiet()
        return None

    def _wait(self, lane: Lane, step: WaitUntil) -> None:
        lane.state = LaneState.WAITING
        lane.retry_at = step.retry_at
        if self._line is not None and (step.retry_at > self._drain_until or not self._may_dispatch):
            self._abandon(lane)
            return
        lane.timer = self._host.at(step.time, lambda: self._wait_over(lane))

    def _wait_over(self, lane: Lane) -> None:
        lane.timer = None
        if lane.state is LaneState.WAITING and not self.is_discarded:
            self._resume(lane, self._host.now())
            self.update_flow()

    def _resume(self, lane: Lane, now: float) -> None:
        """Go on after a wait, a store or an outcome; queue for a permit when the function comes next."""
        if self._advance(lane, now) is not None:
            self._queue(lane)

    # --- results

    def on_outcome(self, lane: Lane, outcome: Outcome, now: float) -> None:
        """The lane's invocation came back. Not called any more once the worker is discarded."""
        assert lane.delivery is not None
        lane.delivery.on_outcome(outcome, now, self._host.jitter())
        if self._keeper is not None and lane.delivery.charged:
            self._keeper.attempted(self.partition, lane.delivery.charged)
        self._resume(lane, now)
        if lane.state is LaneState.WAITING and lane.delivery is not None:
            self._observer.retry_scheduled(
                self.partition, lane.delivery.error, lane.delivery.upcoming_records, lane.retry_at
            )
        self.update_flow()

    def on_stored(self, lane: Lane, records: Sequence[Record], now: float) -> None:
        """The destination has ``records`` of what the lane gave up; with the last of them the lane goes on."""
        self._stored_or_taken(lane, records, Settlement.DEAD_LETTERED, now)

    def on_taken(self, lane: Lane, records: Sequence[Record], now: float) -> None:
        """As ``on_stored``, but another consumer has them by now, and does with them what is to be done."""
        self._stored_or_taken(lane, records, None, now)

    def _stored_or_taken(self, lane: Lane, records: Sequence[Record], how: Settlement | None, now: float) -> None:
        if self.is_discarded:
            return
        assert lane.state is LaneState.STORING
        self._settle(records, how, now)
        lane.storing -= len(records)
        if not lane.storing:
            self._resume(lane, now)
        self.update_flow()

    def _settle(self, records: Sequence[Record], how: Settlement | None, now: float) -> None:
        """``how``: None when they are another's."""
        head = self.tracker.head
        self.tracker.settle(records)
        if self._keeper is not None and how is not None:
            self._keeper.settled(self.partition, records)
        if self._held_back and self.tracker.head > head:
            self._release()
        size = sum([record.size for record in records])
        self.unsettled_bytes -= size
        self._budget.used -= size + RECORD_OVERHEAD * len(records)
        self._lag.note_settled()
        if how is None:
            self.stored_records += len(records)
            self._observer.stale_results(self.partition, len(records))
        else:
            self._observer.records_settled(self.partition, how, records, now)

    # --- flow

    @property
    def held_bytes(self) -> int:
        """What the unsettled records take of the limits."""
        return self.unsettled_bytes + RECORD_OVERHEAD * self.tracker.unsettled_records

    def update_flow(self) -> None:
        tracker = self.tracker
        if self._line is not None or self.is_discarded:
            return
        if not self.flow.update(records=tracker.unsettled_records, size=self.held_bytes, ahead=self._ahead()):
            return
        paused = self.flow.reason is not None
        self._host.set_paused(self, paused)
        if paused:
            self.flush()

    def _ahead(self) -> int:
        """How far beyond the lowest unsettled record something is settled or was started: not only what is settled,
        since the records of a blocked lane, which lie in between, are not."""
        if self._held_back:
            return self._policy.flow.ahead
        return max(self.tracker.ahead_records, self._dispatched - self.tracker.head)

    def flush(self) -> None:
        """Every waiting batch is due at once: nothing more will come to fill it."""
        for lane in self.lanes.values():
            if lane.state is LaneState.IDLE and len(lane.batcher):
                self._queue(lane)

    def blocking_lane(self) -> Lane | None:
        """The lane that holds the lowest unsettled record."""
        head = self.tracker.head
        firsts = ((lane.first_unsettled, lane) for lane in self.lanes.values())
        return next((lane for first, lane in firsts if first is not None and first.sequence <= head), None)

    # --- the end of the assignment

    def drain(self, until: float, *, dispatch: bool = True) -> None:
        """Draw the line at the highest dispatched record and settle what is up to it until ``until``; drop the rest.

        ``dispatch=False``: only what is with the function or the destination may still be settled."""
        if self._line is not None or self.is_discarded:
            return
        self._drain_until = until
        self._may_dispatch = dispatch
        if not dispatch:
            for lane in self.lanes.values():
                lane.batcher.drop_after(-1)
        self._draw_line(self._dispatched)
        self.flush()
        for lane in self.lanes.values():
            is_late = lane.state is LaneState.WAITING and lane.retry_at > until
            if is_late or (not dispatch and lane.state in (LaneState.WAITING, LaneState.QUEUED)):
                self._abandon(lane)
        self._check_quiet()

    def _abandon(self, lane: Lane) -> None:
        """The lane cannot settle in time: what it holds comes again, so nothing behind it is started any more."""
        first = lane.first_unsettled
        assert first is not None
        assert self._line is not None
        lane.stop_waiting()
        lane.state = LaneState.ABANDONED
        if first.sequence <= self._line:
            self._draw_line(first.sequence - 1)
        self._check_quiet()

    def _draw_line(self, sequence: int) -> None:
        self._line = sequence
        for lane in self.lanes.values():
            lane.batcher.drop_after(sequence)
            if lane.state not in (LaneState.QUEUED, LaneState.WAITING, LaneState.HELD_BACK):
                continue
            first = lane.first_unsettled
            if first is None:
                lane.state = LaneState.IDLE
            elif first.sequence > sequence:
                # Nothing of it may be started any more, so its next attempt is not waited for.
                lane.stop_waiting()
                lane.state = LaneState.ABANDONED

    def _check_quiet(self) -> None:
        done = (LaneState.IDLE, LaneState.ABANDONED)
        if self._line is not None and all(lane.state in done for lane in self.lanes.values()):
            self._quiet.set()

    async def drained(self) -> None:
        """After ``drain``: returns when every lane has settled what is up to the line, or gave it up, and when the
        worker is discarded meanwhile."""
        await self._quiet.wait()

    def discard(self) -> None:
        """No result counts any more; running invocations are cancelled. Once; then again without effect."""
        if self.is_discarded:
            return
        self.is_discarded = True
        for lane in self.lanes.values():
            lane.stop_waiting()
            if lane.cancel is not None:
                lane.cancel()
        self._budget.used -= self.held_bytes
        self.unsettled_bytes = 0
        self._quiet.set()

    # --- what others may see

    def lag_seconds(self, now: float, backlog: Backlog | None) -> float | None:
        """See ``Lag.seconds``."""
        stamps = [
            record.timestamp_ms
            for lane in self.lanes.values()
            if (record := lane.first_unsettled) is not None and record.timestamp_ms >= 0
        ]
        return self._lag.seconds(now, backlog, min(stamps) / 1000.0 if stamps else None)
