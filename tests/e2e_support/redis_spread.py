"""Streams of any names on any topology with the group that reads them: loaded, read back, and judged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    ClusterError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from e2e_support.configuration import QUICK_BACKOFF, http, process
from e2e_support.looking import mapping_view
from e2e_support.redis_group import (
    HEARTBEAT,
    LEASE,
    assert_generations_never_fall,
    by_generation,
    fields_of,
    letter_of,
    origin_of,
)
from e2e_support.redis_topology import Topology
from kafka_harness import oracle, producing
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, entry_number
from kafka_harness.producing import Placed
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.topics import Consumed
from kafka_harness.waiting import until, until_async
from redis_harness.client import add, connect, pending, read_stream

MAPPING: Final = "charge-card"
"""The group too."""
POISON: Final = b'"poison": true'

_FUNCTION: Final = "function"
_KEYS: Final = 7
_CUT_OFF: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    ReadOnlyError,
    ClusterError,
    RedisClusterException,
    AskError,
    TryAgainError,
)
"""What a server under a fault answers, or does not; whether the entry is there is seen when the stream is read."""


@dataclass(frozen=True)
class SpreadStreams:
    """``streams`` and ``letters_stream`` may lie on different servers. What they hold is what was produced: nothing is
    trimmed."""

    topology: Topology
    streams: Sequence[str]
    letters_stream: str

    def configuration(self, function: FunctionProcess, **source: Any) -> dict[str, Any]:
        """Of a process with the one mapping; ``source`` adds to what the source is told."""
        redis = {
            "url": self.topology.url,
            "streams": list(self.streams),
            "key_field": "key",
            "value_field": "value",
            "lease": f"{LEASE:g}s",
            "heartbeat": f"{round(HEARTBEAT * 1000)}ms",
            **source,
        }
        mapping = {
            "function": _FUNCTION,
            "source": {"redis_streams": redis},
            "ordering": "partition",
            "batch_size": 10,
            "maximum_batching_window": "20ms",
            "bisect_batch_on_function_error": True,
            "maximum_retry_attempts": 1,
            "retry_backoff": QUICK_BACKOFF,
            "commit_interval": "200ms",
            "commit_timeout": "1s",
            "destination_config": {"on_failure": {"redis_streams": {"stream": self.letters_stream}}},
        }
        return process({_FUNCTION: http(function.url)}, {MAPPING: mapping})

    @asynccontextmanager
    async def at(self, key: str) -> AsyncIterator[Redis]:
        """A client of the server that serves ``key`` now."""
        async with connect((await self.topology.server_of(key)).url) as client:
            yield client

    async def placed(self) -> list[Placed]:
        """What is in the streams."""
        found = []
        for stream in self.streams:
            async with self.at(stream) as client:
                for id_, fields in await read_stream(client, stream):
                    content = dict(fields)
                    found.append(Placed(stream, 0, entry_number(id_.decode()), content[b"key"], content[b"value"]))
        return found

    async def pending(self, stream: str) -> list[oracle.Origin]:
        """What was read of a stream and is not acknowledged."""
        async with self.at(stream) as client:
            return [origin(stream, each.id) for each in await pending(client, stream, MAPPING)]

    async def letters(self) -> list[Consumed]:
        """All dead letters so far."""
        async with self.at(self.letters_stream) as client:
            return [letter_of(self.letters_stream, entry) for entry in await read_stream(client, self.letters_stream)]

    # --- waiting

    async def until_settled(self, function: FunctionProcess, *, timeout: float = 30.0) -> list[Placed]:
        """Wait until all that is in the streams is handled or dead-lettered, and acknowledged; returns it."""
        left: dict[str, int] = {}

        async def settled() -> list[Placed]:
            placed = await self.placed()
            done = set(oracle.handled_at(function.calls())) | {origin_of(letter) for letter in await self.letters()}
            left["unsettled"] = sum(each.origin not in done for each in placed)
            left["pending"] = sum([len(await self.pending(stream)) for stream in self.streams])
            return [] if any(left.values()) else placed

        try:
            return await until_async(settled, what="every entry is settled", timeout=timeout, every=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {left}") from error

    async def until_handled(
        self,
        function: FunctionProcess,
        streams: Collection[str],
        *,
        times: int = 1,
        since_ns: int | None = None,
        timeout: float = 20.0,
    ) -> None:
        """Wait until of each of ``streams`` so many calls have succeeded that began after ``since_ns`` (default: now)
        of the monotonic clock."""
        since = time.monotonic_ns() if since_ns is None else since_ns

        def missing() -> list[str]:
            succeeded = [call.partition for call in function.calls() if call.succeeded and call.start_ns > since]
            return [stream for stream in streams if succeeded.count(f"{stream}-0") < times]

        try:
            await until(lambda: not missing(), what="streams go on", timeout=timeout, every=0.02)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {missing()}") from error

    # --- judging

    def assert_promises(self, placed: Sequence[Placed], calls: Sequence[Call], letters: Sequence[Consumed]) -> None:
        """All of ``placed`` handled or dead-lettered; by stream, first successes in order, without overlap within a
        generation, and by generations that never fall; one dead letter, unchanged, of each poison and of nothing else.
        """
        oracle.assert_calls_understood(calls)
        oracle.assert_nothing_lost(placed, calls, letters, origin=origin_of)
        oracle.assert_dead_letters_unchanged(placed, letters, origin=origin_of)
        oracle.assert_ordered(calls, by="partition")
        assert_generations_never_fall(calls)
        for generation in by_generation(calls).values():
            oracle.assert_no_overlap(generation, by="partition")
        expected = [each.origin for each in placed if POISON in (each.value or b"")]
        assert sorted(origin_of(letter) for letter in letters) == sorted(expected)


class SteadyLoad:
    """Within its ``async with`` block every stream gets ``a_second`` entries a second, by a client of its own, so that
    a server that hangs holds up its own streams only. Every ``poison_every``-th entry is poison, none at 0.

    An entry whose fate nobody told is not sent again: ``attempted`` holds it, ``accepted`` does not, and ``failures``
    says by name what was told instead.
    """

    def __init__(self, streams: SpreadStreams, *, a_second: float, poison_every: int = 0) -> None:
        self.attempted: list[Placed] = []
        self.accepted: set[oracle.Origin] = set()
        self.failures: Counter[str] = Counter()
        self._streams = streams
        self._interval = 1 / a_second
        self._poison_every = poison_every
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._produce(stream)) for stream in self._streams.streams]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks)

    async def _produce(self, stream: str) -> None:
        number = milliseconds = 0
        async with self._streams.topology.producer() as client:
            while not self._ending.is_set():
                (item,) = producing.numbered(1, keys=_KEYS, poison_every=self._poison_every, start=number)
                number += 1
                milliseconds = max(time.time_ns() // 1_000_000, milliseconds + 1)
                entry_id = f"{milliseconds}-0"
                placed = Placed(stream, 0, entry_number(entry_id), item.key, item.value)
                self.attempted.append(placed)
                try:
                    await add(client, stream, fields_of(item), entry_id=entry_id)
                    self.accepted.add(placed.origin)
                except _CUT_OFF as failure:
                    self.failures[type(failure).__name__] += 1
                await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval):
                await self._ending.wait()
        except TimeoutError:
            return


def origin(stream: str, entry_id: bytes) -> oracle.Origin:
    """An entry as journals name it."""
    return f"{stream}-0", entry_number(entry_id.decode())


def generations(calls: Iterable[Call], streams: Collection[str]) -> dict[str, set[int]]:
    """The generations under which each of ``streams`` was handled."""
    return {stream: {call.generation for call in calls if call.partition == f"{stream}-0"} for stream in streams}


def problems(view: Mapping[str, Any]) -> list[Any]:
    """Those of a mapping, as ``/mappings`` shows it, and of its streams."""
    return [each["problem"] for each in (view, *view["partitions"]) if each["problem"] is not None]


async def until_enabled(runners: Sequence[RunnerProcess], *, timeout: float = 10.0) -> None:
    """Wait until no runner shows a problem, neither of the mapping nor of a stream."""
    shown: list[Any] = []

    async def enabled() -> bool:
        shown[:] = [await mapping_view(runner, MAPPING) for runner in runners]
        return all(view["state"] == "enabled" and not problems(view) for view in shown)

    try:
        await until_async(enabled, what="the mapping is enabled and has no problem", timeout=timeout)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {[(view['state'], problems(view)) for view in shown]}") from error


async def until_spread(runners: Sequence[RunnerProcess], streams: Collection[str], *, timeout: float = 15.0) -> None:
    """Wait until every stream is assigned, and no runner has two more than another: then none is to be moved."""
    counts: list[int] = []

    async def spread() -> bool:
        views = [await mapping_view(runner, MAPPING) for runner in runners]
        counts[:] = [sum(bool(each["assigned"]) for each in view["partitions"]) for view in views]
        return sum(counts) == len(streams) and max(counts) - min(counts) <= 1

    try:
        await until_async(spread, what="the streams are spread evenly", timeout=timeout)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {counts}") from error


async def stop(runners: Sequence[RunnerProcess], *, timeout: float = 15.0) -> None:
    """SIGTERM to all; each exits with 0."""
    for runner in runners:
        runner.terminate()
    for runner in runners:
        assert await runner.stopped(timeout) == 0
