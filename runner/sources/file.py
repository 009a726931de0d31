"""The file source: a directory is a topic, its files ``<n>.jsonl`` are the partitions, their lines the records.

A record's position is the byte offset of its line. Only complete lines are read: what follows the last newline is not
yet there, with ``stop_at_end`` too. ``runner.clients.lines`` says what a line holds. Blank lines are passed over.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar, TypeVarTuple, Unpack
from urllib.parse import quote

import anyio
from anyio.to_thread import run_sync

from runner.model import Backlog, Fetched, Partition, Position, Problem, Reason
from runner.ports import CheckpointFailed, CheckpointFenced, SourceError, SourceListener
from runner.sources.file_checkpoints import (
    HEAD_BYTES,
    NO_HEAD,
    CheckpointFile,
    CheckpointsInUse,
    CheckpointsUnreadable,
    Head,
    StoredCheckpoint,
)
from runner.sources.file_reader import (
    Look,
    Signature,
    Wanted,
    end_of_lines,
    head_at,
    look,
    partition_numbers,
    partition_path,
    starting_position_in,
)
from runner.sources.starting import StartingPosition

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

FETCH_WAIT: Final = 1.0
"""Seconds that a fetch waits for records."""

_RELEASE_LIMIT: Final = 5.0


class _Assignment:
    """One ownership of a partition's file; never reused by the next."""

    def __init__(self, partition: Partition, path: Path, checkpoint: StoredCheckpoint, stop_at: int) -> None:
        self.partition = partition
        self.path = path
        self.position = checkpoint.position
        self.head = checkpoint.head
        self.stop_at = stop_at
        self.sequence = 0
        self.start = b""
        self.idle: Signature | None = None
        self.counted_to = checkpoint.position
        self.counted = 0
        self.backlog: Backlog | None = None
        self.problem: Problem | None = None

    @property
    def caught_up(self) -> bool:
        """The backlog is None until the file was once seen to be the one that the checkpoint is of."""
        return self.backlog is not None and self.problem is None and self.position >= self.stop_at

    def wanted(self) -> Wanted:
        return Wanted(
            self.partition,
            self.path,
            self.position,
            self.head,
            self.sequence,
            self.idle,
            self.counted_to,
            self.counted,
        )

    def advance(self, seen: Look, now: float) -> Fetched | None:
        """Take over what a look brought; None when it is nothing new."""
        moved = seen.next_position != self.position
        self.position = seen.next_position
        self.sequence += len(seen.records)
        self.idle, self.counted_to, self.counted = seen.idle, seen.counted_to, seen.counted
        self.backlog = Backlog(seen.ahead, now)
        if seen.start is not None:
            self.start = seen.start
            self.head = Head.of(seen.start)
        return Fetched(self.partition, seen.records, seen.next_position, seen.size) if moved else None

    def checkpoint_at(self, position: int) -> StoredCheckpoint:
        length = min(HEAD_BYTES, position)
        return StoredCheckpoint(position, Head.of(self.start[:length]) if len(self.start) >= length else self.head)


class FileSource:
    """Follows the partition files of ``directory``. Times are in seconds; ``now`` gives those since the epoch.

    ``checkpoint_file`` is ``<directory>/.stream-runner/<name>.json`` when None; one runner at a time may hold it.
    """

    def __init__(
        self,
        *,
        name: str,
        directory: Path,
        now: Callable[[], float],
        checkpoint_file: Path | None = None,
        poll_interval: float = 0.2,
        starting_position: StartingPosition = StartingPosition.TRIM_HORIZON,
        starting_timestamp: float | None = None,
        on_data_loss: Literal["fail", "continue"] = "fail",
        stop_at_end: bool = False,
        maximum_fetch_records: int = 500,
        maximum_fetch_bytes: int = 1 << 20,
    ) -> None:
        self._name = name
        self._directory = directory.absolute() if directory.name not in ("", "..") else directory.resolve()
        self._now = now
        path = checkpoint_file or self._directory / ".stream-runner" / f"{quote(name, safe=' ')}.json"
        self._checkpoints = CheckpointFile(path)
        self._poll_interval = poll_interval
        self._starting_position = starting_position
        self._starting_timestamp = starting_timestamp
        self._on_data_loss = on_data_loss
        self._stop_at_end = stop_at_end
        self._maximum_fetch_records = maximum_fetch_records
        self._maximum_fetch_bytes = maximum_fetch_bytes
        self._listener: SourceListener | None = None
        self._assignments: dict[Partition, _Assignment] = {}
        self._paused: set[Partition] = set()
        self._joined = False
        self._next_poll = 0.0
        self._next_scan = 0.0
        self._first = 0
        self._resumed = anyio.Event()
        # Our own, so that handlers that block their threads never keep a fetch or a checkpoint from running.
        self._threads = anyio.CapacityLimiter(2)

    @property
    def topic(self) -> str:
        """The directory's name."""
        return self._directory.name

    @property
    def description(self) -> str:
        return str(self._directory)

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
            and all(assignment.caught_up for assignment in self._assignments.values())
        )

    async def open(self, listener: SourceListener) -> None:
        """Raises SourceError: no such directory, another runner, checkpoints that cannot be read or written."""
        self._listener = listener
        numbers = await self._in_thread(self._scan)
        try:
            assignments = await self._in_thread(self._resolve, numbers)
        except (CheckpointsInUse, CheckpointsUnreadable, OSError) as error:
            await self._in_thread(self._checkpoints.release)
            raise SourceError(self._checkpoint_problem(error)) from error
        self._assign(assignments)

    async def fetch(self) -> Sequence[Fetched]:
        """Raises SourceError: the directory is gone, the start of a new partition cannot be stored."""
        deadline = anyio.current_time() + FETCH_WAIT
        while True:
            now = anyio.current_time()
            if now >= self._next_poll:
                was_caught_up = self.caught_up
                fetched = await self._poll()
                # Where something came there may be more: it is not waited for.
                self._next_poll = 0.0 if fetched else now + self._poll_interval
                if fetched or self.caught_up != was_caught_up:  # the caller waits for either
                    return fetched
            wait = min(self._next_poll, deadline) - anyio.current_time()
            if anyio.current_time() >= deadline:
                return []
            with anyio.move_on_after(wait):
                await self._resumed.wait()

    def pause(self, partition: Partition) -> None:
        if partition in self._assignments:
            self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)
        self._next_poll = 0.0
        self._resumed.set()
        self._resumed = anyio.Event()

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        checkpoints: dict[int, StoredCheckpoint] = {}
        for partition, position in positions.items():
            assignment = self._assignments.get(partition)
            if assignment is None:
                raise CheckpointFenced(f"{partition} is not ours")
            assert isinstance(position, int), "positions of files are byte offsets"
            checkpoints[partition.number] = assignment.checkpoint_at(position)
        try:
            await self._in_thread(self._checkpoints.update, checkpoints)
        except CheckpointsInUse as error:
            raise CheckpointFenced(f"the source is closed: {error}") from error
        except OSError as error:
            raise CheckpointFailed(f"cannot write {self._checkpoints.path}: {error}") from error

    def backlog(self, partition: Partition) -> Backlog | None:
        assignment = self._assignments.get(partition)
        return None if assignment is None else assignment.backlog

    async def close(self) -> None:
        self._assignments.clear()
        self._paused.clear()
        self._joined = False
        # In a thread, because a checkpoint that is still being written holds the file; abandoned, because it may hang.
        with anyio.move_on_after(_RELEASE_LIMIT, shield=True):
            await run_sync(self._checkpoints.release, abandon_on_cancel=True, limiter=self._threads)

    async def _in_thread(self, call: Callable[[Unpack[Arguments]], Result], *arguments: *Arguments) -> Result:
        return await run_sync(call, *arguments, limiter=self._threads)

    def _scan(self) -> list[int]:
        """The numbers of the partitions. Blocking. Raises SourceError when there is no such directory."""
        try:
            numbers = partition_numbers(self._directory)
            strangers = [] if numbers else sorted([path.name for path in self._directory.glob("*.jsonl")])
        except (FileNotFoundError, NotADirectoryError) as error:
            text = f"there is no directory {self._directory}"
            raise SourceError(Problem(Reason.EVENT_SOURCE_NOT_FOUND, text, self._did_you_mean())) from error
        except OSError as error:
            denied = isinstance(error, PermissionError)
            reason = Reason.EVENT_SOURCE_AUTHZ_ERROR if denied else Reason.EVENT_SOURCE_UNREACHABLE
            raise SourceError(Problem(reason, f"cannot read the directory {self._directory}: {error}")) from error
        if strangers:
            text = f"{self._directory} holds no partition, but {strangers[0]}"
            hint = "partitions are files 0.jsonl, 1.jsonl, ...: rename it"
            raise SourceError(Problem(Reason.EVENT_SOURCE_NOT_FOUND, text, hint))
        return numbers

    def _did_you_mean(self) -> str:
        try:
            siblings = [path.name for path in self._directory.parent.iterdir() if path.is_dir()]
        except OSError as error:
            return f"create it: it is the topic; beside it nothing can be listed either: {error}"
        close = difflib.get_close_matches(self._directory.name, siblings, n=1)
        return f"did you mean {self._directory.parent / close[0]}?" if close else "create it: it is the topic"

    def _resolve(self, numbers: Sequence[int]) -> list[_Assignment]:
        """Take the checkpoints, and store the starting position of every partition that has none. Blocking."""
        stored = self._checkpoints.acquire()
        # Beside others with checkpoints, a partition without one is new: all of it is wanted.
        start = self._starting_position if stored is None else StartingPosition.TRIM_HORIZON
        starts: dict[int, StoredCheckpoint] = {}
        for number in numbers:
            if stored is None or number not in stored:
                path = partition_path(self._directory, number)
                position = starting_position_in(path, start, self._starting_timestamp)
                starts[number] = StoredCheckpoint(position, head_at(path, position))
        if starts or stored is None:
            self._checkpoints.update(starts)
        present = set(numbers)
        return [
            self._assignment(number, checkpoint, number in present and self._stop_at_end)
            for number, checkpoint in sorted({**(stored or {}), **starts}.items())
        ]

    def _assignment(self, number: int, checkpoint: StoredCheckpoint, find_end: bool = False) -> _Assignment:
        path = partition_path(self._directory, number)
        stop_at = end_of_lines(path) if find_end else 0
        return _Assignment(Partition(self.topic, number), path, checkpoint, stop_at)

    def _checkpoint_problem(self, error: Exception) -> Problem:
        if isinstance(error, CheckpointsInUse):
            hint = "stop that runner, or give one of the two another mapping name or checkpoint_file"
            return Problem(Reason.DUPLICATE_MEMBER, str(error), hint)
        if isinstance(error, CheckpointsUnreadable):
            hint = "restore the file, or delete it to begin at the starting position"
            return Problem(Reason.EVENT_SOURCE_UNREADABLE, str(error), hint)
        denied = isinstance(error, PermissionError)
        reason = Reason.EVENT_SOURCE_AUTHZ_ERROR if denied else Reason.EVENT_SOURCE_UNREACHABLE
        text = f"cannot keep the checkpoints of {self._directory} in {self._checkpoints.path}: {error}"
        return Problem(reason, text, "set checkpoint_file to a place that can be written")

    def _assign(self, assignments: Sequence[_Assignment]) -> None:
        assert self._listener is not None
        self._assignments |= {assignment.partition: assignment for assignment in assignments}
        self._joined = True
        self._listener.assigned([assignment.partition for assignment in assignments])

    async def _begin_at_zero(self, numbers: Sequence[int]) -> None:
        """Assign partitions anew, from their files' start."""
        starts = {number: StoredCheckpoint(0, NO_HEAD) for number in numbers}
        try:
            await self._in_thread(self._checkpoints.update, starts)
        except (CheckpointsInUse, OSError) as error:
            raise SourceError(self._checkpoint_problem(error)) from error
        self._assign([self._assignment(number, checkpoint) for number, checkpoint in starts.items()])

    async def _poll(self) -> list[Fetched]:
        now = anyio.current_time()
        if now >= self._next_scan:
            numbers = await self._in_thread(self._scan)
            self._next_scan = now + self._poll_interval
            new = [number for number in numbers if Partition(self.topic, number) not in self._assignments]
            if new:
                await self._begin_at_zero(new)
        due = [each.wanted() for partition, each in self._assignments.items() if partition not in self._paused]
        if not due:
            return []
        self._first = (self._first + 1) % len(due)
        due = due[self._first :] + due[: self._first]
        looks = await self._in_thread(self._look, due)
        return await self._take_over(looks)

    def _look(self, due: Sequence[Wanted]) -> list[Look]:
        """Look at partitions until the fetch is full. Blocking."""
        looks: list[Look] = []
        records, size = self._maximum_fetch_records, self._maximum_fetch_bytes
        for wanted in due:
            if records <= 0 or size <= 0:
                break
            looks.append(look(wanted, records, size))
            records -= len(looks[-1].records)
            size -= looks[-1].size
        return looks

    async def _take_over(self, looks: Sequence[Look]) -> list[Fetched]:
        lost = [seen for seen in looks if seen.lost is not None and seen.partition in self._assignments]
        if lost and self._on_data_loss == "continue":
            # The others of these looks are dropped, and done again later: letting go may take its time.
            for seen in lost:
                await self._pass_over_loss(seen)
            return []
        fetched: list[Fetched] = []
        for seen in looks:
            assignment = self._assignments.get(seen.partition)
            if assignment is None or seen.partition in self._paused:  # it changed while a thread was looking
                continue
            problem = seen.problem if seen.lost is None else _data_loss(seen)
            self._tell(assignment, problem)
            if problem is None and (brought := assignment.advance(seen, self._now())):
                fetched.append(brought)
        return fetched

    async def _pass_over_loss(self, seen: Look) -> None:
        """Another file is another history of the partition: what is left of the old one is let go first, so that no
        position of it is ever taken for one of the new."""
        assert self._listener is not None
        partition = seen.partition
        stop_at = self._assignments[partition].stop_at
        await self._listener.revoked([partition])
        self._assignments.pop(partition, None)
        self._paused.discard(partition)
        await self._begin_at_zero([partition.number])
        self._assignments[partition].stop_at = stop_at
        self._listener.data_lost(partition, seen.next_position, 0, None)

    def _tell(self, assignment: _Assignment, problem: Problem | None) -> None:
        if problem != assignment.problem:
            assert self._listener is not None
            assignment.problem = problem
            self._listener.partition_problem(assignment.partition, problem)


def _data_loss(seen: Look) -> Problem:
    hint = "bring the file back, or set on_data_loss: continue to begin at the start of what is there"
    return Problem(Reason.DATA_LOSS, seen.lost or "", hint)
