"""The invocations of one mapping: which lane is next, and the permits it needs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence

import anyio
import anyio.abc

from runner.core.permits import Permits
from runner.engine.lane import Lane
from runner.engine.partition import PartitionWorker
from runner.engine.policy import MappingPolicy
from runner.engine.suspects import Suspects
from runner.model import ErrorKind, FunctionError, Invocation, Invoke, LastError, Outcome, PartlyFailed, Succeeded
from runner.ports import Clock, Function, Observer

_CANCEL_GRACE = 5.0  # seconds that a cancelled invocation may take to end


class Dispatcher:
    """Long-lived worker tasks, as many as invocations run at once, and never more than the permits allow.

    A permit is held while the function runs, never while a lane waits.
    """

    def __init__(
        self,
        *,
        policy: MappingPolicy,
        function: Function,
        source: str,
        observer: Observer,
        clock: Clock,
        permits: Sequence[Permits],
        may_start: Callable[[float], bool],
        suspects: Suspects | None,
    ) -> None:
        """``may_start(now)`` is asked before each invocation and before each result is taken. ``suspects``: None where
        the source names none."""
        self.in_flight = 0
        self.last_result = "No records processed"
        self.last_error: LastError | None = None
        self._policy = policy
        self._function = function
        self._suspects = suspects
        self._source = source
        self._observer = observer
        self._clock = clock
        self._permits = permits
        self._may_start = may_start
        self._ready: deque[Lane] = deque()
        self._parked: list[asyncio.Future[tuple[Lane, Invoke]]] = []
        self._is_pumping = False
        self._group: anyio.abc.TaskGroup | None = None
        self._ended = anyio.Event()  # an invocation came back

    def start(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group

    def join(self) -> None:
        for permits in self._permits:
            permits.join(self)

    def leave(self) -> None:
        for permits in self._permits:
            permits.leave(self)

    def enqueue(self, lane: Lane) -> None:
        self._ready.append(lane)

    @property
    def queued(self) -> int:
        return len(self._ready)

    def pump(self) -> None:
        """Start what is ready as far as permits allow."""
        if self._is_pumping or self._group is None:
            return
        self._is_pumping = True
        try:
            while (job := self._next_job()) is not None:
                self._hand_over(job, self._group)
        finally:
            self._is_pumping = False

    def _on_free(self) -> None:
        """A permit may be had: called from the task of whichever mapping gave it back, which no defect here may end."""
        try:
            self.pump()
        except Exception as error:
            assert self._group is not None
            self._group.start_soon(_raise, error)

    def _hand_over(self, job: tuple[Lane, Invoke], group: anyio.abc.TaskGroup) -> None:
        while self._parked:
            parked = self._parked.pop()
            if not parked.done():
                parked.set_result(job)
                return
        group.start_soon(self._work, job)

    def _next_job(self) -> tuple[Lane, Invoke] | None:
        """A lane and what to invoke for it; a permit of each kind is then held."""
        if not self._ready or not self._take_permits():
            return None
        now = self._clock.now()
        if self._may_start(now):
            while self._ready:
                lane = self._ready.popleft()
                step = lane.worker.start(lane, now)
                if step is not None:
                    return lane, step
        self._give_back_permits()
        return None

    def _take_permits(self) -> bool:
        most = self._policy.maximum_concurrency
        if most is not None and self.in_flight >= most:
            return False
        taken: list[Permits] = []
        for permits in self._permits:
            if not permits.try_take(self, self._on_free):
                for other in taken:
                    other.give_back(self)
                return False
            taken.append(permits)
        self.in_flight += 1
        return True

    def _give_back_permits(self) -> None:
        self.in_flight -= 1
        for permits in self._permits:
            permits.give_back(self)

    async def _work(self, job: tuple[Lane, Invoke] | None) -> None:
        """Invoke, again and again; park when there is nothing to do, to be woken with the next job."""
        loop = asyncio.get_running_loop()
        while True:
            if job is None:
                parked: asyncio.Future[tuple[Lane, Invoke]] = loop.create_future()
                self._parked.append(parked)
                job = await parked
            await self._invoke(*job)
            job = self._next_job()
            for permits in self._permits:
                permits.wake()
            self.pump()

    async def _invoke(self, lane: Lane, step: Invoke) -> None:
        worker = lane.worker
        if worker.is_discarded:  # since the job was handed over: its records are another owner's now
            self._invocation_over(worker)
            return
        invocation = Invocation(
            mapping=self._policy.name,
            function=self._policy.function,
            partition=worker.partition,
            records=step.records,
            attempt=step.attempt,
            source=self._source,
            lease=worker.lease,
        )
        outcome: Outcome | None = None
        started = self._clock.now()
        self._observer.invocation_started(invocation)
        try:
            with anyio.CancelScope() as scope:
                lane.cancel = scope.cancel
                lane.invocation = invocation
                suspects = self._suspects if lane.is_suspect else None
                outcome = await (suspects or self._function).invoke(invocation)
        finally:
            lane.cancel = lane.invocation = None
            self._invocation_over(worker)
        self._take_outcome(lane, invocation, outcome, started)

    def _invocation_over(self, worker: PartitionWorker) -> None:
        worker.running -= 1
        self._give_back_permits()
        self._ended.set()

    def _take_outcome(self, lane: Lane, invocation: Invocation, outcome: Outcome | None, started: float) -> None:
        worker = lane.worker
        now = self._clock.now()
        if outcome is None:
            self._observer.invocation_cancelled(invocation)
            return
        if worker.is_discarded or not self._may_start(now) or not worker.holds_lease(now):
            self._observer.stale_results(worker.partition, len(invocation.records))
            return
        error = None if isinstance(outcome, Succeeded) else outcome.error
        self._note_result(outcome, error, now)
        self._observer.invocation_ended(invocation, None if error is None else error.kind, now - started, error)
        worker.on_outcome(lane, outcome, now)

    def _note_result(self, outcome: Outcome, error: FunctionError | None, now: float) -> None:
        if error is None:
            self.last_result = "OK"
            return
        if error.kind is ErrorKind.TOO_LARGE:  # the function was not asked
            return
        self.last_error = LastError(error, now)
        if isinstance(outcome, PartlyFailed):
            self.last_result = "PROBLEM: Function reported failed records"
        else:
            self.last_result = "PROBLEM: Function call failed"

    async def await_stragglers(self, workers: Collection[PartitionWorker]) -> None:
        """Returns when the cancelled invocations of ``workers`` have ended, or a grace is over."""
        with anyio.move_on_after(_CANCEL_GRACE):
            while any(worker.running for worker in workers):
                if self._ended.is_set():
                    self._ended = anyio.Event()
                await self._ended.wait()


async def _raise(error: Exception) -> None:
    raise error
