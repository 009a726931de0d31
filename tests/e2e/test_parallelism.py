"""Lanes against a real broker: what parallelism gains, and how far a poisoned key can hold up the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from e2e_support import configuration
from e2e_support.process_fixtures import NewRunner
from kafka_harness import oracle, producing, topics
from kafka_harness.behaviour import Behaviour
from kafka_harness.broker import Broker
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, key_id
from kafka_harness.naming import NewTopic
from kafka_harness.producing import Item
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

FACTOR = 16
GAIN = 12
TRIES = 3
DELAY_MS = 20.0
WINDOW_OF_A_LANE = 30
KEYS = 500
MAXIMUM_AHEAD = 2_000
BUFFER_RECORDS = 1_000
POISON_KEY = b"key-7"
FLAT_BYTES = 12_000_000


async def test_sixteen_lanes_of_one_partition_do_twelve_times_as_much(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, function: FunctionProcess
) -> None:
    await function.start(Behaviour(delay_ms=DELAY_MS))
    rates = {1: 0.0, FACTOR: 0.0}
    # Whatever else the machine does can only make the sixteen lanes slower, so they may try again.
    for factor, records in ((1, 100), *[(FACTOR, 160 * FACTOR)] * TRIES):
        topic = new_topic()
        await topics.create_topic(kafka.bootstrap, topic)
        placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(records, keys=records // 4))
        mapping = configuration.from_kafka(
            kafka.bootstrap, topic, "slow", parallelization_factor=factor, ordering="key", batch_size=1
        )
        config = configuration.process({"slow": configuration.http(function.url)}, {topic: mapping})
        runner = new_runner(config, arguments=["--until-caught-up"])
        runner.launch()
        assert await runner.stopped(60) == 0
        calls = [call for call in function.calls() if call.mapping == topic]
        oracle.assert_nothing_lost(placed, calls)
        oracle.assert_ordered(calls, by="key")
        oracle.assert_no_overlap(calls, by="key")
        assert len(calls) == records
        rates[factor] = max(rates[factor], _rate(calls, WINDOW_OF_A_LANE * factor))
        if rates[FACTOR] >= GAIN * rates[1]:
            break
    print(f"records/s by parallelization factor: {rates}")
    assert rates[FACTOR] >= GAIN * rates[1]


def _rate(calls: Sequence[Call], window: int) -> float:
    """Calls a second over the best ``window`` calls in a row.

    At the end lanes run out of records by the luck of their keys, and for a part of the run the machine may be busy
    with something else.
    """
    ended = sorted(call.end_ns for call in calls)
    return max(window / (last - first) * 1e9 for first, last in zip(ended, ended[window:], strict=False))


async def test_a_poisoned_key_delays_only_its_lane_until_the_limit(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, function: FunctionProcess
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    items = producing.numbered(30_000, keys=KEYS, padding=1_000)
    items[7] = Item(b'{"poison": true}', POISON_KEY)
    placed = await producing.produce(kafka.bootstrap, topic, items)
    await function.start()
    mapping = configuration.from_kafka(
        kafka.bootstrap,
        topic,
        "f",
        parallelization_factor=FACTOR,
        ordering="key",
        batch_size=20,
        maximum_ahead=MAXIMUM_AHEAD,
        buffer={"records": BUFFER_RECORDS, "bytes": "32MB"},
        commit_interval="100ms",
    )
    runner = new_runner(configuration.process({"f": configuration.http(function.url)}, {topic: mapping}))
    await runner.start()

    at_limit = await _at_the_limit(runner)
    await _assert_it_says_why(runner, function, topic, at_limit)
    await _assert_it_stays_so(runner, function, topic, at_limit)

    await function.behave(Behaviour(poison="accept"))

    async def all_committed() -> bool:
        return await topics.committed_offsets(kafka.bootstrap, topic) == {(topic, 0): len(placed)}

    await until_async(all_committed, what="everything is committed once the key is healed", timeout=60, every=0.2)
    calls = function.calls()
    oracle.assert_nothing_lost(placed, calls)
    oracle.assert_ordered(calls, by="key")
    oracle.assert_no_overlap(calls, by="key")
    assert oracle.duplicates(calls) == {}
    assert (await _partition(runner))["paused_reason"] is None


async def _partition(runner: RunnerProcess) -> dict[str, Any]:
    """What ``/mappings`` says of the one partition."""
    (mapping,) = (await runner.mappings())["mappings"]
    (partition,) = mapping["partitions"]
    assert isinstance(partition, dict)
    return partition


async def _at_the_limit(runner: RunnerProcess) -> dict[str, Any]:
    """The partition once it is paused for the limit, and nothing but the blocked lane has anything left."""

    async def settled_around() -> dict[str, Any] | None:
        partition = await _partition(runner)
        lonely = re.fullmatch(
            r"1 lane waits for (the function|a permit|its next attempt)"
            r"(, \d+ lanes? waits? for the lane that holds the lowest unsettled record)?",
            partition["waiting_for"] or "",
        )
        return partition if partition["paused_reason"] == "maximum_ahead" and lonely else None

    found = await until_async(settled_around, what="only the poisoned lane is left", timeout=60, every=0.02)
    assert found is not None
    return found


async def _assert_it_says_why(
    runner: RunnerProcess, function: FunctionProcess, topic: str, at_limit: dict[str, Any]
) -> None:
    scrape = await runner.scrape()
    assert scrape.value("stream_runner_paused_partitions", mapping=topic, reason="maximum_ahead") == 1
    assert scrape.value("stream_runner_paused_partitions", mapping=topic) == 1
    poisoned = [call for call in function.calls() if key_id(POISON_KEY) in call.keys]
    assert at_limit["checkpoint"] == poisoned[0].offsets[0]
    assert at_limit["blocking_lane"] is not None
    pauses = [entry for entry in runner.logs() if entry["event"] == "partition paused"]
    assert pauses[-1]["reason"] == "maximum_ahead"
    assert pauses[-1]["lane"].startswith(f"lane {at_limit['blocking_lane']} waits for ")


async def _assert_it_stays_so(
    runner: RunnerProcess, function: FunctionProcess, topic: str, at_limit: dict[str, Any]
) -> None:
    """The poison is tried again and again; nothing else moves, and memory does not grow."""
    poison = key_id(POISON_KEY)
    tried = sum(poison in call.keys for call in function.calls())
    memory = [runner.process.rss_bytes]

    def tried_more() -> bool:
        memory.append(runner.process.rss_bytes)
        return sum(poison in call.keys for call in function.calls()) >= tried + 60

    await until(tried_more, what="the poison has been tried 60 times more", every=0.1)
    later = await _partition(runner)
    unchanged = ("ahead_records", "unsettled_records", "paused_reason", "blocking_lane", "checkpoint", "lag_records")
    assert [later[name] for name in unchanged] == [at_limit[name] for name in unchanged]
    assert max(memory) - memory[0] <= FLAT_BYTES
    print(f"at the limit: {at_limit['ahead_records']} ahead, RSS {memory[0] / 1e6:.0f} to {max(memory) / 1e6:.0f} MB")
    delivered = {position for _, position in oracle.handled_at(function.calls())}
    assert len(delivered) == at_limit["ahead_records"] + at_limit["checkpoint"]
    assert 7 not in delivered
    may_start = range(at_limit["checkpoint"] + MAXIMUM_AHEAD + 1)
    assert max(delivered) in may_start
    left = {b"key-%d" % (position % KEYS) for position in may_start if position not in delivered}
    done = {b"key-%d" % (position % KEYS) for position in delivered if position > at_limit["checkpoint"]}
    assert not left & done, "of the other lanes everything that may be started is settled"
