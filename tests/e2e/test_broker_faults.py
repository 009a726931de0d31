"""A broker that dies or freezes in the middle of a run: the runner goes on by itself, with nothing lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from e2e_support.configuration import dead_letters_to, from_kafka, http, process
from e2e_support.looking import lag_seconds, mapping_view, waiting_for
from e2e_support.scale import scaled
from kafka_harness import oracle, placement, producing, topics
from kafka_harness.behaviour import Behaviour
from kafka_harness.broker import Broker
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.component import ComponentMissing
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewTopic
from kafka_harness.producing import Item, Placed
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.topics import Consumed
from kafka_harness.waiting import until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

# Longer than the session, and than the 10 s for which an end that was learnt counts as the end.
_OUTAGE = scaled(11, 30)
_PARTITIONS = 4
_HELD_PARTITION = 1
_HELD_KEY = "held"
_PADDING_BYTES = 1_000
_TOLERANCE = 1.5


@pytest.fixture(scope="module")
def broker(component_missing: Callable[[str], None]) -> Iterator[Broker]:
    """A broker of this module's own: no other test is to meet what its outages leave behind."""
    broker = Broker()
    try:
        broker.start()
    except ComponentMissing as missing:
        component_missing(str(missing))
    try:
        yield broker
    finally:
        broker.stop()


@dataclass(frozen=True)
class _Scene:
    """A busy mapping whose function holds one poison record back, an idle one beside it; each named as its topic."""

    broker: Broker
    function: FunctionProcess
    runner: RunnerProcess
    topic: str
    idle_topic: str
    letters_topic: str
    produced: list[Placed]

    @property
    def poison(self) -> set[tuple[str, int]]:
        return {placed.origin for placed in self.produced if b'"poison"' in (placed.value or b"")}

    async def letters(self) -> list[Consumed]:
        return await topics.read_topic(self.broker.bootstrap, self.letters_topic)

    async def ends(self) -> dict[str, int]:
        ends = await topics.end_offsets(self.broker.bootstrap, self.topic)
        return {f"{topic}-{number}": offset for (topic, number), offset in ends.items()}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_an_outage_of_the_broker_loses_nothing_and_stores_a_waiting_dead_letter_once(
    kafka: Broker,
    function: FunctionProcess,
    new_runner: Callable[..., RunnerProcess],
    new_topic: NewTopic,
    fault: str,
) -> None:
    scene = await _begin(kafka, function, new_runner, new_topic)
    async with CommitWatch(kafka.bootstrap, scene.topic) as watch:
        await _until_under_way(scene, watch)
        began = time.monotonic()
        kafka.kill() if fault == "killed" else kafka.pause()
        await _give_up_the_held_record(scene)
        # How long the outage lasts is what is tested.
        await asyncio.sleep(max(0.0, began + _OUTAGE - time.monotonic()))
        await _assert_patient(scene, began)
        await kafka.restart() if fault == "killed" else kafka.resume()
        scene.produced.extend(await _produce(kafka, scene.topic, start=len(scene.produced), count=400))
        await watch.until_committed(await scene.ends(), timeout=90.0)
    await _assert_complete(scene, watch)


async def _begin(
    kafka: Broker, function: FunctionProcess, new_runner: Callable[..., RunnerProcess], new_topic: NewTopic
) -> _Scene:
    topic, letters_topic, idle_topic = new_topic(), new_topic(), new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=_PARTITIONS)
    await topics.create_topic(kafka.bootstrap, letters_topic, partitions=_PARTITIONS, configs=topics.STAMPED_BY_BROKER)
    await topics.create_topic(kafka.bootstrap, idle_topic)
    # More than the buffers of runner and client hold together, so that both must fetch on after the outage.
    produced = await _produce(kafka, topic, start=0, count=4_000)
    held = Item(b'{"n": -1, "poison": true}', _HELD_KEY.encode())
    produced += await producing.produce(kafka.bootstrap, topic, [held], place=placement.always(_HELD_PARTITION))
    produced += await _produce(kafka, topic, start=len(produced), count=8_000)
    await producing.produce(kafka.bootstrap, idle_topic, producing.numbered(10))
    await function.start(Behaviour(delay_ms=20, hang_keys=[_HELD_KEY]))
    mappings = {
        topic: from_kafka(
            kafka.bootstrap,
            topic,
            "function",
            batch_size=20,
            buffer={"records": 500, "bytes": "6MB"},
            bisect_batch_on_function_error=True,
            maximum_retry_attempts=0,
            commit_interval="200ms",
            destination_config=dead_letters_to(letters_topic, timeout="2s"),
        ),
        idle_topic: from_kafka(kafka.bootstrap, idle_topic, "function"),
    }
    runner = new_runner(process({"function": http(function.url, timeout="60s")}, mappings))
    await runner.start()
    return _Scene(kafka, function, runner, topic, idle_topic, letters_topic, produced)


async def _produce(kafka: Broker, topic: str, *, start: int, count: int) -> list[Placed]:
    items = producing.numbered(count, keys=50, poison_every=399, start=start, padding=_PADDING_BYTES)
    return await producing.produce(kafka.bootstrap, topic, items, place=placement.round_robin(_PARTITIONS))


async def _until_under_way(scene: _Scene, watch: CommitWatch) -> None:
    """The held record is in the function, a dead letter is stored, every partition has committed, the idle one is."""

    async def under_way() -> bool:
        scrape = await scene.runner.scrape()
        return (
            (await scene.function.status()).held == 1
            and scrape.value("stream_runner_dead_letters_total", mapping=scene.topic, result="stored") >= 1
            and len(watch.newest) == _PARTITIONS
            and lag_seconds(scrape, scene.idle_topic) == {0: 0.0}
        )

    await until_async(under_way, what="the run is under way", timeout=40.0)


async def _give_up_the_held_record(scene: _Scene) -> None:
    await scene.function.behave(Behaviour(delay_ms=20))

    async def waits() -> bool:
        return "the destination" in await waiting_for(scene.runner, scene.topic, _HELD_PARTITION)

    await until_async(waits, what="a dead letter waits for the destination", timeout=10.0)


async def _assert_patient(scene: _Scene, began: float) -> None:
    """Alive, waiting, and honest about its lag; the outage ``began`` then, by the monotonic clock."""
    assert await scene.runner.healthy()
    least = time.monotonic() - began
    scrape = await scene.runner.scrape()
    most = time.monotonic() - began
    assert least - _TOLERANCE <= lag_seconds(scrape, scene.idle_topic)[0] <= most + _TOLERANCE
    assert min(lag_seconds(scrape, scene.topic).values()) > _OUTAGE
    assert "the destination" in await waiting_for(scene.runner, scene.topic, _HELD_PARTITION)


async def _assert_complete(scene: _Scene, watch: CommitWatch) -> None:
    calls = [call for call in scene.function.calls() if call.mapping == scene.topic]
    letters = await scene.letters()
    stored = Counter(oracle.origin_of(letter) for letter in letters)
    assert stored == Counter(scene.poison)
    oracle.assert_calls_understood(calls)
    oracle.assert_nothing_lost(scene.produced, calls, letters)
    oracle.assert_dead_letters_unchanged(scene.produced, letters)
    oracle.assert_ordered(calls, by="partition")
    watch.assert_safe(scene.produced, calls, letters)
    watch.assert_never_back()

    async def at_rest() -> bool:
        scrape = await scene.runner.scrape()
        lags = lag_seconds(scrape, scene.topic) | {-1: lag_seconds(scrape, scene.idle_topic).get(0, -1.0)}
        return set(lags.values()) == {0.0} and len(lags) == _PARTITIONS + 1

    await until_async(at_rest, what="the lag is 0 everywhere", timeout=30.0)
    for name in (scene.topic, scene.idle_topic):
        assert (await mapping_view(scene.runner, name))["state"] == "enabled"
    await scene.runner.stop_cleanly()
