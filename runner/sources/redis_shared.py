"""The shared Redis Streams source: every process of the group reads every stream, and each entry is one process's."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final

import anyio

from runner.clients.redis_entries import following_id
from runner.clients.redis_errors import RedisFailure, problem_of
from runner.model import Partition, Problem, Reason
from runner.sources.redis_heartbeats import Heartbeats
from runner.sources.redis_holding import Holding
from runner.sources.redis_reader import BLOCK, AssignmentOver, StreamPlace
from runner.sources.redis_records import RecordMaker
from runner.sources.redis_replies import ids_in
from runner.sources.redis_scripts import ATTEMPT, CONSUMER_PREFIX
from runner.sources.redis_shared_scan import HANDED_BACK
from runner.sources.redis_shared_scripts import JOIN
from runner.sources.redis_shared_stream import SharedStream
from runner.sources.redis_shared_takeover_scripts import HAND_BACK
from runner.sources.redis_source import RedisSource, RedisStreamsSettings
from runner.sources.redis_troubles import pause_to_begin
from runner.sources.side_by_side import all_to_end

_LOOK_PAUSE: Final = 0.5  # seconds between an assignment and the next
_CLOSE_LIMIT: Final = 2.0
_UNTOUCHED_MS: Final = b"3600000"
"""For so long what is handed back looks untouched, which is more than any process waits for."""


class SharedStreamsSource(RedisSource):
    """Reads all of ``settings.streams`` beside the other processes of the group; ``now`` is the clock's time.

    A stream is an assignment from the start, to everybody. It ends when entries of it may be another's by now (we were
    not heard of for a lease) or when what was read is not its present history; the next begins at once, with the
    entries that are still ours.
    """

    def __init__(self, settings: RedisStreamsSettings, *, now: Callable[[], float]) -> None:
        super().__init__(settings, CONSUMER_PREFIX + uuid.uuid4().hex.encode(), now=now)
        self._beats = Heartbeats(self._client, settings.lease, len(settings.streams))
        self._turns: defaultdict[Partition, Iterator[int]] = defaultdict(partial(count, 1))
        self._places: Sequence[StreamPlace] = ()
        self._streams: dict[Partition, SharedStream] = {}  # the last of each
        self._tried: set[Partition] = set()
        self._is_stopped = False

    def _has_reached_its_end(self, partition: Partition) -> bool:
        holding = self._holdings.get(partition)
        return holding is not None and holding.has_reached_its_end

    def _start(self, places: Sequence[StreamPlace]) -> None:
        self._places = places
        self._spawn(self._beats.run())
        for place in places:
            self._spawn(self._follow(place))

    def stop_taking(self) -> None:
        """What is ours is kept until it is settled or handed back."""
        self._is_stopped = True
        for holding in self._holdings.values():
            holding.is_leaving = True
            holding.owned.set_paused(True)

    # --- one stream

    async def _follow(self, place: StreamPlace) -> None:
        """One assignment after another."""
        while not self._is_stopped:
            stored = await self._join_group(place)
            await self._read(place, stored)
            await anyio.sleep(_LOOK_PAUSE)

    async def _join_group(self, place: StreamPlace) -> str | None:
        """The checkpoint that is kept beside the stream."""
        tries = 0
        while True:
            tries += 1
            failure = None
            try:
                reply = await self._client.run(
                    JOIN, place.keys, (place.consumer, place.group), timeout=self._settings.command_timeout
                )
            except RedisFailure as raised:
                failure = raised
                problem = problem_of(failure, self.description)
            else:
                assert isinstance(reply, list)
                texts = [each.decode() for each in reply if isinstance(each, bytes)]
                if texts[0] == "ok":
                    self._tell(place.partition, "joining", None)
                    self._memories[place.partition].hear(was_owned=bool(texts[2]))
                    return texts[1] or None
                problem = _read_in_order(place.partition)
            self._tell(place.partition, "joining", problem)
            self._note_tried(place.partition)
            await anyio.sleep(pause_to_begin(tries, failure))

    async def _read(self, place: StreamPlace, stored: str | None) -> None:
        """One assignment, from the checkpoint ``stored`` if the group has to be made."""
        assert self._listener is not None
        partition = place.partition
        stream = self._streams[partition] = self._stream(place)
        holding = Holding(
            stream,
            stored,
            self._policy,
            self._memories[partition],
            self._listener,
            partial(self._tell, partition, "start"),
        )
        stream.on_renewed = holding.tell_lease
        self._holdings[partition] = holding
        try:
            await holding.prepare(on_tried=partial(self._note_tried, partition))
            if self._is_stopped:
                return
            holding.assign()
            self._note_tried(partition)
            await stream.run()
        except AssignmentOver as over:
            if over.problem is not None:
                self._tell(partition, "reading", over.problem)  # until the next assignment has read something
        except Exception as defect:
            self._note_defect(partition, defect)
        finally:
            await self._finish(holding, stream)

    def _stream(self, place: StreamPlace) -> SharedStream:
        settings, partition = self._settings, place.partition
        return SharedStream(
            place,
            self._client,
            self._client.dedicated(BLOCK + settings.command_timeout),
            self._beats,
            RecordMaker(partition, settings.names, self._now),
            settings.lease,
            now=self._now,
            timeout=settings.command_timeout,
            end=self._ends.get(partition) if settings.stop_at_end else None,
            goes_on=settings.continue_after_loss,
            turns=self._turns[partition],
            is_first=partition not in self._streams,
            problem=self._problems[partition].get("reading"),
            on_chunk=self._wake,
            on_problem=partial(self._tell, partition, "reading"),
        )

    async def _finish(self, holding: Holding, stream: SharedStream) -> None:
        """The stream is not read any more: whatever ran for it does not count."""
        assert self._listener is not None
        await stream.close()
        stream.lease.end()  # of what still runs for it as well
        if self._holdings.get(holding.partition) is not holding:
            return  # closed
        del self._holdings[holding.partition]
        stream.tell_gone()
        if holding.is_assigned:
            await self._listener.lost([holding.partition])
            self._tell_again(holding.partition)

    def _note_tried(self, partition: Partition) -> None:
        """We have joined when every stream can be read or was found wanting."""
        self._tried.add(partition)
        if not self._has_joined and len(self._tried) == len(self._places):
            self._has_joined = True
            assert self._listener is not None
            self._listener.assigned([])
        self._wake()

    # --- closing

    async def _leave(self) -> None:
        with anyio.move_on_after(_CLOSE_LIMIT):
            # What the server does not take now is another's after a lease.
            await all_to_end(map(self._hand_back, self._places), expected=(RedisFailure, AssignmentOver))
        await self._beats.close()

    async def _hand_back(self, place: StreamPlace) -> None:
        """Others may have at once what we have not settled. Raises RedisFailure, AssignmentOver; then they have it
        after a lease."""
        stream = self._streams.get(place.partition)
        if stream is not None:
            try:
                await stream.write_rest()
            finally:
                stream.tell_gone()
        is_done, gone = False, list[str]()
        while not is_done:
            reply = await self._client.run(
                HAND_BACK,
                place.keys,
                (place.consumer, place.group, HANDED_BACK, _UNTOUCHED_MS, ATTEMPT, *gone),
                timeout=_CLOSE_LIMIT,
            )
            assert isinstance(reply, list)
            if reply[0] != b"ok":
                return  # no group, or no stream: there is nothing of ours
            gone = ids_in(reply[1])
            self._tell_trimmed(place.partition, gone)
            is_done = reply[2] == b"1"

    def _tell_trimmed(self, partition: Partition, ids: Sequence[str]) -> None:
        assert self._listener is not None
        if ids:
            self._listener.data_lost(partition, ids[0], following_id(ids[-1]), len(ids))


def _read_in_order(partition: Partition) -> Problem:
    return Problem(
        Reason.ESM_CONFIG_NOT_VALID,
        f"{partition.topic!r} is read in order by another process of the group",
        "give all processes of a group the same delivery; it goes on by itself when that one has gone",
    )
