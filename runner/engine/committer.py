"""Checkpoints: on a timer, at revoke, at stop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import anyio

from runner.engine.partition import PartitionWorker
from runner.model import Partition, Position
from runner.ports import AcknowledgesRecords, CheckpointFailed, CheckpointFenced, Clock, Observer, Source


class Committer:
    """Hands the source what may be forgotten, never twice at once, and never for a worker that was discarded.

    A checkpoint that could not be stored is handed over again, in its newest form, at the next turn.
    """

    def __init__(self, source: Source, clock: Clock, observer: Observer, *, interval: float, timeout: float) -> None:
        self._source = source
        self._by_record = isinstance(source, AcknowledgesRecords)
        self._clock = clock
        self._observer = observer
        self._interval = interval
        self._timeout = timeout
        self._lock = anyio.Lock(fast_acquire=True)
        self._stored: dict[PartitionWorker, Position] = {}

    async def run(self, workers: Callable[[], Collection[PartitionWorker]]) -> None:
        while True:
            await anyio.sleep(self._interval)
            await self.flush(workers())

    def forget(self, worker: PartitionWorker) -> None:
        self._stored.pop(worker, None)

    def fence(self, worker: PartitionWorker) -> None:
        """The partition is another owner's: nothing of this worker may count, or be started, any more."""
        if worker.is_discarded:
            return
        stale = worker.repeated_records
        if stale:
            self._observer.stale_results(worker.partition, stale)
        worker.discard()

    async def flush(self, workers: Collection[PartitionWorker], *, timeout: float | None = None) -> None:
        """Store the checkpoints of ``workers`` that moved, within ``timeout`` seconds (default and most: the commit
        timeout), the wait for another flush included. What could not be stored is reported."""
        if not any(self._moved(worker) for worker in workers):
            return
        seconds = self._timeout if timeout is None else min(timeout, self._timeout)
        try:
            with anyio.fail_after(seconds):
                async with self._lock:
                    await self._store([worker for worker in workers if self._moved(worker)])
        except TimeoutError:
            self._observer.checkpoint_failed(f"no answer within {seconds:g} s", fenced=False)

    def _moved(self, worker: PartitionWorker) -> bool:
        if worker.is_discarded:
            return False
        checkpoint = worker.tracker.checkpoint
        if checkpoint is None:
            return False
        return self._stored.get(worker) != checkpoint or (self._by_record and worker.repeated_records > 0)

    async def _store(self, workers: Collection[PartitionWorker]) -> None:
        positions: dict[Partition, Position] = {}
        heads: dict[PartitionWorker, tuple[int, int]] = {}
        for worker in workers:
            checkpoint = worker.tracker.checkpoint
            assert checkpoint is not None
            positions[worker.partition] = checkpoint
            head = worker.tracker.head
            heads[worker] = head, worker.tracker.settled_records if self._by_record else head
        if not positions:
            return
        started = self._clock.now()
        failed: Mapping[Partition, str] = {}
        try:
            await self._source.checkpoint(positions)
        except CheckpointFailed as error:
            self._observer.checkpoint_failed(str(error), fenced=False)
            return
        except CheckpointFenced as error:
            self._observer.checkpoint_failed(str(error), fenced=True)
            for worker in workers:
                if error.partitions is None or worker.partition in error.partitions:
                    self.fence(worker)
            if error.partitions is None:
                return
            failed = error.failed
            if failed:
                self._observer.checkpoint_failed("; ".join(failed.values()), fenced=False)
            if len(error.partitions) + len(failed) == len(positions):
                return
        self._observer.checkpoint_stored(len(positions), self._clock.now() - started)
        for worker in workers:
            if not worker.is_discarded and worker.partition not in failed:
                self._stored[worker] = positions[worker.partition]
                worker.stored_sequence, stored = heads[worker]
                worker.stored_records = max(stored, worker.stored_records)
