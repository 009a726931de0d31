"""One stream while it is ours: read on, hand over, acknowledge, each step checked against the lease in the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import anyio

from runner.clients.redis import DedicatedRedis, RedisClient, Script
from runner.clients.redis_entries import Entry, compare_ids, decode_entries, decode_streams, following_id
from runner.clients.redis_errors import FailureKind, RedisFailure, problem_of
from runner.clients.redis_wire import Reply
from runner.core.lease import HeldLease
from runner.model import Backlog, Fetched, Partition, Position, Problem, Record
from runner.ports import CheckpointFailed, CheckpointFenced
from runner.sources.redis_history import MOST_HANDED_OUT, History, history_of
from runner.sources.redis_records import RecordMaker
from runner.sources.redis_scripts import ATTEMPT, CHARGE, CLAIM, MOST_IDS, READ

BEGINNING: Final = "0-0"
MOST_BYTES: Final = 250_000
MOST_ENTRIES: Final = 500
"""Of one reply, about: a script stops the server for as long as it takes."""
FIRST_COUNT: Final = 100
BLOCK: Final = 2.0
"""Seconds that a wait for new entries lasts, after which group and stream are looked at again: a plain reader hears
nothing of a stream or a group that went."""
_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before the next try, by how often it has failed in a row
_CLAIM_PAGE: Final = 500

_OVER: Final = frozenset({FailureKind.NO_GROUP, FailureKind.UNBLOCKED, FailureKind.WRONG_TYPE})


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


class OwnedStream:
    """From a lease to its end; never reused. ``run`` reads until it raises AssignmentOver; one chunk is kept ready."""

    def __init__(
        self,
        place: StreamPlace,
        owner: bytes,
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
        self.place = place
        self.lease = lease
        self.is_paused = False
        self.backlog: Backlog | None = None
        self.end = end  # the last id that is waited for; None: it is followed for ever
        self.on_trimmed: Callable[[list[Position]], None] | None = None
        self.on_acknowledged: Callable[[int], None] | None = None
        self.is_at_end = False
        self._owner = owner
        self._client = client
        self._waiter = waiter
        self._records = records
        self._now = now
        self._timeout = timeout
        self._on_chunk = on_chunk
        self._on_problem = on_problem
        self._last_id = BEGINNING  # the highest that was fetched
        self._known_id = BEGINNING  # entries up to here need not be waited for
        self._over: AssignmentOver | None = None
        self._reads_history = True
        self._is_stopped = False
        self._sequence = 0
        self._count = FIRST_COUNT
        self._chunk: Fetched | None = None
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._settled: list[bytes] = []
        self._trimmed: list[bytes] = []
        self._attempts: dict[bytes, int] = {}
        self._history = History()
        self._checkpoint: str | None = None
        self._problem: Problem | None = None

    # --- what the source asks

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
        self._known_id = delivered
        self._checkpoint = checkpoint

    def set_paused(self, paused: bool) -> None:
        self.is_paused = paused
        self._changed.set()

    @property
    def has_reached_its_end(self) -> bool:
        """Everything up to ``end`` was handed over."""
        if self._chunk is not None or self.end is None:
            return False
        return self.is_at_end or (not self._reads_history and compare_ids(self._last_id, self.end) >= 0)

    def settled(self, records: Sequence[Record]) -> None:
        self._settled += [str(record.position).encode() for record in records]

    def attempted(self, attempts: Mapping[Position, int]) -> None:
        """To be written soon, by ``write_attempts`` or with the next checkpoint."""
        self._attempts.update({str(position).encode(): count for position, count in attempts.items()})

    async def write_attempts(self) -> None:
        """Raises AssignmentOver, RedisFailure; then they are kept."""
        async with self._reading:
            await self._charge()

    async def store(self, checkpoint: Position) -> None:
        """Acknowledge what is settled, and keep ``checkpoint`` with the lease. Raises CheckpointFenced, -Failed."""
        self._checkpoint = str(checkpoint)
        try:
            while await self._store_some():
                pass
        except AssignmentOver as over:
            self._over = over  # who reads may be waiting for the engine, which waits for nothing any more
            self._changed.set()
            raise CheckpointFenced(str(over)) from over
        except RedisFailure as failure:
            raise CheckpointFailed(str(failure)) from failure

    async def _store_some(self) -> bool:
        async with self._reading:  # a read under way may carry what is to be stored
            await self._charge()
            if not self._settled and not self._trimmed and self._checkpoint is None:
                return False
            await self._call_read("", 0)
            return True

    async def _charge(self) -> None:
        while self._attempts:
            charged = dict(islice(self._attempts.items(), MOST_IDS))
            await self._set_counts({entry_id: count * ATTEMPT for entry_id, count in charged.items()})
            for entry_id, count in charged.items():
                if self._attempts[entry_id] == count:  # not charged again meanwhile
                    del self._attempts[entry_id]

    async def _set_counts(self, counts: Mapping[bytes, int]) -> None:
        pairs = [part for entry_id, count in counts.items() for part in (entry_id, b"%d" % count)]
        await self.call(CHARGE, self.place.group, self.place.consumer, *pairs)

    # --- reading

    async def run(self) -> None:
        """Raises AssignmentOver."""
        failures = 0
        claimed = False
        while True:
            try:
                if not claimed:
                    await self._claim_foreign()
                    claimed = True
                while True:
                    await self._turn()
                    failures = 0
                    self._tell(None)
            except RedisFailure as failure:
                self._note(failure)
                # What the server handed out in a reply that was lost is pending, behind all that came.
                self._reads_history = True
                await anyio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1

    def _note(self, failure: RedisFailure) -> None:
        if failure.kind in _OVER:
            raise AssignmentOver(str(failure), self._problem_of(failure)) from failure
        if failure.is_answer:
            self._tell(self._problem_of(failure))

    def _problem_of(self, failure: RedisFailure) -> Problem:
        return problem_of(failure, self._client.description)

    def _tell(self, problem: Problem | None) -> None:
        if problem != self._problem:
            self._problem = problem
            self._on_problem(problem)

    async def _turn(self) -> None:
        """Read once, or wait until there may be something to read."""
        while self.is_paused or self._is_stopped or self._chunk is not None:
            if self._over is not None:
                raise self._over
            self._changed.clear()
            await self._changed.wait()
        entries = await self._read()
        if entries:
            self._take_over(entries)
        elif self._reads_history:
            self._reads_history = False
        else:
            self.is_at_end = True
            self.backlog = Backlog(0, self._now())
            if self.end is not None:
                self._on_chunk()  # who waits for the end hears of it
            await self._wait()

    async def _wait(self) -> None:
        """Until something comes, or for a while. What comes is read by the next fenced read, and counts only then."""
        if compare_ids(self._known_id, self._last_id) < 0:
            self._known_id = self._last_id
        reply = await self._waiter.execute(
            "XREAD",
            "COUNT",
            1,
            "BLOCK",
            int(BLOCK * 1000),
            "STREAMS",
            self.place.stream,
            self._known_id,
            key=self.place.stream,
        )
        # Should the fenced read not bring it, it is another consumer's, and must not wake us again and again.
        for _, entries in decode_streams(reply):
            self._known_id = entries[-1].id

    async def _read(self) -> list[Entry]:
        after = self._last_id if self._reads_history else ">"
        async with self._reading:
            reply = await self._call_read(after, self._count)
            entries = decode_entries(reply[1])
            self._history = await self._judge(reply[2]) if len(reply) > 2 else History()
        if entries and not self._reads_history:
            full = len(entries) >= self._count
            self.backlog = Backlog(None if full else 0, self._now())
            self.is_at_end = not full
        return entries

    async def _judge(self, counts: Reply) -> History:
        """What is known of entries that were handed out before. One that came too often without an attempt is charged
        one in advance: if it ends this process as well, nobody else is there to do so."""
        assert isinstance(counts, list)
        history = history_of(counts)
        if history.suspects:
            stays = MOST_HANDED_OUT + 1  # a suspect
            charged = {each: (history.attempts.get(each, 0) + 1) * ATTEMPT + stays for each in history.suspects}
            await self._set_counts({each.encode(): count for each, count in charged.items()})
        return history

    def _take_over(self, entries: Sequence[Entry]) -> None:
        first = entries[0].id  # a reply is in order
        if compare_ids(first, self._last_id) <= 0:
            raise AssignmentOver(
                f"{self.place.partition.topic} brought {first}, which is not behind {self._last_id}: "
                "the server has gone back, or the stream was made anew"
            )
        self._last_id = entries[-1].id
        there = [entry for entry in entries if entry.fields is not None]
        trimmed: list[Position] = [entry.id for entry in entries if entry.fields is None]
        if trimmed:
            # Pending, and gone from the stream: nothing can be done with them but to let them go.
            self._trimmed += [str(each).encode() for each in trimmed]
            assert self.on_trimmed is not None
            self.on_trimmed(trimmed)
        records = self._records.make(there, self._sequence)
        self._sequence += len(records)
        size = sum([record.size for record in records])
        if records:
            self._count = max(1, min(MOST_ENTRIES, MOST_BYTES * len(records) // max(size, 1), 2 * self._count))
        self._chunk = Fetched(
            self.place.partition, records, following_id(self._last_id), size, *self._history.of(records)
        )
        self._on_chunk()

    async def _claim_foreign(self) -> None:
        """Entries that other consumers of the group have, from before it was read in order, or by hand."""
        first = "-"
        while True:
            reply = await self.call(
                CLAIM, self.place.group, self.place.consumer, first.encode(), str(_CLAIM_PAGE).encode()
            )
            looked_at, last = reply[1], reply[2]
            assert isinstance(looked_at, int)
            assert isinstance(last, bytes)
            if looked_at < _CLAIM_PAGE:
                return
            first = f"({last.decode()}"

    async def _call_read(self, after: str, count: int) -> list[Reply]:
        """One READ, which takes along what is to be acknowledged; that is kept when its effect is not known."""
        settled, self._settled = self._settled[:MOST_IDS], self._settled[MOST_IDS:]
        room = MOST_IDS - len(settled)
        trimmed, self._trimmed = self._trimmed[:room], self._trimmed[room:]
        checkpoint, self._checkpoint = self._checkpoint, None
        done = False
        try:
            reply = await self.call(
                READ,
                self.place.group,
                self.place.consumer,
                (checkpoint or "").encode(),
                after.encode(),
                b"%d" % count,
                *settled,
                *trimmed,
            )
            done = True
            if settled and self.on_acknowledged is not None:
                self.on_acknowledged(len(settled))
            return reply
        finally:
            if not done:
                self._settled = settled + self._settled
                self._trimmed = trimmed + self._trimmed
                if self._checkpoint is None:  # no newer one meanwhile
                    self._checkpoint = checkpoint

    def stop_reading(self) -> None:
        """For good: what comes next must not be passed over silently."""
        self._is_stopped = True

    async def close(self) -> None:
        await self._waiter.close()

    async def call(self, script: Script, *arguments: bytes, allowed: Collection[bytes] = ()) -> list[Reply]:
        """Run ``script`` for as long as the lease is ours; ``allowed`` are answers beside ok. Raises AssignmentOver,
        RedisFailure."""
        if self.lease.is_over(self._now()):
            raise AssignmentOver("the lease is over")
        generation = b"%d" % self.lease.generation
        reply = await self._client.run(
            script, self.place.keys, (self._owner, generation, *arguments), timeout=self._timeout
        )
        assert isinstance(reply, list)
        match reply[0]:
            case b"ok":
                return reply
            case answer if answer in allowed:
                return reply
            case b"lost":
                self.lease.end()
                raise AssignmentOver(f"the lease of {self.place.partition.topic} is another's")
            case _:
                assert isinstance(reply[1], bytes)
                failure = self._client.refused(reply[1])
                if failure.kind in _OVER:
                    raise AssignmentOver(str(failure), self._problem_of(failure))
                raise failure
