"""What a scrape of a running process says, against what is known from outside to be true."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import Any

import pytest

from e2e_support.configuration import dead_letters_to, from_kafka, http, process
from e2e_support.looking import lag_records, lag_seconds, problem_reason
from e2e_support.process_fixtures import NewRunner
from e2e_support.scale import scaled
from kafka_harness import placement, producing, topics
from kafka_harness.behaviour import Behaviour, Fault
from kafka_harness.broker import Broker
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewTopic
from kafka_harness.ports import free_port
from kafka_harness.producing import Item
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.scrape import Scrape
from kafka_harness.waiting import until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(120)]

_DELAY = scaled(3, 30)
_OLD = 3_600
_TOLERANCE = 1.0


async def test_lag_follows_an_injected_delay_within_a_second(
    kafka: Broker, function: FunctionProcess, new_runner: NewRunner, new_topic: NewTopic
) -> None:
    topic = new_topic()
    runner = await _run_on(kafka, function, new_runner, topic, partitions=2)
    await _until_lag(runner, topic, seconds={0: 0.0, 1: 0.0}, records={0: 0, 1: 0})
    await function.behave(Behaviour(hang=True))
    for age in (0, _OLD):
        oldest = time.time() - age
        await _produce_stamped(kafka, topic, oldest, count=30)
        await function.until_held(1)
        seen = await _sample_lag(runner, topic, oldest, partition=0, until=age + _DELAY)
        assert all(other == {1: 0.0} for other in seen), "the other partition is not behind"
        await function.behave(Behaviour())
        await _until_lag(runner, topic, seconds={0: 0.0, 1: 0.0}, records={0: 0, 1: 0})
        await function.behave(Behaviour(hang=True))


async def test_lag_counts_the_records_that_are_not_fetched_yet(
    kafka: Broker, function: FunctionProcess, new_runner: NewRunner, new_topic: NewTopic
) -> None:
    topic = new_topic()
    buffer = {"records": 100, "bytes": "6MB"}
    runner = await _run_on(kafka, function, new_runner, topic, behaviour=Behaviour(hang=True), buffer=buffer)
    # The first fill the buffer, so that those after them are known only from asking for the end.
    await producing.produce(kafka.bootstrap, topic, producing.numbered(500))

    async def paused() -> bool:
        scrape = await runner.scrape()
        return scrape.value("stream_runner_paused_partitions", mapping=topic, reason="buffer_records") == 1

    await until_async(paused, what="the buffer is full")
    await producing.produce(kafka.bootstrap, topic, producing.numbered(1_000))

    async def counted() -> bool:
        return lag_records(await runner.scrape(), topic) == {0: 1_500}

    await until_async(counted, what="all records are counted", timeout=15.0)
    scrape = await runner.scrape()
    assert scrape.value("stream_runner_unsettled_records", mapping=topic) <= 500
    await function.behave(Behaviour())
    await _until_lag(runner, topic, seconds={0: 0.0}, records={0: 0})


async def test_lag_is_absent_while_it_was_never_known(
    kafka: Broker, function: FunctionProcess, new_runner: NewRunner, new_topic: NewTopic
) -> None:
    await function.start()
    mappings = {
        "no-topic": from_kafka(kafka.bootstrap, new_topic(), "function"),
        "no-broker": from_kafka(f"127.0.0.1:{free_port()}", new_topic(), "function"),
    }
    runner = new_runner(process({"function": http(function.url)}, mappings))
    await runner.start()
    assert await problem_reason(runner, "no-topic") == "EVENT_SOURCE_NOT_FOUND"
    assert await problem_reason(runner, "no-broker") == "EVENT_SOURCE_UNREACHABLE"
    scrape = await runner.scrape()
    for name in mappings:
        assert lag_seconds(scrape, name) == {}
        assert lag_records(scrape, name) == {}
        assert scrape.value("stream_runner_records_fetched_total", mapping=name) == 0


async def test_a_scrape_of_a_busy_process_is_what_prometheus_expects(
    kafka: Broker, function: FunctionProcess, new_runner: NewRunner, new_topic: NewTopic, promtool: str
) -> None:
    topic, letters_topic = new_topic(), new_topic()
    await topics.create_topic(kafka.bootstrap, letters_topic)
    faults = [Fault(0.1), Fault(0.1, status=429, retry_after=0.0), Fault(0.1, kind="reset")]
    runner = await _run_on(
        kafka,
        function,
        new_runner,
        topic,
        partitions=4,
        behaviour=Behaviour(delay_ms=20, faults=faults),
        batch_size=10,
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=1,
        buffer={"records": 200, "bytes": "6MB"},
        destination_config=dead_letters_to(letters_topic),
    )
    items = producing.numbered(4_000, poison_every=50)
    await producing.produce(kafka.bootstrap, topic, items, place=placement.round_robin(4))

    async def busy() -> Scrape | None:
        scrape = await runner.scrape()
        signs = ("inflight_invocations", "retries_total", "dead_letters_total", "paused_partitions", "lag_records")
        return scrape if all(scrape.value(f"stream_runner_{sign}") for sign in signs) else None

    scrape = await until_async(busy, what="the process is busy in every way")
    assert scrape is not None
    command = [promtool, "check", "metrics"]
    checked = await asyncio.to_thread(
        subprocess.run, command, input=scrape.text, capture_output=True, text=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_series_of_a_partition_go_with_it(
    kafka: Broker, function: FunctionProcess, new_runner: NewRunner, new_topic: NewTopic
) -> None:
    topic = new_topic()
    first = await _run_on(kafka, function, new_runner, topic, partitions=4)
    every = {0, 1, 2, 3}

    await _until_lag(first, topic, seconds=dict.fromkeys(every, 0.0), records=dict.fromkeys(every, 0))
    second = new_runner(_configuration(kafka, function, topic))
    await second.start()

    async def shared() -> bool:
        ours = _partitions_with_series(await first.scrape())
        theirs = _partitions_with_series(await second.scrape())
        return len(ours) == len(theirs) == 2 and ours | theirs == every

    await until_async(shared, what="each process shows the two partitions that it has")
    await second.stop_cleanly()

    async def alone() -> bool:
        return _partitions_with_series(await first.scrape()) == every

    await until_async(alone, what="the process that stays shows all partitions")


async def _run_on(
    kafka: Broker,
    function: FunctionProcess,
    new_runner: NewRunner,
    topic: str,
    *,
    partitions: int = 1,
    behaviour: Behaviour | None = None,
    **keys: Any,
) -> RunnerProcess:
    """A started process whose mapping, named as its topic, reads a new one; ``keys`` are the mapping's."""
    await topics.create_topic(kafka.bootstrap, topic, partitions=partitions)
    await function.start(behaviour)
    runner = new_runner(_configuration(kafka, function, topic, **keys))
    await runner.start()
    return runner


def _configuration(kafka: Broker, function: FunctionProcess, topic: str, **keys: Any) -> dict[str, Any]:
    mapping = from_kafka(kafka.bootstrap, topic, "function", commit_interval="200ms", **keys)
    return process({"function": http(function.url, timeout="60s")}, {topic: mapping})


async def _produce_stamped(kafka: Broker, topic: str, oldest: float, *, count: int) -> None:
    """Records a millisecond apart; the first has the timestamp ``oldest``, in epoch seconds."""
    items = producing.numbered(count)
    stamped = [Item(item.value, timestamp_ms=int(oldest * 1000) + n) for n, item in enumerate(items)]
    await producing.produce(kafka.bootstrap, topic, stamped)


async def _until_lag(runner: RunnerProcess, topic: str, *, seconds: dict[int, float], records: dict[int, int]) -> None:
    async def reached() -> bool:
        scrape = await runner.scrape()
        return (lag_seconds(scrape, topic), lag_records(scrape, topic)) == (seconds, records)

    await until_async(reached, what=f"the lag is {seconds} s, {records} records")


async def _sample_lag(
    runner: RunnerProcess, topic: str, oldest: float, *, partition: int, until: float
) -> list[dict[int, float]]:
    """Scrape until the oldest record is ``until`` seconds old; the lag is right each time.

    Returns what was seen of the other partitions.
    """
    others = []

    async def old_enough() -> bool:
        before = time.time() - oldest
        lags = lag_seconds(await runner.scrape(), topic)
        after = time.time() - oldest
        lag = lags.pop(partition)
        others.append(lags)
        assert before - _TOLERANCE <= lag <= after + _TOLERANCE
        return after >= until

    await until_async(old_enough, what=f"a record is {until} s old", timeout=_DELAY + 10.0, every=0.2)
    return others


def _partitions_with_series(scrape: Scrape) -> set[int]:
    """Those for which any metric has a series."""
    return {int(sample.labels["partition"]) for sample in scrape.samples if "partition" in sample.labels}
