"""One stream from taking its lease to letting it go: where it begins, what was lost of it, and reading it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from runner.clients.redis_entries import following_id, previous_id
from runner.clients.redis_errors import RedisFailure, problem_of
from runner.core.lease import HeldLease
from runner.model import Lease, Partition, Position, Problem, Reason
from runner.ports import SourceListener
from runner.sources.redis_leases import Taken
from runner.sources.redis_scripts import CREATE_GROUP, INSPECT, NOTE
from runner.sources.redis_start import (
    FIRST_ID,
    CheckpointMissing,
    Known,
    Lost,
    Stream,
    checkpoint_of,
    first_checkpoint,
    lost_entries,
    read_inspection,
)
from runner.sources.redis_stream import BEGINNING, AssignmentOver, OwnedStream
from runner.sources.starting import StartingPosition

_LOOK_PAUSE: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class StartPolicy:
    """Where to begin, and what to do about what is gone. ``starting_timestamp`` is in seconds since the epoch."""

    server: str
    starting: StartingPosition
    starting_timestamp: float | None
    continue_after_loss: bool


@dataclass(slots=True)
class Memory:
    """What this process knows of a stream, whatever the server may have forgotten; it outlives each holding."""

    checkpoint: str | None = None
    was_absent: bool = False


class Holding:
    """Made when a lease was taken; never reused. ``tell`` is told what keeps the stream from being read."""

    def __init__(
        self,
        taken: Taken,
        owned: OwnedStream,
        policy: StartPolicy,
        memory: Memory,
        listener: SourceListener,
        tell: Callable[[Problem | None], None],
    ) -> None:
        self.place = taken.place
        self.owned = owned
        self.memory = memory
        self.task: asyncio.Task[None] | None = None
        self.is_assigned = False
        self.is_leaving = False
        self.is_writing = False
        self.was_tried = False  # there is a reason why it is not assigned yet, and it was told
        self._taken = taken
        self._policy = policy
        self._listener = listener
        self._tell = tell
        self._lost = taken.lost
        owned.on_trimmed = self._on_trimmed
        owned.on_acknowledged = self._on_acknowledged

    @property
    def partition(self) -> Partition:
        return self.place.partition

    @property
    def is_read(self) -> bool:
        return self.is_assigned and not self.is_leaving

    @property
    def has_reached_its_end(self) -> bool:
        return self.is_assigned and self.owned.has_reached_its_end

    def assign(self) -> None:
        """The stream may be read: the listener is told."""
        self.is_assigned = True
        self._listener.assigned([self.partition])
        self.tell_lease(self._taken.lease)

    def tell_lease(self, lease: HeldLease) -> None:
        if self.is_assigned:
            self._listener.leased(self.partition, Lease(lease.generation, lease.until))

    # --- beginning

    async def prepare(self, on_tried: Callable[[], None]) -> None:
        """Returns when the group is there and the stream may be read. Raises AssignmentOver."""
        while True:
            try:
                problem = await self._try_to_prepare()
            except RedisFailure as failure:
                problem = problem_of(failure, self._policy.server)
            except AssignmentOver as over:
                if over.problem is None:
                    raise
                problem = over.problem  # it would be met again at once: nothing was read yet
            self._tell(problem)
            if problem is None:
                return
            self.was_tried = True
            on_tried()
            await anyio.sleep(_LOOK_PAUSE)

    async def _try_to_prepare(self) -> Problem | None:
        stream = await self._inspect()
        if stream is None:
            return await self._on_absent()
        if stream.group is None:
            return await self._make_group(stream)
        lost = lost_entries(stream)
        if lost is not None and lost.total > self._lost:
            return await self._on_loss(lost)
        self.owned.begin(
            stream.group.last_delivered, checkpoint_of(stream.group) if self._taken.checkpoint is None else None
        )
        return None

    async def _inspect(self) -> Stream | None:
        """None: there is no such stream."""
        reply = await self.owned.call(INSPECT, self.place.group, allowed=(b"absent",))
        return None if reply[0] == b"absent" else read_inspection(reply)

    async def _on_absent(self) -> Problem:
        if not self.memory.was_absent:
            # Whatever it was: all that a stream of this name will ever have is still to come.
            await self.owned.call(NOTE, b"checkpoint", FIRST_ID.encode())
            self.memory.was_absent = True
        return absent(self.partition, self._policy.server)

    async def _make_group(self, stream: Stream) -> Problem | None:
        memory, taken, policy = self.memory, self._taken, self._policy
        known = Known(
            checkpoint=memory.checkpoint or taken.checkpoint,
            was_owned=taken.was_owned or memory.checkpoint is not None,
            was_absent=memory.was_absent,
        )
        try:
            checkpoint = first_checkpoint(stream, known, policy.starting, policy.starting_timestamp)
        except CheckpointMissing:
            if not policy.continue_after_loss:
                return Problem(
                    Reason.DATA_LOSS,
                    f"the group of {self.partition.topic!r} is gone, and so is how far it had read",
                    "set on_data_loss: continue to begin at the stream's first entry, or make the group by hand",
                )
            checkpoint = FIRST_ID
            self._listener.data_lost(self.partition, BEGINNING, checkpoint, None)
        await self.owned.call(CREATE_GROUP, self.place.group, previous_id(checkpoint).encode(), checkpoint.encode())
        memory.was_absent = False
        self.owned.begin(previous_id(checkpoint), None)
        return None

    # --- what is gone

    async def _on_loss(self, lost: Lost) -> Problem | None:
        entries = lost.total - self._lost
        if not self._policy.continue_after_loss:
            return Problem(
                Reason.DATA_LOSS,
                f"{entries} entries of {self.partition.topic!r} were trimmed before they were read: "
                f"{lost.first} to {lost.next_available}",
                "set on_data_loss: continue to go on without what is lost",
            )
        await self.owned.call(NOTE, b"lost", b"%d" % lost.total)
        self._lost = lost.total
        self._listener.data_lost(self.partition, lost.first, lost.next_available, entries)
        return None

    def _on_acknowledged(self, records: int) -> None:
        if self.is_assigned:
            self._listener.acknowledged(self.partition, records)

    def _on_trimmed(self, positions: list[Position]) -> None:
        """Pending entries are not in the stream any more."""
        first, last = str(positions[0]), str(positions[-1])
        self._listener.data_lost(self.partition, first, following_id(last), len(positions))

    async def write_attempts(self) -> None:
        """Once; what cannot be written now is written with the next checkpoint."""
        try:
            await self.owned.write_attempts()
        except (AssignmentOver, RedisFailure):
            return  # whoever reads the stream meets the same
        finally:
            self.is_writing = False

    async def look(self) -> None:
        """Learn how far the end is, and whether something was trimmed before it was read. Failures are left to who
        reads the stream: it meets the same."""
        try:
            stream = await self._inspect()
            if stream is None or stream.group is None:
                return
            self.owned.note_lag(stream.group.lag)
            lost = lost_entries(stream)
            if lost is None or lost.total <= self._lost:
                return
            problem = await self._on_loss(lost)
        except (AssignmentOver, RedisFailure):
            return
        self._tell(problem)
        if problem is not None:
            self.owned.stop_reading()


def absent(partition: Partition, server: str) -> Problem:
    """The problem of a stream that is not there."""
    return Problem(
        Reason.EVENT_SOURCE_NOT_FOUND,
        f"there is no stream {partition.topic!r} on {server}",
        "check its name; it is read from its first entry on as soon as it has one",
    )
