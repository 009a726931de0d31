"""One server, one function and two runners that survive fault after fault, and what they are to show after each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis

from e2e_support.configuration import http, process
from e2e_support.looking import mapping_view, problem_reason
from e2e_support.redis_group import Delivery, StreamGroup, assert_generations_never_fall, by_generation
from e2e_support.redis_producer import SteadyProducer
from e2e_support.scale import scaled
from kafka_harness import oracle
from kafka_harness.behaviour import Behaviour
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, entry_number
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, raw
from redis_harness.flavour import Flavour
from redis_harness.server import RedisServer

RECOVERY_SECONDS: Final = 10.0
"""Within so many seconds after the cause of a fault is gone all is as it was before."""

_REPLICAS: Final = 2
_STREAMS: Final = 3
_AS_USUAL: Final = Behaviour(delay_ms=5.0, fenced=True)
_START_SECONDS: Final = 30.0
_FLOWING_ENTRIES: Final = scaled(6, 100)  # of each stream, before a fault and after it
_WAITING_ENTRIES: Final = scaled(6, 100)  # of each stream, while the function holds what it was given

Origins: TypeAlias = set[oracle.Origin]


class RecoveryRig:
    """Runners that all read the streams of one group for each way of delivery, from a server of their own.

    Between two faults nothing is produced and everything is settled.
    """

    def __init__(self, flavour: Flavour, deliveries: Sequence[Delivery], directory: Path) -> None:
        self.server = RedisServer(flavour)
        self.groups = [StreamGroup(delivery, number=_STREAMS, delivery=delivery) for delivery in deliveries]
        self.function = FunctionProcess(directory, name=f"function-{flavour}")
        self.runners = [
            RunnerProcess(self._configuration(), directory=directory, name=f"{flavour}-{number}")
            for number in range(_REPLICAS)
        ]
        self._first_call = 0

    def _configuration(self) -> dict[str, Any]:
        mappings = {
            group.base: group.mapping(
                self.server.url,
                batch_size=10,
                maximum_batching_window="20ms",
                maximum_retry_attempts=1_000,
                ordering="partition" if group.delivery == "ordered" else "none",
            )
            for group in self.groups
        }
        return process({"function": http(self.function.url)}, mappings)

    # --- from start to stop

    async def start(self) -> None:
        """Raises ComponentMissing without the server's program."""
        self.server.start()
        await self.function.start(_AS_USUAL)
        async with connect(self.server.url) as client:
            for stream in self.streams():
                # The streams are there; made otherwise, they would be a problem until their first entry.
                await raw(client, "XGROUP", "CREATE", stream, "creator", "0", "MKSTREAM")
                await raw(client, "XGROUP", "DESTROY", stream, "creator")
        await asyncio.gather(*[runner.start() for runner in self.runners])
        await self.until_as_before((), timeout=_START_SECONDS)

    def stop(self) -> None:
        for runner in self.runners:
            runner.kill()
        self.function.stop()
        self.server.stop()

    def output(self) -> str:
        return "\n".join([self.server.output(), *(runner.process.output() for runner in self.runners)])

    # --- what is there

    def streams(self) -> list[str]:
        return [stream for group in self.groups for stream in group.streams]

    def calls(self) -> list[Call]:
        """Those of this episode."""
        return self.function.calls()[self._first_call :]

    def handled(self) -> Origins:
        """What was handled in this episode."""
        return set(oracle.handled_at(self.calls()))

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[SteadyProducer]:
        """Within this block entries are produced; it begins when entries of every stream have been handled."""
        self._first_call = len(self.function.calls())
        for group in self.groups:
            group.placed.clear()
        async with SteadyProducer(self.groups, self.server.url) as producer:
            await self.until_flowing(producer, since=time.monotonic())
            yield producer

    async def until_flowing(self, producer: SteadyProducer, *, since: float, timeout: float = RECOVERY_SECONDS) -> None:
        """Wait until of each stream some entries are handled that were accepted after ``since``, by the monotonic
        clock."""

        def flowing() -> bool:
            handled = self.handled()
            fresh = Counter(
                origin[0] for origin, at in producer.accepted_at.items() if at > since and origin in handled
            )
            return all(fresh[f"{stream}-0"] >= _FLOWING_ENTRIES for stream in self.streams())

        await until(flowing, what="entries of every stream are handled", timeout=timeout, every=0.02)

    async def behave_as_usual(self) -> None:
        """The function answers soon."""
        await self.function.behave(_AS_USUAL)

    # --- holding what is in flight

    async def hold(self, producer: SteadyProducer) -> None:
        """From here on the function answers no call: each lane has one, and behind it entries wait."""
        await self.function.behave(Behaviour(hang=True, fenced=True))

        async def held() -> bool:
            if (await self.function.status()).held < sum(len(group.streams) * lanes(group) for group in self.groups):
                return False
            handled = self.handled()
            waiting = Counter(each.topic for each in producer.placed() if each.origin not in handled)
            return min(waiting[stream] for stream in self.streams()) >= _WAITING_ENTRIES

        await until_async(held, what="every lane has a call that is held, and entries that wait", every=0.02)

    async def release(self, streams: Iterable[str], *, held_before: float) -> None:
        """Wait until the runners have given up the calls of ``streams`` that they had begun before this monotonic time,
        and answer calls again."""
        before_ns = held_before * 1e9
        wanted = Counter({f"{stream}-0": lanes(group) for group in self.groups for stream in group.streams})
        wanted = Counter({f"{stream}-0": wanted[f"{stream}-0"] for stream in streams})

        def given_up() -> bool:
            found = Counter(
                call.partition
                for call in self.calls()
                if call.ending == "abandoned" and call.start_ns < before_ns < call.end_ns
            )
            return all(found[partition] >= number for partition, number in wanted.items())

        await until(given_up, what="the calls in flight are given up", timeout=RECOVERY_SECONDS, every=0.02)
        await self.behave_as_usual()

    # --- what they are to show

    async def until_problem(self, reason: str, *, runners: int) -> None:
        """Wait until so many runners show it for every mapping."""

        async def shown() -> bool:
            found = [
                [await problem_reason(runner, group.base) for runner in self.runners].count(reason)
                for group in self.groups
            ]
            return min(found) >= runners

        await until_async(shown, what=f"{runners} runners show {reason}", timeout=RECOVERY_SECONDS, every=0.02)

    async def until_as_before(self, expected: Collection[oracle.Origin], *, timeout: float) -> None:
        """Wait until ``expected`` are handled, nothing is unread or pending, every runner says so, and each has its
        share of the streams."""
        left: dict[str, Any] = {}
        async with connect(self.server.url) as client:

            async def as_before() -> bool:
                left["unhandled"] = len(set(expected) - self.handled())
                left["unread or pending"] = [
                    stream
                    for group in self.groups
                    for stream in group.streams
                    if not await is_read(client, group, stream)
                ]
                left["runners"] = [text for group in self.groups for text in await self._complaints(group)]
                return not any(left.values())

            try:
                await until_async(as_before, what="all is as it was before", timeout=timeout)
            except TimeoutError as error:
                raise TimeoutError(f"{error}: {left}") from error

    async def _complaints(self, group: StreamGroup) -> list[str]:
        """Why not everything is well, as far as the runners know."""
        views = [await mapping_view(runner, group.base) for runner in self.runners]
        found = [f"{view['state']}: {view['problem']}" for view in views if view["state"] == "problem"]
        shares = [[each for each in view["partitions"] if each["assigned"]] for view in views]
        partitions = [each for share in shares for each in share]
        owners = Counter(each["topic"] for each in partitions)
        found += [f"{owners[stream]} read {stream}" for stream in group.streams if owners[stream] != lanes(group)]
        numbers = sorted(map(len, shares))
        if numbers[-1] - numbers[0] > 1:
            found.append(f"the streams are not spread evenly: {numbers}")
        found += [
            f"lag of {each['topic']}: {each['lag_records']}, {each['lag_seconds']} s"
            for each in partitions
            if (each["lag_records"], each["lag_seconds"]) != (0, 0)
        ]
        return found

    def assert_order(self, calls: Sequence[Call]) -> None:
        """What is promised of order, to the groups that are promised any."""
        for group in self.groups:
            if group.delivery == "ordered":
                of_group = [call for call in calls if call.mapping == group.base]
                oracle.assert_ordered(of_group, by="partition")
                assert_generations_never_fall(of_group)
                for generation in by_generation(of_group).values():
                    oracle.assert_no_overlap(generation, by="partition")


def lanes(group: StreamGroup) -> int:
    """How many calls with entries of one stream there may be at a time."""
    return 1 if group.delivery == "ordered" else _REPLICAS


async def is_read(client: Redis, group: StreamGroup, stream: str) -> bool:
    """Whether the group has been given all there is, and has acknowledged it."""
    ours = await group_of(client, group, stream)
    if ours is None:
        return False
    last = await raw(client, "XREVRANGE", stream, "+", "-", "COUNT", 1)
    return ours[b"pending"] == 0 and (not last or number_of(ours[b"last-delivered-id"]) >= number_of(last[0][0]))


async def group_of(client: Redis, group: StreamGroup, stream: str) -> dict[bytes, Any] | None:
    """The group of a stream as the server shows it; None where there is none."""
    if not await raw(client, "EXISTS", stream):
        return None
    for flat in await raw(client, "XINFO", "GROUPS", stream):
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        if found[b"name"] == group.base.encode():
            return found
    return None


def number_of(entry_id: bytes) -> int:
    return entry_number(entry_id.decode())
