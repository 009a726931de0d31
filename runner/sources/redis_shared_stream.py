"""One stream as one of the consumers that share it: take entries, keep them while they are worked on, acknowledge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio

from runner.clients.redis import DedicatedRedis, RedisClient, Script
from runner.clients.redis_entries import Entry, compare_ids, decode_entries, parse_id
from runner.clients.redis_errors import RedisFailure
from runner.clients.redis_wire import Reply
from runner.core.lease import HeldLease, LeaseTimes
from runner.model import Lease, Position, Problem, Record
from runner.sources.redis_heartbeats import Heartbeats, Said, say_kept
from runner.sources.redis_held import HeldEntries
from runner.sources.redis_history import History, history_of, suspected
from runner.sources.redis_late_wakes import LateWakes
from runner.sources.redis_read_size import NOTHING, Read
from runner.sources.redis_reader import BLOCK, OVER, READING, AssignmentOver, StreamPlace, StreamReader
from runner.sources.redis_records import RecordMaker
from runner.sources.redis_replies import bytes_in, ids_in
from runner.sources.redis_scripts import MOST_IDS, StreamScript
from runner.sources.redis_shared_gone import GoneEntries
from runner.sources.redis_shared_scan import Scan, own_page
from runner.sources.redis_shared_scripts import CHARGE_SHARED, READ_SHARED
from runner.sources.redis_shared_takeover_scripts import TAKE_OVER
from runner.sources.redis_turns import Turns
from runner.sources.side_by_side import first_to_end


class SharedStream(StreamReader):
    """One assignment of a stream that others read too; never reused.

    What was taken is ours until it is acknowledged, for as long as we are heard of: a heartbeat says of every entry
    that we have it still, and the lease is counted from the last one that said so of all. Once it is over, others may
    have any of them, and the assignment ends.
    """

    def __init__(
        self,
        place: StreamPlace,
        client: RedisClient,
        waiter: DedicatedRedis,
        beats: Heartbeats,
        records: RecordMaker,
        times: LeaseTimes,
        *,
        now: Callable[[], float],
        timeout: float,
        end: str | None,
        goes_on: bool,
        turns: Iterator[int],
        is_first: bool,
        problem: Problem | None,
        on_chunk: Callable[[], None],
        on_problem: Callable[[Problem | None], None],
    ) -> None:
        """``goes_on``: entries that were trimmed unread are passed over; ``timeout``, in seconds, is cut to what the
        lease has time for. ``turns`` are those of our consumer, from 1, each higher than all before. ``is_first``:
        nothing was asked for in our consumer's name before, which might arrive yet. ``problem`` was told of reading the
        stream before."""
        super().__init__(
            place,
            HeldLease(0, now(), times),
            client,
            waiter,
            records,
            now=now,
            timeout=min(timeout, times.longest_call),
            end=end,
            on_chunk=on_chunk,
            on_problem=on_problem,
        )
        if problem is not None:
            self._troubles.go_on_with(READING, problem)
        self.on_renewed: Callable[[], None] | None = None
        self._beats = beats
        self._goes_on = goes_on
        self._turns = Turns(self.call, turns, is_first=is_first, on_doubt=self._look_for_own)
        self._times = times
        self._least_idle = b"%d" % int(times.duration * 1000)
        self._has_begun = False
        self._asked_at: float | None = None  # since when what is not in ``_held`` yet may be ours
        self._held = HeldEntries()
        self._gone = GoneEntries(self._turns)
        self._own_from = "-"
        self._scan = Scan(times, end, now=now)
        self._found: Sequence[str] = ()  # nobody's, or ours without that we knew, and not taken yet
        self._is_empty = False  # there was nothing to be read
        self._run_id = b""
        self._is_over = asyncio.Event()
        self._was_end_seen = False
        self._others_wait = end is not None  # other consumers have, or may be given, something up to the end
        self._wakes = LateWakes()

    @property
    def shown_lease(self) -> Lease:
        return Lease(None, self.lease.until)

    @property
    def has_reached_its_end(self) -> bool:
        is_all_read = self._chunk is None and not self._found and not self._gone and not self._reads_history
        return self._is_end_given and is_all_read and not self._others_wait

    @property
    def _is_end_given(self) -> bool:
        """The group was given everything up to the end, which stays so; more may come faster than it is read."""
        return self._end_id is not None and (self.is_at_end or compare_ids(self._given_id, self._end_id) >= 0)

    def begin(self, delivered: str, checkpoint: str | None) -> None:
        super().begin(delivered, checkpoint)
        self.lease = HeldLease(0, self._now(), self._times)
        self._has_begun = True

    # --- what the engine asks

    async def charge(self, attempts: Mapping[Position, int]) -> None:
        """Write them now, of records that stay suspects. Raises CheckpointFenced, -Failed.

        One that is another's by now ends the assignment: whoever tries it would wait for it for ever, and an entry
        that was taken from who keeps it by heartbeats is a sign that others may have been, too."""
        counts = {str(position): suspected(count) for position, count in attempts.items()}
        with self._as_checkpoint():
            async with self._reading:
                self.attempts.forget(counts)  # they are older
                missing = await self._set_held(counts)
            if missing:
                raise AssignmentOver(f"{missing[0]} of {self.place.partition.topic} is another's by now")

    async def still_ours(self, records: Sequence[Record]) -> list[bool]:
        """Of each of ``records``, whether it is; those that are stay so for a lease, those that are not may be taken
        again: nobody here works on them any more. Raises CheckpointFenced, -Failed."""
        ids = [str(record.position) for record in records]
        with self._as_checkpoint():
            for first in range(0, len(ids), MOST_IDS):
                self._check_lease()
                page = {self.place: ids[first : first + MOST_IDS]}
                self._note_said(*await say_kept(self._client, page, self._timeout))
        ours = [self._held.is_ours(entry_id) for entry_id in ids]
        self._held.drop([entry_id for entry_id, is_ours in zip(ids, ours, strict=True) if not is_ours])
        return ours

    def end_with(self, over: AssignmentOver) -> None:
        super().end_with(over)
        self._is_over.set()

    # --- reading

    async def run(self) -> None:
        """Raises AssignmentOver."""
        with self._beats.keeping(self):
            await first_to_end(super().run(), self._keep_fencing(), self._until_over())

    def _note(self, failure: RedisFailure) -> None:
        super()._note(failure)
        self._scan.begin_anew()  # it shows whether it is still the same server, before anything is taken
        self._found = ()
        self._look_for_own()

    async def _read_once(self) -> None:
        if self._gone:
            await self._let_go_of_gone()
        elif self._found:
            await self._take_found()
        elif self._scan.due_in <= 0:
            await self._look()
        elif self._reads_history:
            await self._read_own()
        elif self._is_empty:
            await self._wait_for_more()
        else:
            await self._read_new()

    async def _read_new(self) -> None:
        async with self._reading, self._asking():
            reply = await self._carry(Read(">", self._count, self._goes_on))
            entries = decode_entries(reply[4])
            self._hear_of(reply[5])
            self._check_lease()
            self._note_new(entries)
            if entries:
                self._go_on(entries)
                self._hold(entries, History(), self._last_id)
            else:
                self._known_id = self._given_id = bytes_in(reply[6]).decode()  # it need not be one of ours
        if self._is_end_given and not self._was_end_seen:
            self._was_end_seen = True
            self._scan.hurry()
        self._is_empty = not entries
        if entries:
            self._wakes.came()

    async def _wait_for_more(self) -> None:
        await anyio.sleep(self._wakes.pause())
        self._wakes.note(await self._wait(min(BLOCK, self._scan.due_in)))
        self._is_empty = False

    async def _read_own(self) -> None:
        """What our consumer has, and we do not know of: from before, or from a reply that was lost."""
        async with self._reading:
            await self._turns.end_doubt()
        self._check_lease()
        ids = await own_page(self._client, self.place, self._own_from, self._timeout)
        unknown = [entry_id for entry_id in ids if entry_id not in self._held]
        if unknown:
            await self._take(unknown[: self._count])
        elif self._turns.is_in_doubt:
            return  # by now: what arrives late may have been passed
        elif len(ids) == MOST_IDS:
            self._own_from = f"({ids[-1]}"
        else:
            self._reads_history = False
            await self._read_new()  # only then it is known whether reading works: this was none

    def _look_for_own(self) -> None:
        """What the server handed out in a reply that was lost is pending."""
        self._reads_history = True
        self._own_from = "-"
        self._is_empty = False

    async def _look(self) -> None:
        """For entries that nobody keeps."""
        seen = await self._scan.look(self.call, self._least_idle)
        self._check_run(seen.run_id)
        self._others_wait = seen.others_wait or not self._was_end_seen  # others may be given the rest yet
        self._found = [entry_id for entry_id in seen.ids if entry_id not in self._held]
        self._tell_end()

    async def _take_found(self) -> None:
        done = await self._take(self._found[: self._count])
        self._found = self._found[done:]
        self._tell_end()

    def _tell_end(self) -> None:
        if self._end_id is not None and not self._found:
            self._on_chunk()  # who waits for the end hears of it

    async def _take(self, ids: Sequence[str]) -> int:
        """Returns how many of ``ids`` it got to: they may be too large for one chunk."""
        async with self._reading, self._asking():
            reply = await self._turns.call(TAKE_OVER, self._least_idle, *ids)
            entries = decode_entries(reply[1])
            self._gone.found(ids_in(reply[3]))
            self._check_lease()
            if entries:
                self._hold(entries, history_of(reply[2]), max(self._last_id, entries[-1][0], key=parse_id))
        assert isinstance(reply[4], int)
        return reply[4]

    async def _let_go_of_gone(self) -> None:
        async with self._reading:
            self._tell_trimmed(await self._gone.let_go(self._least_idle))
        self._tell_end()

    def _hold(self, entries: Sequence[Entry], history: History, behind: str) -> None:
        self._held.take([entry_id for entry_id, _ in entries])
        self._offer(entries, history, behind)

    def _tell_trimmed(self, ids: Sequence[str]) -> None:
        if ids:
            assert self.on_trimmed is not None
            self.on_trimmed(ids)

    # --- what is taken along

    async def _step(
        self, read: Read, checkpoint: str | None, settled: Sequence[str], trimmed: Sequence[str]
    ) -> list[Reply]:
        assert not trimmed, "they are acknowledged when they are found"
        tried = self._held.begin_to_acknowledge(settled)
        reply = await self._turns.call(
            READ_SHARED,
            b"" if checkpoint is None else b"1",
            read.after.encode(),
            b"%d" % read.most,
            self._given_id.encode(),
            b"1" if read.goes_on else b"",
            self._number(settled),
            *settled,
            allowed=(b"trimmed",),
        )
        taken = self._held.acknowledged(settled, tried, ids_in(reply[1]), ids_in(reply[2]))
        if checkpoint is not None:
            self.kept_checkpoint = bytes_in(reply[3]).decode()
        if settled and self.on_acknowledged is not None:
            self.on_acknowledged(len(settled) - taken, taken)
        return reply

    def _number(self, settled: Sequence[str]) -> bytes:
        """How many entries are ours, "" when we may have one that we do not know of."""
        is_sure = not self._reads_history and self._held.has_all(settled)
        return b"%d" % len(self._held) if is_sure else b""

    async def _set_counts(self, counts: Mapping[str, int]) -> None:
        await self._set_held(counts)

    async def _set_held(self, counts: Mapping[str, int]) -> list[str]:
        """Returns what is another's by now, whose counts are none of our business."""
        pairs = [part for entry_id, count in counts.items() for part in (entry_id, str(count))]
        reply = await self._turns.call(CHARGE_SHARED, *pairs)
        self._held.note((), ids_in(reply[1]), ids_in(reply[2]))
        return [entry_id for entry_id in ids_in(reply[1]) if not self._held.is_ours(entry_id)]

    # --- keeping

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """What is under way to us is ours from some time after now on, and no heartbeat tells of it yet. Raises
        AssignmentOver, RedisFailure."""
        await self._turns.end_doubt()  # else the lease would have to have time for this call, too
        self._asked_at = self._now()
        try:
            yield
        finally:
            self._asked_at = None

    def to_keep(self) -> tuple[float, Sequence[str]]:
        """As KeptStream's, like what follows."""
        return self._now() if self._asked_at is None else self._asked_at, self._held.to_keep

    def hear(self, said: Said | RedisFailure) -> bool:
        try:
            self._note_said(said)
        except AssignmentOver as over:
            self.end_with(over)
            return False
        except RedisFailure:
            # It is met by who reads, too, and the lease runs out if the next heartbeats fail as well.
            return False
        return True

    def kept(self, since: float) -> None:
        if not self.lease.renewed(since, self._now()):
            self.end_with(AssignmentOver("the lease is over"))
        elif self.on_renewed is not None:
            self.on_renewed()

    def _note_said(self, said: Said | RedisFailure) -> None:
        """Raises AssignmentOver, RedisFailure."""
        if isinstance(said, RedisFailure):
            if said.kind in OVER:
                raise AssignmentOver(str(said), self._problem_of(said)) from said
            raise said
        self._check_run(said.run_id)
        self._held.note(said.others, said.nobodys, said.gone)

    def _check_run(self, run_id: bytes) -> None:
        """A server that was started anew, or another, may have gone back to an older state. Raises AssignmentOver."""
        self._run_id = self._run_id or run_id
        if run_id not in (b"", self._run_id):
            raise AssignmentOver(f"the server of {self.place.partition.topic} was started anew")

    async def _keep_fencing(self) -> None:
        """Raises AssignmentOver when the lease's time is over, whatever the server does."""
        while True:
            self._check_lease()
            await anyio.sleep(max(self.lease.until - self._now(), 0.0))

    async def _until_over(self) -> None:
        """Raises what was noticed while something else was done."""
        await self._is_over.wait()
        assert self._over is not None
        raise self._over

    def _check_lease(self) -> None:
        if self._has_begun and self.lease.is_over(self._now()):
            raise AssignmentOver("the lease is over")

    # --- the end

    async def write_rest(self) -> None:
        """What was settled and charged last, when nothing else is done any more. Raises AssignmentOver,
        RedisFailure."""
        self._has_begun = False  # it does not matter whether the lease is over: the server looks at who has what
        while self._settled:
            await self._carry(NOTHING)
        await self.attempts.write(self._set_counts)

    def tell_gone(self) -> None:
        """What was deleted while it was worked on, and not settled, will not come again."""
        self._tell_trimmed([*self._gone.lose_tried(), *self._held.lose_gone(self._settled)])

    async def call(
        self, script: Script | StreamScript, *arguments: bytes | str, allowed: Collection[bytes] = ()
    ) -> list[Reply]:
        self._check_lease()
        shared = script if isinstance(script, Script) else script.shared
        arguments = (self.place.consumer, self.place.group, *arguments)
        reply = await self._client.run(shared, self.place.keys, arguments, timeout=self._timeout)
        if reply == [b"late"]:
            raise AssignmentOver(f"{self.place.partition.topic} is read by who came after us")
        return self._checked(reply, allowed)
