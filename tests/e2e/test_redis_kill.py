"""Runners that share Redis streams end, by ``kill -9`` again and again or by SIGTERM: nothing lost, all in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

import pytest
from redis.asyncio import Redis

from e2e_support.process_fixtures import NewRunner
from e2e_support.redis_group import (
    STREAMS,
    StreamGroup,
    assert_generations_never_fall,
    generations,
    owned_streams,
    refused,
    until_owned,
)
from e2e_support.redis_load import PacedLoad
from e2e_support.redis_owners import OwnershipWatch
from e2e_support.scale import FULL, MINUTE, scaled
from e2e_support.stream import metric
from kafka_harness import oracle
from kafka_harness.behaviour import Behaviour
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewStream
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async
from redis_harness.flavour import Flavour
from redis_harness.server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(5 * MINUTE if FULL else 2 * MINUTE)]

_REPLICAS = 3
_KILLS: Final = scaled(4, 14)
_SECONDS: Final = scaled(22, 105)
_ENTRIES_A_SECOND = 20.0  # of each stream
_POISON_EVERY = 20
_POISON = b'"poison": true'
_LONG_LEASE = 15.0
_LONG_HEARTBEAT = 1.0
_SLACK = 4.0  # seconds for a busy machine
_EXIT_TIMEOUT = 15.0


async def test_kills_with_order_by_partition_and_bisect(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    config = group.configuration(
        redis_server.url,
        function,
        ordering="partition",
        batch_size=10,
        maximum_batching_window="20ms",
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=1,
    )
    await function.start(Behaviour(delay_ms=40, fenced=True))
    runners = [new_runner(config) for _ in range(_REPLICAS)]
    await _survive(redis_server, client, group, function, runners, seed=1, by="partition")


@pytest.mark.parametrize("redis_server", [Flavour.REDIS_7_0], indirect=True)
async def test_kills_with_order_by_key_and_partial_failures(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    config = group.configuration(
        redis_server.url,
        function,
        ordering="key",
        parallelization_factor=8,
        batch_size=5,
        maximum_batching_window="20ms",
        maximum_retry_attempts=1,
        function_response_types=["report_batch_item_failures"],
    )
    await function.start(Behaviour(delay_ms=200, poison="report", fenced=True))
    runners = [new_runner(config) for _ in range(_REPLICAS)]
    await _survive(redis_server, client, group, function, runners, seed=2, by="key")


async def _survive(
    server: RedisServer,
    client: Redis,
    group: StreamGroup,
    function: FunctionProcess,
    runners: Sequence[RunnerProcess],
    *,
    seed: int,
    by: oracle.Unit,
) -> None:
    async with OwnershipWatch(server, group) as watch:
        async with PacedLoad(group, client, a_second=_ENTRIES_A_SECOND, poison_every=_POISON_EVERY):
            began = time.monotonic()
            await asyncio.gather(*[runner.start() for runner in runners])
            kills = await _kill_repeatedly(runners, function, began, random.Random(seed))
            # For so long entries come, however quick the kills were.
            await asyncio.sleep(max(0.0, began + _SECONDS - time.monotonic()))
        await group.until_settled(client, function)
        await _until_even(runners, group)
        for runner in runners:
            await runner.stop_cleanly(_EXIT_TIMEOUT)
    calls = function.calls()
    await group.assert_promises(client, calls, by=by, poison=_POISON)
    assert_generations_never_fall(calls)
    assert refused(calls) == []
    watch.assert_one_owner_at_a_time()
    owners = sum(len(history) for history in watch.histories())
    print(
        f"order by {by}: {len(group.placed)} entries, {_KILLS} of {kills} kills hit, {len(calls)} calls, "
        f"{len(oracle.duplicates(calls))} entries handled again, {owners} times owned, "
        f"{time.monotonic() - began:.0f} s"
    )


async def _until_even(runners: Sequence[RunnerProcess], group: StreamGroup) -> None:
    """Wait until the streams are spread evenly, which all are owned then."""

    async def even() -> bool:
        counts = [len(await owned_streams(runner, group)) for runner in runners]
        return sum(counts) == STREAMS and max(counts) - min(counts) <= 1

    await until_async(even, what="the streams are spread evenly")


async def _kill_repeatedly(
    runners: Sequence[RunnerProcess], function: FunctionProcess, began: float, chooser: random.Random
) -> int:
    """Kill one at random, at an even pace, and start it again, until so many kills have hit calls in flight. Returns
    how many it took."""
    hits = kills = 0
    while hits < _KILLS:
        await asyncio.sleep(max(0.0, began + (hits + 1) * _SECONDS / (_KILLS + 1) - time.monotonic()))
        victim = chooser.choice(runners)
        await _until_in_flight(victim)
        before = _cut_off(function)
        victim.kill()
        kills += 1
        hits += await _grows(function, before)
        await victim.start()
    return kills


async def _until_in_flight(runner: RunnerProcess) -> None:
    async def in_flight() -> bool:
        return await metric(runner, "inflight_invocations") >= 1

    await until_async(in_flight, what=f"{runner.name} has entries in flight", every=0.01)


def _cut_off(function: FunctionProcess) -> int:
    """How many calls have lost their caller."""
    return sum(call.ending == "abandoned" for call in function.calls())


async def _grows(function: FunctionProcess, before: int) -> bool:
    """Whether the kill cut calls off: the last may have been answered right before it."""
    try:
        return await until(lambda: _cut_off(function) > before, what="calls lose their caller", timeout=1.0, every=0.01)
    except TimeoutError:
        return False


async def test_a_clean_stop_repeats_nothing_and_nobody_waits_for_its_leases(
    redis_server: RedisServer, client: Redis, new_stream: NewStream, function: FunctionProcess, new_runner: NewRunner
) -> None:
    group = StreamGroup(new_stream(), lease=_LONG_LEASE, heartbeat=_LONG_HEARTBEAT)
    config = group.configuration(
        redis_server.url,
        function,
        ordering="key",
        parallelization_factor=8,
        batch_size=5,
        maximum_batching_window="20ms",
    )
    await function.start(Behaviour(delay_ms=100, fenced=True))
    leaving, staying = new_runner(config, name="leaving"), new_runner(config, name="staying")
    async with (
        OwnershipWatch(redis_server, group) as watch,
        PacedLoad(group, client, a_second=4 * _ENTRIES_A_SECOND),
    ):
        await leaving.start()
        await staying.start()
        # What the second takes the first lets go: that is under load too.
        owned = await until_owned({leaving: STREAMS // 2, staying: STREAMS // 2}, group, timeout=3 * _LONG_LEASE)
        await _until_in_flight(leaving)
        await leaving.stop_cleanly(_EXIT_TIMEOUT)
        left_ns = time.monotonic_ns()
        await until_owned({staying: STREAMS}, group, timeout=_LONG_LEASE)
        taken_over = {f"{stream}-0" for stream in owned[leaving]}

        def all_begun() -> bool:
            return taken_over <= {call.partition for call in function.calls() if call.start_ns > left_ns}

        await until(all_begun, what="all streams go on", timeout=_LONG_LEASE)
    await group.until_settled(client, function)
    await staying.stop_cleanly(_EXIT_TIMEOUT)
    calls = function.calls()
    await group.assert_promises(client, calls, by="key")
    assert oracle.duplicates(calls) == {}
    assert_generations_never_fall(calls)
    assert refused(calls) == []
    watch.assert_one_owner_at_a_time()
    gaps = [_gap_seconds(generations(calls, partition)[-1][0].start_ns, left_ns) for partition in sorted(taken_over)]
    # One that finds itself alone in the registry moves nothing for a heartbeat: the others may only be late.
    assert max(gaps) < 2 * _LONG_HEARTBEAT + _SLACK < _LONG_LEASE / 2, "the other waited for more than its next looks"
    print(f"clean stop: {len(group.placed)} entries, {len(calls)} calls, taken over after {max(gaps):.2f} s")


def _gap_seconds(after_ns: int, before_ns: int) -> float:
    return (after_ns - before_ns) / 1e9
