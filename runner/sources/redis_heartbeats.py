"""Saying of the entries of all shared streams, in few calls, that we work on them still."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import anyio

from runner.clients.redis import DedicatedRedis, RedisClient
from runner.clients.redis_errors import RedisFailure
from runner.clients.redis_wire import Reply
from runner.core.lease import HeldLease, LeaseTimes
from runner.sources.redis_reader import StreamPlace
from runner.sources.redis_replies import ids_in
from runner.sources.redis_scripts import MOST_IDS
from runner.sources.redis_shared_scripts import HEARTBEAT
from runner.sources.redis_together import Together

_MOST_STREAMS: Final = 100
"""Of one call; a script stops the server."""

_STREAMS_A_CONNECTION: Final = 50
"""Of which the calls go one after another over one connection in each heartbeat, about, should each have its own."""


class Said(NamedTuple):
    """Of entries that we took for ours: which are another's, nobody's, or were ours, and are deleted. ``run_id`` is the
    server's, empty where it is not told."""

    others: Sequence[str]
    nobodys: Sequence[str]
    gone: Sequence[str]
    run_id: bytes


class KeptStream(Protocol):
    """A stream of which a heartbeat speaks."""

    place: StreamPlace
    lease: HeldLease

    def to_keep(self) -> tuple[float, Sequence[str]]:
        """Since when the server has given us nothing but what is known, and the ids of that."""
        ...

    def hear(self, said: Said | RedisFailure) -> bool:
        """What is said of some of these; whether that is well."""
        ...

    def kept(self, since: float) -> None:
        """All that was to be kept at the time ``since`` is."""
        ...


async def say_kept(
    client: RedisClient | DedicatedRedis, entries: Mapping[StreamPlace, Sequence[str]], timeout: float
) -> Sequence[Said | RedisFailure]:
    """Of each place, whose entries they are, as far as we know; at most MOST_IDS in all. Raises RedisFailure."""
    first = next(iter(entries))
    arguments: list[bytes | str] = [first.consumer, first.group]
    for ids in entries.values():
        arguments += (b"%d" % len(ids), *ids)
    reply = await client.run(HEARTBEAT, [place.stream for place in entries], arguments, timeout)
    assert isinstance(reply, list)
    run_id, *answers = reply
    return [client.refused(each) if isinstance(each, bytes) else _said(each, run_id) for each in answers]


@dataclass(slots=True)
class _Beat:
    """One stream's share of a turn. ``left``: as many calls that speak of it are not answered well."""

    stream: KeptStream
    since: float
    left: int


class Heartbeats:
    """Speaks at each heartbeat of all that the streams have which are ``keeping``. Times are in seconds.

    Each call has a heartbeat's time, over connections of its own; a server that is silent costs its own streams only.
    """

    def __init__(self, client: RedisClient, times: LeaseTimes, streams: int) -> None:
        self._times = times
        self._together = Together(client)
        connections = math.ceil(streams / _STREAMS_A_CONNECTION)
        self._connections = client.dedicated(times.heartbeat, connections=connections)
        self._streams: dict[StreamPlace, KeptStream] = {}

    @contextmanager
    def keeping(self, stream: KeptStream) -> Iterator[None]:
        """For as long as the block lasts."""
        self._streams[stream.place] = stream
        try:
            yield
        finally:
            del self._streams[stream.place]

    async def run(self) -> None:
        """At fixed times, however long the calls take; those that could not be sent in one heartbeat are the first of
        the next."""
        due = anyio.current_time()
        async with anyio.create_task_group() as calls:
            while True:
                due = max(due + self._times.heartbeat, anyio.current_time())
                await anyio.sleep_until(due)
                streams = sorted(self._streams.values(), key=_end_of)
                by_place = {stream.place: stream for stream in streams}
                for part in self._together.parts(by_place):
                    for call in _calls(map(by_place.__getitem__, part)):
                        calls.start_soon(self._speak, call)

    async def _speak(self, call: Sequence[tuple[_Beat, Sequence[str]]]) -> None:
        entries = {beat.stream.place: ids for beat, ids in call}

        async def ask(asked: Sequence[StreamPlace]) -> Sequence[Said | RedisFailure]:
            portion = {place: entries[place] for place in asked}
            return await say_kept(self._connections, portion, self._times.heartbeat)

        answers = await self._together.of_each(list(entries), ask)
        for (beat, _), said in zip(call, answers, strict=True):
            stream = beat.stream
            if self._streams.get(stream.place) is not stream or not stream.hear(said):
                continue
            beat.left -= 1
            if beat.left == 0:
                stream.kept(beat.since)

    async def close(self) -> None:
        await self._connections.close()


def _calls(streams: Iterable[KeptStream]) -> Iterator[list[tuple[_Beat, Sequence[str]]]]:
    """What each call is about: a stream is in it once at most."""
    call: list[tuple[_Beat, Sequence[str]]] = []
    size = 0
    for stream in streams:
        since, ids = stream.to_keep()
        # Who has nothing is heard of as well, and hears the server.
        pages = [ids[first : first + MOST_IDS] for first in range(0, max(len(ids), 1), MOST_IDS)]
        beat = _Beat(stream, since, len(pages))
        for page in pages:
            if call and (size + len(page) > MOST_IDS or len(call) == _MOST_STREAMS):
                yield call
                call, size = [], 0
            call.append((beat, page))
            size += len(page)
    if call:
        yield call


def _end_of(stream: KeptStream) -> float:
    return stream.lease.until


def _said(answer: Reply, run_id: Reply) -> Said:
    assert isinstance(answer, list)
    assert isinstance(run_id, bytes)
    others, nobodys, gone = map(ids_in, answer)
    return Said(others, nobodys, gone, run_id)
