"""Dead letters on their way to the destination."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.abc

from runner.core.retry import RetryPolicy
from runner.engine.lane import Lane
from runner.engine.policy import MappingPolicy
from runner.engine.stored import StoredLetters
from runner.model import DeadLetter, GiveUp, Partition, Problem, Reason, Record
from runner.ports import (
    AcknowledgesRecords,
    CheckpointFailed,
    CheckpointFenced,
    Clock,
    Destination,
    DestinationError,
    Observer,
    Source,
    StoresOnce,
)

_RETRY = RetryPolicy(initial_backoff=0.5, maximum_backoff=10.0)


@dataclass(slots=True, eq=False)
class _Pending:
    """What a lane gave up and waits for; ``letters`` are those not stored yet."""

    lane: Lane
    letters: list[DeadLetter]
    tries: int = 0
    not_before: float = 0.0


@dataclass(slots=True, eq=False)
class _Queue:
    """What one partition has on its way, in the order in which it was given up; there as long as there is any."""

    items: list[_Pending] = field(default_factory=list)
    arrived: anyio.Event = field(default_factory=anyio.Event)


class Letters:
    """Stores what lanes give up, all of a partition that is due in one call; a letter that is stored is settled at
    once, and its lane goes on when all its letters are.

    Partitions do not wait for each other, since the destination may hang for one of them; of one partition, whatever
    its assignment, one call follows another, so that its letters keep their order. What could not be stored is tried
    again with backoff, for ever: a checkpoint never passes it. Holds no permit.
    """

    def __init__(
        self,
        destination: Destination | None,
        policy: MappingPolicy,
        source: Source,
        keeper: AcknowledgesRecords | None,
        clock: Clock,
        observer: Observer,
        jitter: Callable[[], float],
    ) -> None:
        """``keeper``: the source, where records may become another consumer's."""
        self._destination = destination
        self._policy = policy
        self._source = source
        self._keeper = keeper
        self._clock = clock
        self._observer = observer
        self._jitter = jitter
        self._queues: dict[Partition, _Queue] = {}
        # A destination may lose what it had confirmed: where it looks itself, our memory would only keep it from that.
        self._stored: StoredLetters | None = None if _stores_once(destination) else StoredLetters()
        self._group: anyio.abc.TaskGroup | None = None
        self._on_stored: Callable[[], None] = lambda: None
        self.problem: Problem | None = None

    def give_up(self, lane: Lane, step: GiveUp) -> bool:
        """True: there is no destination, so the records are dropped by policy."""
        letters = self._letters(step)
        if self._destination is None:
            for letter in letters:
                self._observer.given_up(letter, stored=False)
            return True
        partition = lane.worker.partition
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = _Queue()
            if self._group is not None:
                self._group.start_soon(self._empty, partition, queue)
        queue.items.append(_Pending(lane, letters))
        queue.arrived.set()
        return False

    async def run(self, on_stored: Callable[[], None]) -> None:
        """``on_stored`` is called when lanes may have become ready."""
        self._on_stored = on_stored
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                for partition, queue in self._queues.items():
                    group.start_soon(self._empty, partition, queue)
                while True:
                    await anyio.sleep(self._policy.commit_interval)
                    if self._stored is not None:
                        self._stored.forget_checkpointed()
        finally:
            self._group = None

    async def _empty(self, partition: Partition, queue: _Queue) -> None:
        while True:
            queue.arrived = anyio.Event()
            # The lanes of an assignment that is over do not wait any more: its records come again.
            now = self._clock.now()
            queue.items = [item for item in queue.items if item.lane.worker.holds_lease(now)]
            if not queue.items:
                del self._queues[partition]
                self._report(None)
                return
            due = [item for item in queue.items if item.not_before <= now]
            if due:
                # Asked only now: a letter of an earlier assignment may have been under way until a moment ago.
                if not self._settle_stored(queue, due, now) and await self._are_ours(partition, queue, due):
                    await self._store(queue, due)
                self._on_stored()
                continue
            with anyio.move_on_after(min(item.not_before for item in queue.items) - now):
                await queue.arrived.wait()

    async def _are_ours(self, partition: Partition, queue: _Queue, due: Sequence[_Pending]) -> bool:
        """Whether all of ``due`` are ours to give up. If not, the others are not pending any more, or it is not known
        now and asked again later."""
        if self._keeper is None:
            return True
        try:
            ours = iter(
                await self._keeper.still_ours(partition, [letter.record for item in due for letter in item.letters])
            )
        except (CheckpointFailed, CheckpointFenced) as failure:
            for item in due:
                self._try_later(item)
            self._report(DestinationError(f"not known whether they are still ours: {failure}"))
            return False
        now = self._clock.now()
        all_ours = True
        for item in due:
            kept, gone = _split(item.letters, ours)
            if gone:
                all_ours = False
                self._drop(queue, item, kept)
                item.lane.worker.on_taken(item.lane, [letter.record for letter in gone], now)
        return all_ours

    def _try_later(self, item: _Pending) -> None:
        item.tries += 1
        item.not_before = self._clock.now() + _RETRY.backoff(item.tries, self._jitter())

    def _drop(self, queue: _Queue, item: _Pending, left: list[DeadLetter]) -> None:
        item.letters = left
        if not left:
            queue.items.remove(item)

    async def _store(self, queue: _Queue, due: Sequence[_Pending]) -> None:
        assert self._destination is not None
        results = iter(await self._destination.store([letter for item in due for letter in item.letters]))
        now = self._clock.now()
        failure: DestinationError | None = None
        for item in due:
            stored: list[Record] = []
            failed: list[DeadLetter] = []
            for letter in item.letters:
                error = next(results)
                if error is None:
                    stored.append(letter.record)
                    if self._stored is not None:
                        self._stored.add(letter.record, item.lane.worker)
                    self._observer.given_up(letter, stored=True)
                else:
                    failed.append(letter)
                    failure = error
            self._drop(queue, item, failed)
            if failed:
                self._try_later(item)
            if stored:
                item.lane.worker.on_stored(item.lane, stored, now)
        self._report(failure)

    def _settle_stored(self, queue: _Queue, due: Sequence[_Pending], now: float) -> bool:
        """Whether an earlier assignment had stored some of ``due``: these are settled, and are not pending any more."""
        known = self._stored
        if known is None or not any(letter.record in known for item in due for letter in item.letters):
            return False
        known.forget_checkpointed()
        found = False
        for item in due:
            stored = [letter.record for letter in item.letters if letter.record in known]
            if not stored:
                continue
            found = True
            self._drop(queue, item, [letter for letter in item.letters if letter.record not in known])
            for record in stored:
                known.add(record, item.lane.worker)
            item.lane.worker.on_stored(item.lane, stored, now)
        return found

    def _report(self, failure: DestinationError | None) -> None:
        if failure is None and self.problem is None:
            return
        pending = [item for queue in self._queues.values() for item in queue.items if not item.lane.worker.is_discarded]
        if failure is None:
            if not any(item.tries for item in pending):
                self.problem = None
            return
        waiting = sum(len(item.letters) for item in pending)
        self.problem = Problem(
            Reason.DESTINATION_UNAVAILABLE,
            f"{waiting} dead letters cannot be stored: {failure}",
            "the checkpoint waits for them; it goes on by itself when the destination takes them",
        )
        self._observer.destination_failed(str(failure), waiting)

    def _letters(self, step: GiveUp) -> list[DeadLetter]:
        now_ms = int(self._clock.now() * 1000)
        return [
            DeadLetter(
                record=record,
                mapping=self._policy.name,
                function=self._policy.function,
                condition=step.condition,
                attempts=attempts,
                error=step.error,
                given_up_at_ms=now_ms,
                source=self._source.description,
                group=self._source.group,
            )
            for record, attempts in zip(step.records, step.attempts, strict=True)
        ]


def _stores_once(destination: object) -> bool:
    return isinstance(destination, StoresOnce) and destination.stores_once


def _split(letters: Sequence[DeadLetter], ours: Iterator[bool]) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """Those that are ours, and the others; ``ours`` answers for each of them, and perhaps for more."""
    sides: tuple[list[DeadLetter], list[DeadLetter]] = [], []
    for letter in letters:
        sides[not next(ours)].append(letter)
    return sides
