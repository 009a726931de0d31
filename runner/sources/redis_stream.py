"""One stream while it is ours by lease: read on, acknowledge, each step checked against the lease in the server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from runner.clients.redis import DedicatedRedis, RedisClient, Script
from runner.clients.redis_entries import LARGEST_ID, Entry, compare_ids, decode_entries
from runner.clients.redis_errors import RedisFailure
from runner.clients.redis_wire import Reply
from runner.core.lease import HeldLease
from runner.model import Lease, Position, Problem, Record
from runner.sources.redis_history import History, history_of, suspected
from runner.sources.redis_read_scripts import CHARGE, IDENTIFY, MOST_LOOKED_AT, READ
from runner.sources.redis_read_size import Read
from runner.sources.redis_reader import AssignmentOver, StreamPlace, StreamReader
from runner.sources.redis_records import RecordMaker
from runner.sources.redis_scripts import CLAIM, StreamScript

_CLAIM_PAGE: Final = 500


class OwnedStream(StreamReader):
    """From a lease to its end: the history of what was read before us, then what nobody has read."""

    def __init__(
        self,
        place: StreamPlace,
        owner: bytes,
        lease: HeldLease,
        run_id: bytes,
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
        """``run_id``: of the server that granted the lease."""
        super().__init__(
            place,
            lease,
            client,
            waiter,
            records,
            now=now,
            timeout=timeout,
            end=end,
            on_chunk=on_chunk,
            on_problem=on_problem,
        )
        self._owner = owner
        self._run_id = run_id
        self._is_in_doubt = False  # whether it is still that server and that run of it, and what may yet get there
        self._reader = 0
        self._claim_from: str | None = "-"
        self._history_end = LARGEST_ID

    @property
    def shown_lease(self) -> Lease:
        return Lease(self.lease.generation, self.lease.until)

    @property
    def has_reached_its_end(self) -> bool:
        if self._chunk is not None or self._end_id is None:
            return False
        return self.is_at_end or (not self._reads_history and compare_ids(self._last_id, self._end_id) >= 0)

    def begin(self, delivered: str, checkpoint: str | None) -> None:
        super().begin(delivered, checkpoint)
        self._history_end = delivered  # of a group that was set back: what pends behind it is given again, in its place

    async def charge(self, attempts: Mapping[Position, int]) -> None:
        counts = {str(position): suspected(count) for position, count in attempts.items()}
        with self._as_checkpoint():
            async with self._reading:
                self.attempts.forget(counts)  # they are older
                await self._set_counts(counts)

    async def still_ours(self, records: Sequence[Record]) -> Sequence[bool]:
        """All or nothing: who owns the stream has every entry."""
        return [not self.lease.is_over(self._now())] * len(records)

    async def _set_counts(self, counts: Mapping[str, int]) -> None:
        left = list(counts.items())
        while left:
            pairs = [part for entry_id, count in left[:MOST_LOOKED_AT] for part in (entry_id, str(count))]
            done = (await self._call_in_turn(CHARGE, self.place.group, self.place.consumer, *pairs))[1]
            assert isinstance(done, int)
            left = left[done:]

    # --- reading

    def _note(self, failure: RedisFailure) -> None:
        super()._note(failure)
        self._is_in_doubt = True

    async def _read_once(self) -> None:
        await self._claim_foreign()
        if self._last_id == LARGEST_ID:
            self._reads_history = False  # a server that is asked what is behind it begins again at the first entry
        entries, history = await self._read()
        if entries:
            self._go_on(entries)
            self._offer(entries, history, self._last_id)
        elif self._reads_history:
            self._reads_history = False
            self._history_end = LARGEST_ID  # from now on what is pending was given to us
            await self._read_once()
        else:
            await self._wait()

    async def _call_in_turn(
        self, script: Script, *arguments: bytes | str, allowed: Collection[bytes] = ()
    ) -> list[Reply]:
        """As ``call``, by who has ``_reading``, of what must not take effect after what is called later."""
        if self._over is not None:
            raise self._over  # noticed by who had ``_reading`` before
        if self._is_in_doubt:
            await self._identify()
        with self._in_doubt_unless_done():
            return await self.call(script, b"%d" % self._reader, *arguments, allowed=allowed)

    async def _identify(self) -> None:
        """Make what we have given up on, and may still be on its way, come too late. And a server that was started
        anew, or another, may have gone back to an older state: nothing of it is to be handed over as if it followed
        what came before. Raises AssignmentOver, RedisFailure."""
        self._is_in_doubt = False
        self._reader += 1
        with self._in_doubt_unless_done():
            _, run_id, delivered = await self.call(IDENTIFY, b"%d" % self._reader, self.place.group)
        if run_id not in (b"", self._run_id):
            raise AssignmentOver(f"the server of {self.place.partition.topic} was started anew")
        if delivered:
            assert isinstance(delivered, bytes)
            self._history_end = delivered.decode()

    @contextmanager
    def _in_doubt_unless_done(self) -> Iterator[None]:
        is_done = False
        try:
            yield
            is_done = True
        finally:
            self._is_in_doubt = self._is_in_doubt or not is_done

    async def _read(self) -> tuple[list[Entry], History]:
        async with self._reading:
            read = Read(self._last_id if self._reads_history else ">", self._count)
            reply = await self._carry(read)
            if reply[0] == b"trimmed":
                self._hear_of(reply[1])
                reply = await self._carry(read._replace(goes_on=True))
            self._hear_of(reply[3])  # the same, and what has gone since
            entries = decode_entries(reply[1])
        if not self._reads_history:
            self._note_new(entries)
        elif entries and compare_ids(entries[-1][0], self._history_end) > 0:
            entries = [entry for entry in entries if compare_ids(entry[0], self._history_end) <= 0]
        return entries, history_of(reply[2])

    async def _claim_foreign(self) -> None:
        """Entries that other consumers of the group have, from before it was read in order, or by hand."""
        while self._claim_from is not None:
            reply = await self.call(
                CLAIM, self.place.group, self.place.consumer, self._claim_from.encode(), str(_CLAIM_PAGE).encode()
            )
            last, gone = reply[1], reply[2]
            assert isinstance(last, bytes)
            assert isinstance(gone, list)
            self._let_go([each.decode() for each in gone if isinstance(each, bytes)])
            # None: all were looked at.
            self._claim_from = f"({last.decode()}" if last and last.decode() != LARGEST_ID else None

    async def _step(
        self, read: Read, checkpoint: str | None, settled: Sequence[str], trimmed: Sequence[str]
    ) -> list[Reply]:
        reply = await self._call_in_turn(
            READ,
            self.place.group,
            self.place.consumer,
            (checkpoint or "").encode(),
            read.after.encode(),
            b"%d" % read.most,
            self._given_id.encode(),
            b"1" if read.goes_on else b"",
            *settled,
            *trimmed,
            allowed=(b"trimmed",),
        )
        if checkpoint is not None:
            self.kept_checkpoint = checkpoint
        if settled and self.on_acknowledged is not None:
            self.on_acknowledged(len(settled), 0)
        return reply

    async def call(
        self, script: Script | StreamScript, *arguments: bytes | str, allowed: Collection[bytes] = ()
    ) -> list[Reply]:
        if self.lease.is_over(self._now()):
            raise AssignmentOver("the lease is over")
        fenced = script if isinstance(script, Script) else script.ordered
        arguments = (self._owner, b"%d" % self.lease.generation, *arguments)
        reply = await self._client.run(fenced, self.place.keys, arguments, timeout=self._timeout)
        if isinstance(reply, list) and reply[0] in (b"lost", b"late"):
            self.lease.end()
            raise AssignmentOver(f"the lease of {self.place.partition.topic} is another's")
        return self._checked(reply, allowed)
