"""A source that reads a stream in memory; its rebalances and faults are the test's to command."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import anyio
import msgspec

from runner.model import NO_TIMESTAMP, Backlog, Fetched, Headers, Partition, Position, Problem, Reason, Record
from runner.ports import CheckpointFailed, CheckpointFenced, SourceListener
from runner.sources.starting import StartingPosition
from runner.testing.stream import Log, MemoryStream

FETCH_WAIT = 1.0
"""Seconds that a fetch waits for records."""


class _Assignment:
    """One ownership of a partition; never reused by the next."""

    __slots__ = ("at_end", "log", "position", "problem", "sequence", "stop_at")

    def __init__(self, log: Log, position: int, stop_at: int) -> None:
        self.log = log
        self.position = position
        self.stop_at = stop_at
        self.sequence = 0
        self.problem: Problem | None = None
        self.at_end: Backlog | None = None


class MemorySource:
    """Reads a MemoryStream. ``open`` assigns every partition, or, with ``assign=()``, those that ``rebalance`` names.

    ``fetch_faults`` and ``checkpoint_faults`` are raised by the next calls, one each. ``now`` gives seconds since the
    epoch; fetches wait on the event loop's own clock.
    """

    def __init__(
        self,
        stream: MemoryStream,
        *,
        now: Callable[[], float],
        name: str = "memory",
        starting_position: StartingPosition = StartingPosition.TRIM_HORIZON,
        starting_timestamp: float | None = None,
        on_data_loss: Literal["fail", "continue"] = "fail",
        stop_at_end: bool = False,
        maximum_fetch_records: int = 500,
        assign: Collection[Partition] | None = None,
    ) -> None:
        self.stream = stream
        self.fetch_faults: deque[Exception] = deque()
        self.checkpoint_faults: deque[Exception] = deque()
        self._name = name
        self._now = now
        self._starting_position = starting_position
        self._starting_timestamp = starting_timestamp
        self._on_data_loss = on_data_loss
        self._stop_at_end = stop_at_end
        self._maximum_fetch_records = maximum_fetch_records
        self._assign = assign
        self._listener: SourceListener | None = None
        self._assignments: dict[Partition, _Assignment] = {}
        self._paused: set[Partition] = set()
        self._revoking: set[Partition] = set()
        self._joined = False
        self._checkpoints_held: anyio.Event | None = None

    @property
    def description(self) -> str:
        return f"memory://{self.stream.topic}"

    @property
    def group(self) -> str:
        return self._name

    @property
    def joined(self) -> bool:
        return self._joined

    @property
    def caught_up(self) -> bool:
        return (
            self._stop_at_end
            and self._joined
            and all(assignment.position >= assignment.stop_at for assignment in self._assignments.values())
        )

    @property
    def assigned(self) -> Collection[Partition]:
        """The partitions that are this source's now."""
        return self._assignments.keys()

    @property
    def paused(self) -> Collection[Partition]:
        return frozenset(self._paused)

    def append(
        self,
        partition: Partition | int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> int:
        """Append a record to the stream; returns its position."""
        return self.stream.append(partition, key, value, headers, timestamp_ms)

    def hold_checkpoints(self) -> None:
        """Let every checkpoint wait, until ``release_checkpoints`` or its caller's time is over."""
        self._checkpoints_held = anyio.Event()

    def release_checkpoints(self) -> None:
        if self._checkpoints_held is not None:
            self._checkpoints_held.set()
            self._checkpoints_held = None

    async def rebalance(self, partitions: Collection[Partition]) -> None:
        """Own exactly ``partitions``: those that must go are revoked, then those that are new are assigned."""
        assert self._listener is not None, "the source is not open"
        going = [partition for partition in self._assignments if partition not in partitions]
        if going:
            self._revoking.update(going)
            await self._listener.revoked(going)
            self._drop(going)
        self._take([partition for partition in partitions if partition not in self._assignments])

    async def open(self, listener: SourceListener) -> None:
        self._listener = listener
        self._take(self.stream.partitions if self._assign is None else self._assign)

    async def fetch(self) -> Sequence[Fetched]:
        if self.fetch_faults:
            raise self.fetch_faults.popleft()
        fetched = self._collect()
        if not fetched:
            await self.stream.wait_for_change(FETCH_WAIT)
            fetched = self._collect()
        return fetched

    def pause(self, partition: Partition) -> None:
        if partition in self._assignments:
            self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)
        self.stream.changed()

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        if self._checkpoints_held is not None:
            await self._checkpoints_held.wait()
        if self.checkpoint_faults:
            raise self.checkpoint_faults.popleft()
        if not self.stream.available:
            raise CheckpointFailed("the stream is not available")
        for partition in positions:
            if partition not in self._assignments or self.stream.owners.get(partition) is not self:
                raise CheckpointFenced(f"{partition} is not ours")
        self.stream.store(positions)

    def backlog(self, partition: Partition) -> Backlog | None:
        assignment = self._assignments.get(partition)
        return None if assignment is None else assignment.at_end

    async def close(self) -> None:
        self._drop(list(self._assignments))
        self._joined = False

    def _take(self, partitions: Collection[Partition]) -> None:
        assert self._listener is not None
        starts = {
            partition: self._start_of(self.stream.log(partition))
            # At the first start every partition gets its starting position, whoever reads it.
            for partition in (partitions if self.stream.checkpoints else self.stream.partitions)
            if partition not in self.stream.checkpoints
        }
        if starts:
            self.stream.store(starts)
        for partition in partitions:
            log, position = self.stream.log(partition), self.stream.checkpoints[partition]
            assert isinstance(position, int)
            self._assignments[partition] = _Assignment(log, position, log.end)
            self.stream.owners[partition] = self
        self._joined = True
        self._listener.assigned(partitions)

    def _drop(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            del self._assignments[partition]
            self._paused.discard(partition)
            self._revoking.discard(partition)
            if self.stream.owners.get(partition) is self:
                del self.stream.owners[partition]

    def _start_of(self, log: Log) -> int:
        # A partition that appears beside others with checkpoints is new: all of it is wanted.
        if self.stream.checkpoints or self._starting_position is StartingPosition.TRIM_HORIZON:
            return log.start
        if self._starting_position is StartingPosition.AT_TIMESTAMP:
            assert self._starting_timestamp is not None
            for record in log.records:
                if record.timestamp_ms >= self._starting_timestamp * 1000:
                    assert isinstance(record.position, int)
                    return record.position
        return log.end

    def _collect(self) -> list[Fetched]:
        fetched: list[Fetched] = []
        if not self.stream.available:
            return fetched
        for partition, assignment in list(self._assignments.items()):
            if partition not in self._paused and partition not in self._revoking and self._may_read(assignment):
                chunk = self._read(partition, assignment)
                if chunk is not None:
                    fetched.append(chunk)
        return fetched

    def _may_read(self, assignment: _Assignment) -> bool:
        """Deal with what is lost, and with what cannot be read."""
        log = assignment.log
        problem: Problem | None = None
        if not log.start <= assignment.position <= log.end:
            text = f"position {assignment.position} of {log.partition} is gone: {log.start} to {log.end} is there"
            if self._on_data_loss == "continue":
                self._pass_over_loss(assignment)
            else:
                problem = Problem(Reason.DATA_LOSS, text, "set on_data_loss: continue to go on without what is lost")
        elif log.unreadable == assignment.position:
            problem = Problem(Reason.EVENT_SOURCE_UNREADABLE, f"position {log.unreadable} cannot be read")
        if problem != assignment.problem:
            assignment.problem = problem
            assert self._listener is not None
            self._listener.partition_problem(log.partition, problem)
        return problem is None

    def _pass_over_loss(self, assignment: _Assignment) -> None:
        assert self._listener is not None
        log, first = assignment.log, assignment.position
        assignment.position = log.start
        lost = log.start - first if first < log.start else None
        self._listener.data_lost(log.partition, first, log.start, lost)

    def _read(self, partition: Partition, assignment: _Assignment) -> Fetched | None:
        log = assignment.log
        begin = log.index_of(assignment.position)
        end = min(begin + self._maximum_fetch_records, len(log.records))
        if log.unreadable is not None and log.unreadable >= assignment.position:
            end = min(end, log.index_of(log.unreadable))
        records = [
            msgspec.structs.replace(record, sequence=assignment.sequence + index)
            for index, record in enumerate(log.records[begin:end])
        ]
        next_position = self._position_after(log, end)
        if next_position == assignment.position:
            assignment.at_end = Backlog(len(log.records) - begin, self._now())
            return None
        assignment.position = next_position
        assignment.sequence += len(records)
        assignment.at_end = Backlog(len(log.records) - end, self._now())
        return Fetched(partition, records, next_position, sum([record.size for record in records]))

    @staticmethod
    def _position_after(log: Log, end: int) -> int:
        """The position behind the records before index ``end``, and behind the holes that follow them."""
        following: Record | None = log.records[end] if end < len(log.records) else None
        if following is None:
            return log.end
        assert isinstance(following.position, int)
        return following.position
