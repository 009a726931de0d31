"""Stops, rebalances and reloads under load: what is settled does not come again, or exactly what was announced."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import pytest

from e2e_support.configuration import http
from e2e_support.load import Load
from e2e_support.looking import mapping_view
from e2e_support.process_fixtures import NewRunner
from e2e_support.scale import MINUTE
from e2e_support.stream import (
    PARTITIONS,
    Stream,
    announced,
    committed_records,
    configuration,
    metric,
    repeated,
    until_assigned,
    until_metric,
    until_progress,
)
from kafka_harness import oracle, producing
from kafka_harness.behaviour import Behaviour
from kafka_harness.broker import Broker
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewTopic
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(3 * MINUTE)]

_STOPS = 3
_JOINS = 5
_RELOADS = 20
_KEYS = 101
_DRAIN_TIMEOUT: Final = 6.0
_COMMIT_TIMEOUT: Final = 4.0
_TIMES: Final[Mapping[str, Any]] = {"drain_timeout": f"{_DRAIN_TIMEOUT:g}s", "commit_timeout": f"{_COMMIT_TIMEOUT:g}s"}
_PARALLEL: Final[Mapping[str, Any]] = {
    "ordering": "key",
    "parallelization_factor": 16,
    "batch_size": 5,
    "maximum_batching_window": "20ms",
    **_TIMES,
}
_LAST_RELOAD: Final = "config_last_reload_success_timestamp_seconds"
_QUICK_RETRIES: Final = {"initial": "400ms", "maximum": "800ms"}
_ENDLESS_RETRIES: Final = {"initial": "1h", "maximum": "1h"}


async def test_a_stop_makes_the_retries_that_wait_and_repeats_nothing(
    stream: Stream, function: FunctionProcess, new_runner: NewRunner
) -> None:
    mapping = stream.mapping(ordering="partition", batch_size=25, retry_backoff=_QUICK_RETRIES, **_TIMES)
    runner = new_runner(configuration(http(function.url, timeout="5s"), (stream, mapping)))
    await stream.create()
    # More than is done before the last stop, also where a busy machine makes the stops late.
    await stream.produce(producing.numbered(12_000, keys=_KEYS, poison_every=60, poison=1))
    await function.start(Behaviour(delay_ms=5))
    async with stream.watch() as watch:
        for _stop in range(_STOPS):
            await runner.start()
            await until_progress(watch, runner)
            await _until_retries_wait(runner, stream, least=2)
            await _stop_in_time(runner)
            assert committed_records(watch) < len(stream.placed)
        await function.behave(Behaviour(poison="accept"))
        await runner.start()
        await stream.caught_up(watch)
        await _stop_in_time(runner)
    await _assert_nothing_repeated(stream, watch, function, runner, by="partition")


async def test_a_stop_does_not_wait_for_retries_that_cannot_be_made_in_time(
    stream: Stream, function: FunctionProcess, new_runner: NewRunner
) -> None:
    mapping = stream.mapping(ordering="partition", batch_size=25, retry_backoff=_ENDLESS_RETRIES, **_TIMES)
    runner = new_runner(configuration(http(function.url, timeout="5s"), (stream, mapping)))
    await stream.create()
    await stream.produce(producing.numbered(4_000, keys=_KEYS, poison_every=200))
    await function.start(Behaviour(delay_ms=5))
    async with stream.watch() as watch:
        await runner.start()
        await _until_retries_wait(runner, stream, least=PARTITIONS)
        assert await _stop_in_time(runner) < _DRAIN_TIMEOUT, "the drain waited for what cannot come in time"
        await function.behave(Behaviour(poison="accept"))
        await runner.start()
        await stream.caught_up(watch)
        await _stop_in_time(runner)
    await _assert_nothing_repeated(stream, watch, function, runner, by="partition")


async def test_a_stop_with_parallel_lanes_repeats_nothing_of_a_healthy_function(
    stream: Stream, function: FunctionProcess, new_runner: NewRunner
) -> None:
    mapping = stream.mapping(**_PARALLEL)
    runner = new_runner(configuration(http(function.url, timeout="5s"), (stream, mapping)))
    await stream.create()
    await function.start(Behaviour(delay_ms=100))
    async with stream.watch() as watch:
        async with Load(stream, watch, backlog=20_000, keys=1_009):
            for _stop in range(_STOPS):
                await runner.start()
                await until_progress(watch, runner)
                await until_metric(runner, "inflight_invocations", least=4 * PARTITIONS)
                await _stop_in_time(runner)
                assert committed_records(watch) < len(stream.placed)
        await function.behave(Behaviour())
        await runner.start()
        await stream.caught_up(watch)
        await _stop_in_time(runner)
    await _assert_nothing_repeated(stream, watch, function, runner, by="key")


async def test_a_stop_with_lanes_that_cannot_settle_repeats_exactly_what_it_announced(
    stream: Stream, function: FunctionProcess, new_runner: NewRunner
) -> None:
    mapping = stream.mapping(**_PARALLEL)
    runner = new_runner(configuration(http(function.url, timeout="30s"), (stream, mapping)))
    await stream.create()
    await stream.produce(producing.numbered(20_000, keys=1_009))
    await function.start(Behaviour(delay_ms=40, hang_keys=["key-17", "key-503", "key-777"]))
    async with stream.watch() as watch:
        await runner.start()
        await function.until_held(3)
        await until_metric(runner, "ahead_records", least=500)
        await _stop_in_time(runner)
        number_announced = await _until_announced(runner)
        await function.behave(Behaviour())
        await runner.start()
        await stream.caught_up(watch)
        await _stop_in_time(runner)
    calls = function.calls()
    await stream.assert_promises(watch, calls, by="key")
    assert sum(number_announced.values()) >= 500
    assert repeated(calls) == number_announced
    assert announced(runner) == number_announced, "the second life announced records too"


async def test_a_second_runner_joins_and_leaves_under_load(
    stream: Stream, function: FunctionProcess, new_runner: NewRunner
) -> None:
    mapping = stream.mapping(
        ordering="key", parallelization_factor=4, batch_size=10, maximum_batching_window="20ms", **_TIMES
    )
    config = configuration(http(function.url, timeout="5s"), (stream, mapping))
    host, guest = new_runner(config, name="host"), new_runner(config, name="guest")
    await stream.create()
    await function.start(Behaviour(delay_ms=20))
    async with stream.watch() as watch:
        async with Load(stream, watch, backlog=2_000, keys=1_009):
            await host.start()
            for _join in range(_JOINS):
                await guest.start()
                await until_assigned({host: PARTITIONS // 2, guest: PARTITIONS // 2})
                await until_metric(guest, "records_settled_total", least=1, outcome="delivered")
                await _stop_in_time(guest)
                await until_assigned({host: PARTITIONS})
                await until_progress(watch, host)
        await stream.caught_up(watch)
        await _stop_in_time(host)
    calls = function.calls()
    await stream.assert_promises(watch, calls, by="key")
    watch.assert_never_back()
    assert oracle.duplicates(calls) == {}
    print(f"{_JOINS} joins: {len(stream.placed)} records, {len(calls)} calls, nothing again")


async def test_reloads_under_load_change_one_mapping_and_leave_the_other_alone(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, new_runner: NewRunner
) -> None:
    changed, unchanged = (Stream(kafka, new_topic(), new_topic()) for _ in range(2))
    configs = [
        configuration(
            http(function.url, timeout="5s"),
            (changed, changed.mapping(batch_size=batch_size, maximum_batching_window="20ms", **_TIMES)),
            (unchanged, unchanged.mapping(batch_size=10, maximum_batching_window="20ms", **_TIMES)),
        )
        for batch_size in (10, 20)
    ]
    runner = new_runner(configs[0])
    for stream in (changed, unchanged):
        await stream.create()
    await function.start(Behaviour(delay_ms=10))
    async with changed.watch() as watch, unchanged.watch() as other_watch:
        async with (
            Load(changed, watch, backlog=2_000, keys=_KEYS),
            Load(unchanged, other_watch, backlog=2_000, keys=_KEYS),
        ):
            await runner.start()
            for number in range(1, _RELOADS + 1):
                joined = await metric(runner, "rebalances_total", mapping=changed.group)
                await _reload(runner, configs[number % 2])
                # Every other reload comes while the one before it still drains or joins.
                if number % 2 == 0:
                    await until_metric(runner, "rebalances_total", least=joined + 1, mapping=changed.group)
                    await until_metric(runner, "assigned_partitions", least=PARTITIONS, mapping=changed.group)
                    await until_progress(watch, runner)
                    await until_progress(other_watch, runner)
            assert await metric(runner, "rebalances_total", mapping=unchanged.group) == 1
            assert await metric(runner, "rebalances_total", mapping=changed.group) > _RELOADS // 2
        for stream, its_watch in ((changed, watch), (unchanged, other_watch)):
            await stream.caught_up(its_watch)
        await _stop_in_time(runner)
    for stream, its_watch in ((changed, watch), (unchanged, other_watch)):
        calls = [call for call in function.calls() if call.mapping == stream.group]
        await stream.assert_promises(its_watch, calls, by="partition")
        its_watch.assert_never_back()
        assert oracle.duplicates(calls) == {}
        print(f"{_RELOADS} reloads: {len(stream.placed)} records, {len(calls)} calls, nothing again")
    assert announced(runner) == {}


async def _stop_in_time(runner: RunnerProcess) -> float:
    """SIGTERM; the runner ends with 0 within drain and commit timeout. Returns how many seconds it took."""
    began = time.monotonic()
    await runner.stop_cleanly(_DRAIN_TIMEOUT + _COMMIT_TIMEOUT)
    return time.monotonic() - began


async def _assert_nothing_repeated(
    stream: Stream, watch: CommitWatch, function: FunctionProcess, runner: RunnerProcess, *, by: oracle.Unit
) -> None:
    """Every promise was kept, no record was handled again, and none was announced to be."""
    calls = function.calls()
    await stream.assert_promises(watch, calls, by=by)
    assert oracle.duplicates(calls) == {}
    assert announced(runner) == {}


async def _until_retries_wait(runner: RunnerProcess, stream: Stream, *, least: int) -> None:
    """Wait until lanes of ``least`` partitions wait for their next attempt at one time."""

    async def waiting() -> bool:
        shown = (await mapping_view(runner, stream.group))["partitions"]
        return sum("its next attempt" in str(partition["waiting_for"]) for partition in shown) >= least

    await until_async(waiting, what=f"{least} partitions wait for a retry", every=0.02)


async def _until_announced(runner: RunnerProcess) -> dict[str, int]:
    return await until(lambda: announced(runner), what="records that come again are announced", timeout=5.0)


async def _reload(runner: RunnerProcess, config: Mapping[str, Any]) -> None:
    """Replace the configuration; it is in force when this returns."""
    last = await metric(runner, _LAST_RELOAD)
    runner.write_config(config)
    runner.reload()

    async def reloaded() -> bool:
        return await metric(runner, _LAST_RELOAD) != last  # the time of day may be set back

    await until_async(reloaded, what="the configuration is reloaded", every=0.01)
    assert await metric(runner, "config_last_reload_successful") == 1
