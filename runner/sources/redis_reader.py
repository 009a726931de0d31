"""Reading one stream, whoever may read it beside us: hand over by chunks, wait for more, go on after a failure."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from runner.clients.redis import DedicatedRedis, RedisClient, Script
from runner.clients.redis_entries import Entry, compare_ids, decode_streams, following_id
from runner.clients.redis_errors import FailureKind, RedisFailure, problem_of
from runner.clients.redis_wire import Reply
from runner.core.lease import HeldLease
from runner.model import Backlog, Fetched, Lease, Partition, Position, Problem, Record
from runner.ports import CheckpointFailed, CheckpointFenced
from runner.sources.redis_attempts import Attempts
from runner.sources.redis_history import History
from runner.sources.redis_read_size import NOTHING, STEP, Read, ReadSize
from runner.sources.redis_records import RecordMaker
from runner.sources.redis_scripts import MOST_IDS, StreamScript
from runner.sources.redis_start import Lost, read_lost
from runner.sources.redis_troubles import Troubles

BEGINNING: Final = "0-0"
BLOCK: Final = 2.0
"""Seconds that a wait for new entries lasts, after which group and stream are looked at again: a plain reader hears
nothing of a stream or a group that went."""
READING: Final = "reading"
_WAITING: Final = "waiting"
_CHARGING: Final = "charging"

OVER: Final = frozenset({FailureKind.NO_GROUP, FailureKind.WRONG_TYPE})
"""Failures after which what was read is not the stream's present history."""


class AssignmentOver(Exception):
    """What was read so far is not the stream's present history, or the lease is another's: begin anew.

    ``problem`` is what to show of it until it goes on; None where there is nothing wrong."""

    def __init__(self, text: str, problem: Problem | None = None) -> None:
        super().__init__(text)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Where one stream of one group is kept. ``lease_key`` lies in the stream's slot."""

    partition: Partition
    stream: bytes
    lease_key: bytes
    group: bytes
    consumer: bytes

    @property
    def keys(self) -> tuple[bytes, bytes]:
        return self.lease_key, self.stream


class StreamReader(ABC):
    """One assignment of a stream; never reused. ``run`` reads until it raises AssignmentOver; one chunk is kept ready.

    Who has made it says what is to be called when entries were trimmed that were pending (``on_trimmed``) or not yet
    read (``on_lost``, which may end the assignment by raising AssignmentOver), and when so many records were
    acknowledged, and so many others another's by then (``on_acknowledged``).
    """

    def __init__(
        self,
        place: StreamPlace,
        lease: HeldLease,
        client: RedisClient,
        waiter: DedicatedRedis,
        records: RecordMaker,
        *,
        now: Callable[[], float],
        timeout: float,
        end: str | None,
        on_chunk: Callable[[], None],
        on_problem: Callable[[Problem | None], None],
    ) -> None:
        """``end``: the last id that is waited for; None: the stream is followed for ever. ``timeout`` is in seconds."""
        self.place = place
        self.lease = lease
        self.is_paused = False
        self.backlog: Backlog | None = None
        self.on_trimmed: Callable[[Sequence[Position]], None] | None = None
        self.on_lost: Callable[[Lost], None] | None = None
        self.on_acknowledged: Callable[[int, int], None] | None = None
        self.is_at_end = False
        self.kept_checkpoint: str | None = None
        """The one that is certainly kept with the lease."""
        self.attempts = Attempts()
        self._end_id = end
        self._client = client
        self._waiter = waiter
        self.records = records
        self._now = now
        self._timeout = timeout
        self._on_chunk = on_chunk
        self._troubles = Troubles(client.description, on_problem)
        self._last_id = BEGINNING  # the highest that was fetched
        self._known_id = BEGINNING  # entries up to here need not be waited for
        self._given_id = BEGINNING  # up to here the group was given everything
        self._over: AssignmentOver | None = None
        self._reads_history = True
        self._sequence = 0
        self._read_size = ReadSize()
        self._chunk: Fetched | None = None
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._settled: list[str] = []
        self._trimmed: list[str] = []
        self._checkpoint: str | None = None
        self._is_closed = False

    # --- what each kind does in its own way

    @property
    @abstractmethod
    def shown_lease(self) -> Lease:
        """The lease as the engine is told of it."""

    @property
    @abstractmethod
    def has_reached_its_end(self) -> bool:
        """Everything up to the end that is waited for was handed over."""

    @abstractmethod
    async def _read_once(self) -> None:
        """Read what comes next and ``_offer`` it, or wait until there may be something. Raises AssignmentOver,
        RedisFailure."""

    @abstractmethod
    async def _step(
        self, read: Read, checkpoint: str | None, settled: Sequence[str], trimmed: Sequence[str]
    ) -> list[Reply]:
        """Acknowledge, keep the checkpoint unless it is None, and ``read``. Raises AssignmentOver, RedisFailure."""

    @abstractmethod
    async def _set_counts(self, counts: Mapping[str, int]) -> None:
        """Set delivery counts, of at most MOST_IDS entries. Raises AssignmentOver, RedisFailure."""

    @abstractmethod
    async def charge(self, attempts: Mapping[Position, int]) -> None:
        """Write them now, of records that stay suspects. Raises CheckpointFenced, -Failed."""

    @abstractmethod
    async def still_ours(self, records: Sequence[Record]) -> Sequence[bool]:
        """Of each of ``records``, whether nobody else can have it for now. Raises CheckpointFenced, -Failed."""

    @abstractmethod
    async def call(
        self, script: Script | StreamScript, *arguments: bytes | str, allowed: Collection[bytes] = ()
    ) -> list[Reply]:
        """Run ``script`` for as long as the lease is ours; ``allowed`` are answers beside ok. Raises AssignmentOver,
        RedisFailure."""

    # --- what the source asks

    @property
    def fetched_id(self) -> str:
        """The highest that was fetched."""
        return self._last_id

    @property
    def _count(self) -> int:
        """How many entries to ask for."""
        return self._read_size.entries

    def take_chunk(self) -> Fetched | None:
        """What is ready, unless the partition is paused."""
        if self.is_paused or self._chunk is None:
            return None
        chunk, self._chunk = self._chunk, None
        self._changed.set()
        return chunk

    def note_lag(self, records: int | None) -> None:
        """How many entries the server says are still to be read; what is not yet handed over counts as read."""
        if records is not None and not self._reads_history:
            self.backlog = Backlog(records, self._now())

    def begin(self, delivered: str, checkpoint: str | None) -> None:
        """The group has been given everything up to ``delivered``; ``checkpoint``, if any, is to be kept with the lease
        from the first read on."""
        self._known_id = self._given_id = delivered
        self._checkpoint = checkpoint

    def set_paused(self, paused: bool) -> None:
        self.is_paused = paused
        self._changed.set()

    def settled(self, records: Sequence[Record]) -> None:
        ids = [str(record.position) for record in records]
        self._settled += ids
        if self.attempts:
            self.attempts.forget(ids)

    async def write_attempts(self) -> float | None:
        """What is unwritten of ``attempts``, and the reason told where that fails: after how many seconds to try again,
        else None. Raises AssignmentOver."""
        async with self._reading:
            try:
                await self.attempts.write(self._set_counts)
            except RedisFailure as failure:
                if self._is_closed:
                    return None  # the stream is somebody else's trouble
                return self._troubles.failed(_CHARGING, failure)
            self._troubles.worked(_CHARGING)
            return None

    async def store(self, checkpoint: Position) -> None:
        """Acknowledge what is settled, and keep ``checkpoint`` with the lease; then write attempts, which keep nothing
        back when they cannot be written. Raises CheckpointFenced, -Failed."""
        self._checkpoint = str(checkpoint)
        with self._as_checkpoint():
            while await self._store_some():
                pass
            await self.write_attempts()

    @contextmanager
    def _as_checkpoint(self) -> Iterator[None]:
        """What fails inside fails as a checkpoint does."""
        try:
            yield
        except AssignmentOver as over:
            self.end_with(over)  # who reads may be waiting for the engine, which waits for nothing any more
            raise CheckpointFenced(str(over)) from over
        except RedisFailure as failure:
            raise CheckpointFailed(str(failure)) from failure

    def end_with(self, over: AssignmentOver) -> None:
        """As soon as a read under way has ended, ``run`` raises ``over``."""
        self._over = over
        self._changed.set()

    async def _store_some(self) -> bool:
        async with self._reading:  # a read under way may carry what is to be stored
            if not self._settled and not self._trimmed and self._checkpoint is None:
                return False
            await self._carry(NOTHING)
            return True

    # --- reading

    async def run(self) -> None:
        """Raises AssignmentOver."""
        while True:
            try:
                while True:
                    await self._until_wanted()
                    await self._read_once()
            except RedisFailure as failure:
                await self._recover(READING, failure)

    async def _recover(self, tried: str, failure: RedisFailure) -> None:
        """Raises AssignmentOver."""
        self._note(failure)
        pause = self._troubles.failed(tried, failure)
        # What the server handed out in a reply that was lost is pending, behind all that came.
        self._reads_history = True
        await anyio.sleep(pause)

    async def _until_wanted(self) -> None:
        while self._over is None and (self.is_paused or self._chunk is not None):
            self._changed.clear()
            await self._changed.wait()
        if self._over is not None:
            raise self._over

    def _note(self, failure: RedisFailure) -> None:
        if failure.kind in OVER:
            raise AssignmentOver(str(failure), self._problem_of(failure)) from failure
        self._read_size.failed(failure)

    def _problem_of(self, failure: RedisFailure) -> Problem:
        return problem_of(failure, self._client.description)

    async def _wait(self, seconds: float = BLOCK) -> bool:
        """Until something comes, or for a while; returns whether it came. What comes is read by the next checked read,
        and counts only then."""
        if compare_ids(self._known_id, self._last_id) < 0:
            self._known_id = self._last_id
        block = max(int(seconds * 1000), 1)  # 0 is for ever
        command = ("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", self.place.stream, self._known_id)
        try:
            reply = await self._waiter.execute(*command, key=self.place.stream)
        except RedisFailure as failure:
            await self._recover(_WAITING, failure)
            return False
        self._troubles.worked(_WAITING)
        # Should the next read not bring it, it is another consumer's, and must not wake us again and again.
        streams = decode_streams(reply)
        for _, entries in streams:
            self._known_id, _ = entries[-1]
        return bool(streams)

    def _note_new(self, entries: Sequence[Entry]) -> None:
        """These came, and nobody had read them before: reading works. Raises AssignmentOver."""
        self._troubles.worked(READING)
        self.attempts.end_history()
        if not entries:
            self.is_at_end = True
            self.backlog = Backlog(0, self._now())
            if self._end_id is not None:
                self._on_chunk()  # who waits for the end hears of it
            return
        # A reply that was cut because its entries are large has whole steps.
        self.is_at_end = len(entries) < self._count and len(entries) % STEP > 0
        self.backlog = Backlog(0 if self.is_at_end else None, self._now())

    def _go_on(self, entries: Sequence[Entry]) -> None:
        """``entries``, a reply in order, are behind all that came before. Raises AssignmentOver."""
        first, _ = entries[0]
        if compare_ids(first, self._last_id) <= 0:
            raise AssignmentOver(
                f"{self.place.partition.topic} brought {first}, which is not behind {self._last_id}: "
                "the server has gone back, or the stream was made anew"
            )
        self._last_id, _ = entries[-1]
        if not self._reads_history:
            self._given_id = self._last_id

    def _hear_of(self, reply: Reply) -> None:
        """Of entries that were trimmed unread. Raises AssignmentOver where nothing behind them is to be read."""
        lost = read_lost(reply)
        if lost is not None:
            assert self.on_lost is not None
            self.on_lost(lost)

    def _offer(self, entries: Sequence[Entry], history: History, behind: str) -> None:
        """Keep ready what was read, up to the id ``behind``."""
        history = self.attempts.correct(history)
        trimmed = [entry_id for entry_id, parts in entries if parts is None]
        there = [entry for entry in entries if entry[1] is not None] if trimmed else entries
        self._let_go(trimmed)
        records = self.records.make(there, self._sequence)
        self._sequence += len(records)
        size = sum([record.size for record in records])
        self._read_size.came(len(records), size)
        self._chunk = Fetched(self.place.partition, records, following_id(behind), size, *history.of(records))
        self._troubles.worked(READING)
        self._on_chunk()

    def _let_go(self, trimmed: list[str]) -> None:
        """Pending, and gone from the stream: nothing can be done with them but to acknowledge them."""
        if trimmed:
            self._trimmed += trimmed
            assert self.on_trimmed is not None
            self.on_trimmed(trimmed)

    async def _carry(self, read: Read) -> list[Reply]:
        """One step that takes along what is to be acknowledged; that is kept when its effect is not known."""
        settled, self._settled = self._settled[:MOST_IDS], self._settled[MOST_IDS:]
        room = MOST_IDS - len(settled)
        trimmed, self._trimmed = self._trimmed[:room], self._trimmed[room:]
        checkpoint, self._checkpoint = self._checkpoint, None
        done = False
        try:
            reply = await self._step(read, checkpoint, settled, trimmed)
            done = True
            return reply
        finally:
            if not done:
                self._settled = settled + self._settled
                self._trimmed = trimmed + self._trimmed
                if self._checkpoint is None:  # no newer one meanwhile
                    self._checkpoint = checkpoint

    async def close(self) -> None:
        self._is_closed = True
        await self._waiter.close()

    def _checked(self, reply: Reply, allowed: Collection[bytes]) -> list[Reply]:
        """The reply of a script that has done what it should. Raises AssignmentOver, RedisFailure."""
        assert isinstance(reply, list)
        if reply[0] == b"ok" or reply[0] in allowed:
            return reply
        assert isinstance(reply[1], bytes)
        failure = self._client.refused(reply[1])
        if failure.kind in OVER:
            raise AssignmentOver(str(failure), self._problem_of(failure))
        raise failure
