"""One source bound to one function: fetch, hand out, assign, revoke, drain."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

import anyio
import anyio.abc

from runner.core.flow import ByteBudget, PauseReason
from runner.core.permits import Permits
from runner.engine.committer import Committer
from runner.engine.dispatcher import Dispatcher
from runner.engine.lane import Lane
from runner.engine.letters import Letters
from runner.engine.opening import open_all
from runner.engine.partition import PartitionWorker
from runner.engine.policy import MappingPolicy
from runner.engine.suspects import Suspects
from runner.engine.timers import Timer, Timers
from runner.engine.troubles import PartitionTroubles
from runner.model import GiveUp, Lease, MappingState, Partition, Position, Problem, Reason
from runner.ports import (
    AcknowledgesRecords,
    Clock,
    Destination,
    Function,
    Observer,
    Source,
    SourceError,
    TakesPartitions,
)

_HEARTBEAT = 0.5  # seconds between two looks at what no event of this mapping tells


class Mapping:
    """Runs one mapping until it is told to stop, until its source fails, or until it has caught up.

    Tasks: one fetches, one commits, one watches the timers, one stores dead letters, and workers invoke: as many as
    invocations run at once, never more than the mapping's concurrency. Between them all state is changed only by
    plain calls on the one event loop, so that nothing needs a lock but the checkpoint.
    """

    def __init__(
        self,
        *,
        policy: MappingPolicy,
        source: Source,
        function: Function,
        destination: Destination | None,
        observer: Observer,
        clock: Clock,
        process_permits: Permits,
        function_permits: Permits | None,
        budget: ByteBudget,
        alone: anyio.Lock | None = None,
        lease: float | None = None,
        until_caught_up: bool = False,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """``lease``: seconds without a turn of the event loop after which the source may have given our partitions to
        another owner. ``until_caught_up``: end by itself when the source's end, as it was at start, is settled.
        ``alone`` is the process's: see ``Suspects``."""
        self.policy = policy
        self.source = source
        self.function = function
        self.workers: dict[Partition, PartitionWorker] = {}
        self.troubles = PartitionTroubles(observer)
        self.polled_at: float | None = None  # when the poller last turned
        self.has_joined = False  # whether an assignment, even an empty one, was ever received
        self._destination = destination
        self._observer = observer
        self._clock = clock
        self._budget = budget
        self._lease = lease
        self._until_caught_up = until_caught_up
        self._jitter = jitter
        self._timers = Timers(clock)
        self._committer = Committer(
            source, clock, observer, interval=policy.commit_interval, timeout=policy.commit_timeout
        )
        keeper = self._keeper = source if isinstance(source, AcknowledgesRecords) else None
        self.letters = Letters(destination, policy, source, keeper, clock, observer, jitter)
        self.dispatcher = Dispatcher(
            policy=policy,
            function=function,
            source=source.description,
            observer=observer,
            clock=clock,
            permits=[permits for permits in (function_permits, process_permits) if permits is not None],
            may_start=lambda now: not self._lost_lease(now),
            suspects=None if keeper is None else Suspects(function, keeper, alone or anyio.Lock()),
        )
        self._turned_at = clock.now()
        self._stop = anyio.Event()
        self._failure: Problem | None = None
        self._told: tuple[MappingState, Problem | None] | None = None
        self._draining: dict[Partition, anyio.Event] = {}

    # --- life

    def stop(self) -> None:
        """Drain, checkpoint, leave. ``run`` returns when that is done."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    async def run(self) -> None:
        """Raises SourceError and FunctionNotValid; anything else that it raises is a defect."""
        self.dispatcher.join()
        try:
            if await open_all(self._stop, self.function, self._destination, self.source, self):
                await self._run()
        finally:
            for worker in self.workers.values():
                worker.discard()
            self.dispatcher.leave()
            with anyio.CancelScope(shield=True):
                await self.source.close()
                await self.function.close()
                if self._destination is not None:
                    await self._destination.close()

    async def _run(self) -> None:
        self._turned_at = self._clock.now()  # opening took its time, and nothing was in flight
        async with anyio.create_task_group() as group:
            self.dispatcher.start(group)
            group.start_soon(self._timers.run)
            group.start_soon(self.letters.run, self.dispatcher.pump)
            group.start_soon(self._committer.run, self._live_workers)
            group.start_soon(self._watch_turns)
            fetching = anyio.CancelScope()
            group.start_soon(self._fetch_until_stopped, fetching)
            await self._stop.wait()
            fetching.cancel()
            if isinstance(self.source, TakesPartitions):
                self.source.stop_taking()
            await self.revoked(list(self.workers))
            group.cancel_scope.cancel()
        if not self._stop.is_set():
            # A group takes a cancellation that escapes from a task for its own end, and says nothing.
            raise RuntimeError("a task of the mapping was cancelled, and nobody had asked for it")
        if self._failure is not None:
            raise SourceError(self._failure)

    def _live_workers(self) -> Collection[PartitionWorker]:
        # Asked before each checkpoint: a process that stood still may wake up right here.
        self._lost_lease(self._clock.now())
        return self.workers.values()

    def _fail(self, problem: Problem) -> None:
        if self._failure is None:
            self._failure = problem
        self._stop.set()

    async def _fetch_until_stopped(self, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                while not self._stop.is_set():
                    await self._fetch()
            except SourceError as error:
                self._fail(error.problem)

    async def _fetch(self) -> None:
        fetched = await self.source.fetch()
        now = self.polled_at = self._clock.now()
        for chunk in fetched:
            worker = self.workers.get(chunk.partition)
            if worker is None:
                continue
            if chunk.records:
                self._observer.records_fetched(chunk.partition, len(chunk.records), chunk.size)
            if chunk.redelivered:
                self._observer.records_redelivered(chunk.partition, chunk.redelivered)
            worker.accept(chunk, now, self.source.backlog(chunk.partition))
        if fetched:
            self.dispatcher.pump()
        if self._until_caught_up and self.source.caught_up:
            self._finish_if_settled()

    def _finish_if_settled(self) -> None:
        unsettled = [worker for worker in self.workers.values() if worker.tracker.unsettled_records]
        for worker in unsettled:
            worker.flush()
        if unsettled:
            self.dispatcher.pump()
        else:
            self.stop()

    async def _watch_turns(self) -> None:
        """A process that was suspended for longer than its lease has lost its partitions, and must not act on."""
        while True:
            await anyio.sleep(_HEARTBEAT)
            if not self._lost_lease(self._clock.now()):
                self._turned_at = self._clock.now()
            if self._draining and self.polled_at is not None:
                self.polled_at = self._clock.now()  # a fetch that lets partitions go takes its time, and is bounded
            self._look_at_the_budget()
            self._tell_state()

    def _look_at_the_budget(self) -> None:
        """Others free it too, or a reload raises it, and a partition whose lanes are stuck has no event of its own."""
        for worker in self.workers.values():
            if worker.flow.reason is PauseReason.PROCESS_BUFFER:
                worker.update_flow()
        self.dispatcher.pump()

    def _tell_state(self) -> None:
        told = (self.state, self.problem)
        if told != self._told:
            self._told = told
            self._observer.state_changed(*told)

    def _lost_lease(self, now: float) -> bool:
        if self._lease is None or now - self._turned_at <= self._lease:
            return False
        if self._failure is None:
            self._fail(
                Problem(
                    Reason.EVENT_SOURCE_UNREACHABLE,
                    f"the process stood still for {now - self._turned_at:.1f} s, longer than its lease of "
                    f"{self._lease:g} s: its partitions may have another owner",
                    "results of what was in flight are discarded; the mapping joins anew",
                )
            )
            for worker in self.workers.values():
                self._committer.fence(worker)
        return True

    # --- what the source says (ports.SourceListener)

    def assigned(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            assert partition not in self.workers, "a partition is revoked before it is assigned again"
            self.workers[partition] = PartitionWorker(
                partition, self.policy, self, self._observer, self._budget, self._keeper
            )
        self.has_joined = True
        self._observer.partitions_assigned(partitions)
        self.troubles.assigned(partitions)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Drain, checkpoint, cancel and await what is left, discard. Concurrent calls may name the same partitions; one
        that is cancelled leaves the rest to the others."""
        while True:
            elsewhere = [self._draining[partition] for partition in partitions if partition in self._draining]
            workers = [
                self.workers[partition]
                for partition in partitions
                if partition in self.workers and partition not in self._draining
            ]
            if workers:
                await self._drain(workers)
            if not elsewhere:
                return
            for event in elsewhere:
                await event.wait()

    async def _drain(self, workers: Collection[PartitionWorker]) -> None:
        done = anyio.Event()
        for worker in workers:
            self._draining[worker.partition] = done
        try:
            await self._let_go(workers)
            self._forget(workers)
        finally:
            for worker in workers:
                del self._draining[worker.partition]
            done.set()

    def _forget(self, workers: Collection[PartitionWorker]) -> None:
        for worker in workers:
            del self.workers[worker.partition]
            self.troubles.forget(worker.partition)
            self._committer.forget(worker)

    async def _let_go(self, workers: Collection[PartitionWorker]) -> None:
        started = self._clock.now()
        self._lost_lease(started)
        # What is settled goes first: when that is refused, the partitions are lost and nothing more may be started.
        await self._committer.flush(workers, timeout=self.policy.drain_timeout)
        live = [worker for worker in workers if not worker.is_discarded]
        until = started + self.policy.drain_timeout
        for worker in live:
            # Without its source a mapping may have lost its partitions: it lets the function end what it has begun.
            worker.drain(until, dispatch=self._failure is None)
        self.dispatcher.pump()
        with anyio.move_on_after(max(0.0, until - self._clock.now())):
            for worker in live:
                await worker.drained()
        await self._committer.flush(live)
        now = self._clock.now()
        for worker in workers:
            repeated = 0 if worker.is_discarded else worker.repeated_records
            unsettled = sum(lane.unsettled_records for lane in worker.lanes.values())
            worker.discard()
            self._observer.partition_drained(worker.partition, now - started, repeated, unsettled)
        await self.dispatcher.await_stragglers(workers)
        self._observer.partitions_revoked([worker.partition for worker in workers])

    def leased(self, partition: Partition, lease: Lease) -> None:
        if (worker := self.workers.get(partition)) is not None:
            worker.leased(lease)

    def acknowledged(self, partition: Partition, records: int) -> None:
        if (worker := self.workers.get(partition)) is not None:
            worker.stored_records += records

    def taken(self, partition: Partition, records: int) -> None:
        self._observer.stale_results(partition, records)
        self.acknowledged(partition, records)

    async def lost(self, partitions: Collection[Partition]) -> None:
        workers = [self.workers[partition] for partition in partitions if partition in self.workers]
        for worker in workers:
            self._committer.fence(worker)
        # Who drains them takes them out: the drain ends now.
        elsewhere = [self._draining[partition] for partition in partitions if partition in self._draining]
        gone = [worker for worker in workers if worker.partition not in self._draining]
        self._forget(gone)
        self.dispatcher.pump()  # for others: what ran here gives its permits back
        await self.dispatcher.await_stragglers(gone)
        if gone:
            self._observer.partitions_revoked([worker.partition for worker in gone])
        for event in elsewhere:
            await event.wait()

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None:
        if problem is None:
            self.troubles.over(partition, is_read=partition in self.workers and partition not in self._draining)
        else:
            self.troubles.stopped(partition, problem)

    def data_lost(self, partition: Partition, first: Position, next_available: Position, records: int | None) -> None:
        self._observer.data_lost(partition, first, next_available, records)

    def trimmed(self, partition: Partition, records: int) -> None:
        self._observer.records_trimmed(partition, records)

    def source_warning(self, text: str) -> None:
        self._observer.source_warning(text)

    # --- what a partition says (partition.Host)

    def enqueue(self, lane: Lane) -> None:
        self.dispatcher.enqueue(lane)

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        def fire() -> None:
            callback()
            self.dispatcher.pump()

        return self._timers.at(when, fire)

    def give_up(self, lane: Lane, step: GiveUp) -> bool:
        return self.letters.give_up(lane, step)

    def set_paused(self, worker: PartitionWorker, paused: bool) -> None:
        if not paused:
            self.source.resume(worker.partition)
            self._observer.partition_resumed(worker.partition)
            return
        self.source.pause(worker.partition)
        lane = worker.blocking_lane()
        blocker = "none" if lane is None else f"lane {lane.index} waits for {lane.state.value}"
        assert worker.flow.reason is not None
        self._observer.partition_paused(worker.partition, worker.flow.reason, blocker)

    def fence(self, worker: PartitionWorker) -> None:
        self._committer.fence(worker)

    def now(self) -> float:
        return self._clock.now()

    def jitter(self) -> float:
        return self._jitter()

    # --- what others may see

    @property
    def state(self) -> MappingState:
        if self._failure is not None or self.troubles.by_partition or self.letters.problem is not None:
            return MappingState.PROBLEM
        if self._stop.is_set():
            return MappingState.DISABLING
        if not self.source.joined:
            return MappingState.CREATING
        return MappingState.ENABLED if self.workers else MappingState.IDLE

    @property
    def problem(self) -> Problem | None:
        if self._failure is not None:
            return self._failure
        return self.troubles.problem or self.letters.problem
