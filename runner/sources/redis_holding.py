"""One stream from taking its lease to letting it go: where it begins, what was lost of it, and reading it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio

from runner.clients.redis_entries import following_id, previous_id
from runner.clients.redis_errors import Effect, FailureKind, RedisFailure, problem_of
from runner.model import Partition, Position, Problem, Reason
from runner.ports import SourceListener
from runner.sources.redis_attempts import Attempts
from runner.sources.redis_reader import BEGINNING, AssignmentOver, StreamReader
from runner.sources.redis_scripts import CREATE_GROUP, INSPECT, NOTE, PASS_OVER, TRIM
from runner.sources.redis_start import (
    FIRST_ID,
    CheckpointMissing,
    Known,
    Lost,
    Stream,
    checkpoint_of,
    first_checkpoint,
    read_inspection,
    read_lost,
)
from runner.sources.redis_troubles import pause_to_begin
from runner.sources.starting import StartingPosition

_TRIM_STEP: Final = 10_000
_TRIM_STEPS: Final = 100
"""How many entries one script removes at most, and how many such are run after one look: removing stops the server."""


@dataclass(frozen=True, kw_only=True)
class StartPolicy:
    """Where to begin, what to do about what is gone, and whether to remove what every group of the stream has
    acknowledged. ``starting_timestamp`` is in seconds since the epoch."""

    server: str
    starting: StartingPosition
    starting_timestamp: float | None
    continue_after_loss: bool
    trims: bool


@dataclass(slots=True)
class Memory:
    """What this process knows of a stream, whatever the server may have forgotten; it outlives each holding.

    ``was_seen``: the server has known of somebody who reads it; ``is_forgotten``: and does so no more.
    ``entries_added``: as many it had at the last look. ``told``: what was last told of entries trimmed unread.
    ``absent_fields``: those that entries should have, and of which it was told that they have not. ``attempts`` are
    what the server does not know yet."""

    checkpoint: str | None = None
    was_seen: bool = False
    is_forgotten: bool = False
    entries_added: int | None = None
    told: Lost | None = None
    absent_fields: set[bytes] = field(default_factory=set)
    attempts: Attempts = field(default_factory=Attempts)

    def learn(self, checkpoint: str | None) -> None:
        """The server keeps ``checkpoint``. Where it is lower than what was known before, something was set back, or is
        another stream under the same name: what lies between is to be read."""
        if checkpoint is not None:
            self.checkpoint = checkpoint

    def hear(self, *, was_owned: bool) -> None:
        """Whether the server knows of somebody who has, or had, the stream."""
        self.is_forgotten = self.is_forgotten or (self.was_seen and not was_owned)
        self.was_seen = self.was_seen or was_owned

    def begin_anew(self, checkpoint: str, entries_added: int | None = None) -> None:
        """What was known was of another group, or of another stream under the same name."""
        self.checkpoint = checkpoint
        self.is_forgotten = False
        self.entries_added = entries_added
        self.told = None
        self.attempts.forget_all()


class Holding:
    """Made when a lease was taken; never reused. ``tell`` is told what keeps the stream from being read."""

    def __init__(
        self,
        owned: StreamReader,
        stored: str | None,
        policy: StartPolicy,
        memory: Memory,
        listener: SourceListener,
        tell: Callable[[Problem | None], None],
    ) -> None:
        self.place = owned.place
        self.owned = owned
        self.memory = memory
        self.task: asyncio.Task[None] | None = None
        self.is_assigned = False
        self.is_leaving = False
        self.is_writing = False
        self._warned = ""  # why the last look failed, if that was told
        self.was_tried = False  # there is a reason why it is not assigned yet, and it was told
        self._policy = policy
        self._listener = listener
        self._tell = tell
        self._stored = stored
        memory.learn(stored)
        memory.attempts.begin_assignment()
        owned.attempts = memory.attempts
        owned.on_trimmed = self._on_trimmed
        owned.on_lost = self._on_lost
        owned.on_acknowledged = self._on_acknowledged
        owned.records.on_absent_field = self._on_absent_field

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
        self.tell_lease()

    def tell_lease(self) -> None:
        """The lease was taken or renewed."""
        if self.is_assigned:
            self._listener.leased(self.partition, self.owned.shown_lease)

    # --- beginning

    async def prepare(self, on_tried: Callable[[], None]) -> None:
        """Returns when the group is there and the stream may be read. Raises AssignmentOver."""
        tries = 0
        while True:
            tries += 1
            failure = None
            try:
                problem = await self._try_to_prepare()
            except RedisFailure as raised:
                failure = raised
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
            await anyio.sleep(pause_to_begin(tries, failure))

    async def _try_to_prepare(self) -> Problem | None:
        stream = await self._inspect()
        if stream is None:
            return await self._on_absent()
        if stream.group is None:
            return await self._make_group(stream)
        if stream.lost is not None and not self._policy.continue_after_loss:
            return self._loss(stream.lost)  # else it is passed over when the stream is read
        checkpoint = checkpoint_of(stream.group)
        self._notice(stream, self._stored or checkpoint)
        self.owned.begin(stream.group.last_delivered, checkpoint if self._stored is None else None)
        return None

    def _notice(self, stream: Stream, checkpoint: str) -> None:
        self.memory.learn(checkpoint)
        self.memory.is_forgotten = False
        self.memory.entries_added = stream.entries_added

    async def _inspect(self) -> Stream | None:
        """None: there is no such stream."""
        reply = await self.owned.call(INSPECT, self.place.group, allowed=(b"absent",))
        return None if reply[0] == b"absent" else read_inspection(reply)

    async def _on_absent(self) -> Problem:
        if self._stored != FIRST_ID:
            # Whatever it was: all that a stream of this name will ever have is still to come.
            await self.owned.call(NOTE, FIRST_ID.encode())
            self._stored = FIRST_ID
        self.memory.begin_anew(FIRST_ID)
        return absent(self.partition, self._policy.server)

    async def _make_group(self, stream: Stream) -> Problem | None:
        memory, policy = self.memory, self._policy
        stored = memory.checkpoint if self._stored is None else self._stored
        known = Known(stored, memory.is_forgotten, memory.entries_added)
        is_known = True
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
            is_known = False
        before = previous_id(checkpoint)
        made = await self.owned.call(
            CREATE_GROUP, self.place.group, before.encode(), checkpoint.encode(), allowed=(b"there",)
        )
        if made[0] == b"there":
            return await self._try_to_prepare()  # another has made it meanwhile
        if not is_known:
            self._listener.data_lost(self.partition, BEGINNING, checkpoint, None)
        self._stored = checkpoint
        memory.begin_anew(checkpoint, stream.entries_added)
        self.owned.begin(before, None)
        return None

    # --- what is gone

    def _on_lost(self, lost: Lost) -> None:
        """Entries were trimmed before they were read. Raises AssignmentOver where that is not to be passed over."""
        if not self._policy.continue_after_loss:
            raise self._stop_at(lost)
        entries = lost.beyond(self.memory.told)
        if entries > 0:
            self.memory.told = lost
            self._listener.data_lost(self.partition, lost.first, lost.next_available, entries)

    def _stop_at(self, lost: Lost) -> AssignmentOver:
        problem = self._loss(lost)
        return AssignmentOver(problem.text, problem)

    def _loss(self, lost: Lost) -> Problem:
        return Problem(
            Reason.DATA_LOSS,
            f"{lost.entries} entries of {self.partition.topic!r} were trimmed before they were read: "
            f"{lost.first} to {lost.next_available}",
            "set on_data_loss: continue to go on without what is lost, or move the group on: XGROUP SETID "
            f"{shlex.quote(self.partition.topic)} {shlex.quote(self.place.group.decode())} 0",
        )

    def _on_absent_field(self, name: bytes, warning: str) -> None:
        if name not in self.memory.absent_fields:
            self.memory.absent_fields.add(name)
            self._listener.source_warning(warning)

    def _on_acknowledged(self, records: int, taken: int) -> None:
        if self.is_assigned and records:
            self._listener.acknowledged(self.partition, records)
        if self.is_assigned and taken:
            self._listener.taken(self.partition, taken)

    def _on_trimmed(self, positions: Sequence[Position]) -> None:
        """Pending entries are not in the stream any more."""
        first, last = str(positions[0]), str(positions[-1])
        self._listener.data_lost(self.partition, first, following_id(last), len(positions))

    async def write_attempts(self) -> None:
        """Until all are written, or the stream is not ours any more."""
        pause: float | None = 0.0
        try:
            while pause is not None:
                await anyio.sleep(pause)
                pause = await self.owned.write_attempts()
        except AssignmentOver as over:
            self.owned.end_with(over)
        finally:
            self.is_writing = False

    async def look(self) -> None:
        """Learn how far the end is, and whether something was trimmed before it was read; remove what nobody needs any
        more. Failures are left to who reads the stream: it meets the same, unless it needs no right for it."""
        try:
            stream = await self._inspect()
            if stream is None or stream.group is None:
                return
            self._notice(stream, checkpoint_of(stream.group))
            self.owned.note_lag(stream.group.lag)
            if stream.lost is not None:
                await self._pass_over(stream.lost)
            if self._policy.trims and not await self._trim():
                return
        except AssignmentOver as over:
            self.owned.end_with(over)
        except RedisFailure as failure:
            self._warn("looked at for lag and losses", failure, "allow the user all that the documentation lists")
        else:
            self._warned = ""

    def _warn(self, what: str, failure: RedisFailure, hint: str) -> None:
        """Of a right that is missing, once for as long as it is."""
        text = f"{self.partition.topic!r} is not {what}: {failure.text}; {hint}"
        if failure.kind is FailureKind.PERMISSION and text != self._warned:
            self._warned = text
            self._listener.source_warning(text)

    async def _pass_over(self, lost: Lost) -> None:
        if not self._policy.continue_after_loss:
            raise self._stop_at(lost)
        try:
            reply = await self.owned.call(PASS_OVER, self.place.group)
        except RedisFailure as failure:
            if failure.effect is Effect.UNKNOWN:
                self._on_lost(lost)
            raise
        passed = read_lost(reply[1])
        if passed is not None:  # else whoever reads the stream has passed it over, and told
            self._on_lost(passed)

    async def _trim(self) -> bool:
        """Whether that worked. Raises AssignmentOver."""
        for _ in range(_TRIM_STEPS):
            try:
                reply = await self.owned.call(TRIM, self.place.group, b"%d" % _TRIM_STEP)
            except RedisFailure as failure:
                self._warn("trimmed", failure, "allow the user +xtrim")
                return False
            removed = reply[1]
            assert isinstance(removed, int)
            if removed:
                self._listener.trimmed(self.partition, removed)
            # The server removes whole nodes of entries only, and stops before the one that would be too much.
            if removed < _TRIM_STEP // 2:
                break
        return True


def absent(partition: Partition, server: str) -> Problem:
    """The problem of a stream that is not there."""
    return Problem(
        Reason.EVENT_SOURCE_NOT_FOUND,
        f"there is no stream {partition.topic!r} on {server}",
        "check its name; it is read from its first entry on as soon as it has one",
    )
