"""A dead-letter topic that does not take records: the checkpoint waits for it, and goes on when it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from e2e_support.configuration import dead_letters_to, from_kafka, http, process
from e2e_support.looking import lag_records, mapping_view, problem_reason, waiting_for
from kafka_harness import access, oracle, placement, producing, topics
from kafka_harness.behaviour import Behaviour
from kafka_harness.broker import Broker
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewTopic
from kafka_harness.producing import Placed
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(90)]

_PARTITIONS = 2
_RECORDS_OF_PARTITION = 50
_POISON_OFFSET = 19
_FAILURES = 3


@dataclass(frozen=True)
class _Scene:
    """A mapping, named as its topic, of two partitions; the first holds one poison record."""

    broker: Broker
    function: FunctionProcess
    runner: RunnerProcess
    topic: str
    letters_topic: str
    produced: list[Placed]

    @property
    def stopped_at(self) -> dict[str, int]:
        """The checkpoints while the dead letter is not stored."""
        return {f"{self.topic}-0": _POISON_OFFSET, f"{self.topic}-1": _RECORDS_OF_PARTITION}

    @property
    def ends(self) -> dict[str, int]:
        return dict.fromkeys(self.stopped_at, _RECORDS_OF_PARTITION)


@pytest.fixture
def begin(
    kafka: Broker, function: FunctionProcess, new_runner: Callable[..., RunnerProcess], new_topic: NewTopic
) -> Callable[..., Any]:
    """Starts a scene whose destination is ``letters_topic`` with further ``settings``."""

    async def build(letters_topic: str, **settings: Any) -> _Scene:
        topic = new_topic()
        await topics.create_topic(kafka.bootstrap, topic, partitions=_PARTITIONS)
        items = producing.numbered(_PARTITIONS * _RECORDS_OF_PARTITION)
        (poison,) = producing.numbered(1, poison_every=1)
        items[_POISON_OFFSET * _PARTITIONS] = poison
        place = placement.round_robin(_PARTITIONS)
        produced = await producing.produce(kafka.bootstrap, topic, items, place=place)
        await function.start(Behaviour())
        mapping = from_kafka(
            kafka.bootstrap,
            topic,
            "function",
            commit_interval="200ms",
            batch_size=10,
            bisect_batch_on_function_error=True,
            maximum_retry_attempts=0,
            destination_config=dead_letters_to(letters_topic, **{"timeout": "2s", **settings}),
        )
        runner = new_runner(process({"function": http(function.url)}, {topic: mapping}))
        await runner.start()
        return _Scene(kafka, function, runner, topic, letters_topic, produced)

    return build


async def test_a_missing_dead_letter_topic_is_waited_for(
    kafka: Broker, begin: Callable[..., Any], new_topic: NewTopic
) -> None:
    letters_topic = new_topic()
    scene = await begin(letters_topic)
    async with CommitWatch(kafka.bootstrap, scene.topic) as watch:
        await _until_refused(scene, watch, naming=letters_topic)
        assert letters_topic not in await topics.topic_names(kafka.bootstrap)
        await topics.create_topic(kafka.bootstrap, letters_topic, configs=topics.STAMPED_BY_BROKER)
        await watch.until_committed(scene.ends)
    await _assert_complete(scene, watch)


async def test_a_dead_letter_topic_that_refuses_us_is_waited_for(
    kafka: Broker, begin: Callable[..., Any], new_topic: NewTopic
) -> None:
    letters_topic = new_topic()
    await topics.create_topic(kafka.bootstrap, letters_topic, configs=topics.STAMPED_BY_BROKER)
    await access.deny(kafka.bootstrap, "alice", "topic", letters_topic, "write")
    sasl = {"mechanism": "SCRAM-SHA-256", "username": "alice", "password": "alice-secret", "allow_plaintext": True}
    scene = await begin(letters_topic, bootstrap_servers=kafka.address_of("SASL_PLAINTEXT"), sasl=sasl)
    async with CommitWatch(kafka.bootstrap, scene.topic) as watch:
        await _until_refused(scene, watch, naming=letters_topic)
        assert await topics.read_topic(kafka.bootstrap, letters_topic) == []
        await access.allow_again(kafka.bootstrap, "topic", letters_topic)
        await watch.until_committed(scene.ends)
    await _assert_complete(scene, watch)


async def _until_refused(scene: _Scene, watch: CommitWatch, *, naming: str) -> None:
    """Several tries have failed, the state says so with the topic's name, and the checkpoint is at the poison."""

    async def failed_often() -> bool:
        scrape = await scene.runner.scrape()
        return scrape.value("stream_runner_dead_letter_write_failures_total", mapping=scene.topic) >= _FAILURES

    await until_async(failed_often, what="storing the dead letter has failed several times")
    assert await problem_reason(scene.runner, scene.topic) == "DESTINATION_UNAVAILABLE"
    view = await mapping_view(scene.runner, scene.topic)
    assert view["state"] == "problem"
    assert naming in view["problem"]["text"]
    await _assert_stopped(scene, watch)


async def _assert_stopped(scene: _Scene, watch: CommitWatch) -> None:
    """The checkpoint is at the poison; nothing behind it was begun or dropped; the other partition went on."""
    await watch.until_committed(scene.stopped_at)
    assert await waiting_for(scene.runner, scene.topic, 0) == "1 lane waits for the destination"
    seen = {
        offset for call in scene.function.calls() if call.partition == f"{scene.topic}-0" for offset in call.offsets
    }
    assert max(seen) == _POISON_OFFSET
    scrape = await scene.runner.scrape()
    assert lag_records(scrape, scene.topic) == {0: _RECORDS_OF_PARTITION - _POISON_OFFSET, 1: 0}
    assert scrape.value("stream_runner_dead_letters_total", mapping=scene.topic, result="dropped") == 0
    assert await scene.runner.healthy()


async def _assert_complete(scene: _Scene, watch: CommitWatch) -> None:
    calls = scene.function.calls()
    letters = await topics.read_topic(scene.broker.bootstrap, scene.letters_topic)
    assert Counter(map(oracle.origin_of, letters)) == {(f"{scene.topic}-0", _POISON_OFFSET): 1}
    oracle.assert_nothing_lost(scene.produced, calls, letters)
    oracle.assert_dead_letters_unchanged(scene.produced, letters)
    oracle.assert_ordered(calls, by="partition")
    assert oracle.duplicates(calls) == {}
    watch.assert_safe(scene.produced, calls, letters)

    async def enabled() -> bool:
        view = await mapping_view(scene.runner, scene.topic)
        return (view["state"], view["problem"]) == ("enabled", None)

    await until_async(enabled, what="the mapping is without a problem", timeout=5.0)
    scrape = await scene.runner.scrape()
    assert scrape.value("stream_runner_rebalances_total", mapping=scene.topic) == 1
    await scene.runner.stop_cleanly()
