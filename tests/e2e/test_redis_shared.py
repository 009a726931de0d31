"""Runners that share a stream entry by entry: killed, frozen, slow, or stopped in the middle of a load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from e2e_support.configuration import http, process
from e2e_support.looking import mapping_view
from e2e_support.process_fixtures import NewRunner
from e2e_support.redis_group import HEARTBEAT, LEASE, StreamGroup
from e2e_support.redis_load import PacedLoad
from e2e_support.scale import MINUTE
from e2e_support.stream import metric
from kafka_harness import oracle, producing
from kafka_harness.behaviour import Behaviour
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewStream
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async
from redis_harness.client import raw
from redis_harness.flavour import Flavour
from redis_harness.server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(2 * MINUTE)]

_STREAMS: Final = 2
_EXIT_TIMEOUT: Final = 15.0
_SLACK: Final = 3.0
"""Seconds for a busy machine."""
_SLOW: Final = 10 * LEASE
_LANES: Final = 4
_LATE: Final = 3  # entries of each stream
_OPTIONS: Final[dict[str, Any]] = {
    "batch_size": 5,
    "parallelization_factor": _LANES,
    "maximum_batching_window": "20ms",
}


@pytest.fixture
def group(new_stream: NewStream) -> StreamGroup:
    return StreamGroup(new_stream(), number=_STREAMS, delivery="shared")


async def _start(*runners: RunnerProcess, group: StreamGroup) -> None:
    """Start them, and wait until each reads all streams."""
    await asyncio.gather(*[runner.start() for runner in runners])

    async def all_assigned() -> bool:
        shown = [(await mapping_view(runner, group.base))["partitions"] for runner in runners]
        return all(sum(each["assigned"] for each in of_one) == _STREAMS for of_one in shown)

    await until_async(all_assigned, what="every runner reads all streams")


async def _in_flight(runner: RunnerProcess) -> float:
    return await metric(runner, "inflight_invocations")


async def _until_in_flight(*runners: RunnerProcess, calls: int = 1) -> None:
    async def in_flight() -> bool:
        return all([await _in_flight(runner) >= calls for runner in runners])

    await until_async(in_flight, what="all have calls in flight", every=0.02)


async def _until_held(function: FunctionProcess, *, least: int) -> None:
    async def held() -> bool:
        return (await function.status()).held >= least

    await until_async(held, what=f"{least} calls are held", every=0.02)


async def _stop(*runners: RunnerProcess) -> None:
    for runner in runners:
        runner.terminate()
    for runner in runners:
        assert await runner.stopped(_EXIT_TIMEOUT) == 0


async def _consumers(client: Redis, group: StreamGroup) -> set[bytes]:
    shown = [each for stream in group.streams for each in await raw(client, "XINFO", "CONSUMERS", stream, group.base)]
    return {each[each.index(b"name") + 1] for each in shown}


@pytest.mark.parametrize("redis_server", list(Flavour), indirect=True)
async def test_what_a_killed_one_had_comes_back(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    config = group.configuration(redis_server.url, function, **_OPTIONS)
    await function.start(Behaviour(delay_ms=100))
    killed, other = new_runner(config, name="killed"), new_runner(config, name="other")
    for stream in group.streams:
        await group.add(client, stream, producing.numbered(10, keys=7))
    await _start(killed, other, group=group)
    async with PacedLoad(group, client, a_second=40):
        await function.behave(Behaviour(hang=True))
        await _until_in_flight(killed, other, calls=2 * _LANES)
        await asyncio.sleep(LEASE)  # its entries are older than a lease, and kept by its heartbeats alone
        killed.kill()
        killed_ns = time.monotonic_ns()
        await until(lambda: _abandoned(function), what="calls have lost their caller")
        left = _abandoned(function)
        await function.behave(Behaviour(delay_ms=20))
        await until(
            lambda: left <= set(oracle.handled_at(_since(function, killed_ns))), what="another has handled them"
        )
    await group.until_settled(client, function)
    await _stop(other)
    await group.assert_promises(client, function.calls(), by=None)
    handled_at = oracle.handled_at(_since(function, killed_ns))
    took = max(handled_at[origin] - killed_ns for origin in left) / 1e9
    assert took < LEASE + HEARTBEAT + _SLACK, f"it took {took:.2f} s"
    print(f"killed: {len(left)} entries in flight came back within {took:.2f} s")


def _abandoned(function: FunctionProcess) -> set[oracle.Origin]:
    return {
        (call.partition, offset) for call in function.calls() if call.ending == "abandoned" for offset in call.offsets
    }


def _since(function: FunctionProcess, start_ns: int) -> Collection[Any]:
    return [call for call in function.calls() if call.start_ns >= start_ns]


async def test_a_function_that_is_slow_for_ten_leases_is_not_stolen_from(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    patient = {"function": http(function.url, timeout=f"{2 * _SLOW:g}s")}
    config = process(patient, {group.base: group.mapping(redis_server.url, **_OPTIONS)})
    await function.start(Behaviour(delay_ms=_SLOW * 1000))
    runners = [new_runner(config, name="one"), new_runner(config, name="two")]
    for stream in group.streams:
        await group.add(client, stream, producing.numbered(8, keys=7))
    await _start(*runners, group=group)

    async def both_are_busy() -> bool:
        # Who reads first may take all that there is.
        for stream in group.streams:
            await group.add(client, stream, producing.numbered(8, keys=7, start=len(group.placed)))
        return all([await _in_flight(runner) >= 1 for runner in runners])

    await until_async(both_are_busy, what="both have calls in flight")
    await function.behave(Behaviour())  # for calls that are still to come
    await until(lambda: len(_slow_calls(function)) >= 2, what="the slow calls of both have ended", timeout=_SLOW + 10)
    await group.until_settled(client, function)
    for runner in runners:
        assert await metric(runner, "stale_records_total") == 0
    await _stop(*runners)
    calls = function.calls()
    await group.assert_promises(client, calls, by=None)
    assert oracle.duplicates(calls) == {}
    assert all(call.generation == 0 for call in calls), "there is no owner, and so no generation"


def _slow_calls(function: FunctionProcess) -> list[Any]:
    # uvloop's timers may be up to a millisecond early.
    return [call for call in function.calls() if call.end_ns - call.start_ns >= (_SLOW - 0.001) * 1_000_000_000]


async def test_what_a_frozen_one_learns_too_late_moves_nothing(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    config = group.configuration(redis_server.url, function, **_OPTIONS | {"maximum_retry_attempts": 0})
    await function.start(Behaviour(hang=True))
    frozen, other = new_runner(config, name="frozen"), new_runner(config, name="other")
    for stream in group.streams:
        await group.add(client, stream, producing.numbered(20, keys=7, poison_every=4))
    await _start(frozen, group=group)
    await _until_held(function, least=2)
    frozen.pause()
    await function.behave(Behaviour())  # its calls are answered, while it does not hear it
    await until(lambda: bool(function.calls()), what="its calls have ended")
    await function.behave(Behaviour(poison="accept", hang_keys=["late"]))
    await _start(other, group=group)
    await group.until_settled(client, function)
    letters = await group.letters(client)
    for stream in group.streams:
        await group.add(client, stream, [producing.Item(b"{}", b"late")] * _LATE)
    await _until_in_flight(other, calls=2)

    async def all_are_read() -> bool:
        return [len(entries) for entries in (await group.pending(client)).values()] == [_LATE] * _STREAMS

    await until_async(all_are_read, what="all that is late is read")
    before = await group.pending(client)
    frozen.resume()

    async def is_stale() -> bool:
        return await metric(frozen, "stale_records_total") > 0

    await until_async(is_stale, what="it notices that it is late")
    after = await group.pending(client)
    assert {stream: [each[:2] for each in entries] for stream, entries in after.items()} == {
        stream: [each[:2] for each in entries] for stream, entries in before.items()
    }
    await function.behave(Behaviour(poison="accept"))
    await group.until_settled(client, function)
    assert await group.letters(client) == letters == [], "what another has handled is given up by nobody"
    assert await metric(other, "stale_records_total") == 0
    await _stop(frozen, other)
    await group.assert_promises(client, function.calls(), by=None)


async def test_a_clean_stop_repeats_nothing(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    group.lease, group.heartbeat = 10.0, 1.0
    config = group.configuration(redis_server.url, function, **_OPTIONS)
    await function.start(Behaviour(delay_ms=50))
    leaving, staying = new_runner(config, name="leaving"), new_runner(config, name="staying")
    for stream in group.streams:
        await group.add(client, stream, producing.numbered(1, keys=7))
    await _start(leaving, staying, group=group)
    async with PacedLoad(group, client, a_second=200):
        await until(lambda: len(function.calls()) > 20, what="the load goes on")
        await _until_in_flight(leaving, staying)
        await _stop(leaving)
        left_at, placed = time.monotonic(), [each.origin for each in group.placed]
        await until(lambda: set(placed) <= set(oracle.handled_at(function.calls())), what="what it left is handled")
        assert time.monotonic() - left_at < group.lease / 2, "nobody waits for who has gone"
        await _until_in_flight(staying)
        await _stop(staying)
        await staying.start()
    await group.until_settled(client, function)
    await _stop(staying)
    calls = function.calls()
    await group.assert_promises(client, calls, by=None)
    assert oracle.duplicates(calls) == {}
    assert await _consumers(client, group) <= {b"stream-runner"}
