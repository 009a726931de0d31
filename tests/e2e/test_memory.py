"""A function that hangs under a long backlog: memory stays bounded, the group stays whole, other mappings go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from e2e_support.configuration import from_kafka, http, process
from e2e_support.scale import scaled
from kafka_harness import oracle, placement, producing, topics
from kafka_harness.behaviour import Behaviour
from kafka_harness.broker import Broker
from kafka_harness.function_process import FunctionProcess
from kafka_harness.producing import Placed
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.scrape import Scrape
from kafka_harness.waiting import until, until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

_HANG = scaled(12, 60)
_RECORDS = 200_000
_PADDING_BYTES = 1_000
_PARTITIONS = 8
_CONCURRENCY = 4
_MB = 1_000_000
_BUFFER_BYTES = 32 * _MB
_ALLOWANCE_BYTES = 100 * _MB
_BURST_RECORDS = 1_000
_BURST_BATCH = 10
_BURSTS = 3


@dataclass
class _Scene:
    """A mapping whose function hangs, a healthy one beside it in the same process; each named as its topic."""

    broker: Broker
    runner: RunnerProcess
    hanging: FunctionProcess
    healthy: FunctionProcess
    backlog_topic: str
    other_topic: str
    rss_bytes: list[int] = field(default_factory=list)

    async def scrape(self) -> Scrape:
        self.rss_bytes.append(self.runner.process.rss_bytes)
        return await self.runner.scrape()


@pytest.mark.timeout(300)
async def test_a_hanging_function_costs_bounded_memory_and_nobody_else_anything(
    kafka: Broker,
    new_function: Callable[[], FunctionProcess],
    new_runner: Callable[..., RunnerProcess],
    new_topic: Callable[[], str],
) -> None:
    topic, other_topic = new_topic(), new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=_PARTITIONS)
    await topics.create_topic(kafka.bootstrap, other_topic)
    items = producing.numbered(_RECORDS, padding=_PADDING_BYTES)
    place = placement.round_robin(_PARTITIONS)
    produced = await producing.produce(kafka.bootstrap, topic, items, place=place, batch_records=200)
    hanging, healthy = new_function(), new_function()
    await hanging.start(Behaviour(hang=True))
    await healthy.start(Behaviour(delay_ms=5))
    runner = new_runner(_configuration(kafka, topic, other_topic, hanging, healthy))
    await runner.start()
    scene = _Scene(kafka, runner, hanging, healthy, topic, other_topic)
    await _until_full(scene)
    began = time.monotonic()
    during = [await _best_burst_rate(scene)]

    async def hung_long_enough() -> bool:
        scrape = await scene.scrape()
        assert scrape.value("stream_runner_assigned_partitions", mapping=scene.backlog_topic) == _PARTITIONS
        return time.monotonic() - began >= _HANG

    await until_async(hung_long_enough, what=f"the function hung for {_HANG} s", timeout=_HANG + 30.0, every=0.2)
    during.append(await _best_burst_rate(scene))
    assert (await hanging.status()).calls == 0
    assert max(scene.rss_bytes) < _BUFFER_BYTES + _ALLOWANCE_BYTES
    await hanging.behave(Behaviour())
    await _assert_delivered(scene, produced)
    assert min(during) > 0.5 * await _burst_rate(scene)


def _configuration(
    kafka: Broker, topic: str, other_topic: str, hanging: FunctionProcess, healthy: FunctionProcess
) -> dict[str, Any]:
    mappings = {
        topic: from_kafka(kafka.bootstrap, topic, "hanging", batch_size=500),
        other_topic: from_kafka(
            kafka.bootstrap,
            other_topic,
            "healthy",
            batch_size=_BURST_BATCH,
            maximum_batching_window="5ms",
        ),
    }
    functions = {"hanging": http(hanging.url, timeout="150s"), "healthy": http(healthy.url)}
    limits = {"concurrency": _CONCURRENCY, "buffer_bytes": f"{_BUFFER_BYTES // _MB}MB"}
    return process(functions, mappings, limits=limits)


async def _until_full(scene: _Scene) -> None:
    """The mapping has all permits but the one that is kept for the other, and all its partitions are paused."""

    async def full() -> bool:
        scrape = await scene.scrape()
        held = (await scene.hanging.status()).held
        waiting = scrape.value("stream_runner_waiting_batches", mapping=scene.backlog_topic)
        paused = scrape.value("stream_runner_paused_partitions", mapping=scene.backlog_topic)
        return held == _CONCURRENCY - 1 and waiting > 0 and paused == _PARTITIONS

    await until_async(full, what="the buffers and the permits are used up", timeout=40.0)


async def _best_burst_rate(scene: _Scene) -> float:
    """Of several: whatever else the machine does can only make a burst slower."""
    return max([await _burst_rate(scene) for _ in range(_BURSTS)])


async def _burst_rate(scene: _Scene) -> float:
    """Records a second at which the healthy function handles a burst, by its own clock."""
    placed = await producing.produce(scene.broker.bootstrap, scene.other_topic, producing.numbered(_BURST_RECORDS))
    first, last = placed[0].offset, placed[-1].offset

    def handled() -> list[tuple[int, int]]:
        calls = [call for call in scene.healthy.calls() if call.offsets[0] >= first]
        done = sum(len(call.offsets) for call in calls) == last - first + 1
        return [(call.start_ns, call.end_ns) for call in calls] if done else []

    times = await until(handled, what="the burst is handled", timeout=30.0)
    return _BURST_RECORDS / (max(end for _, end in times) - min(start for start, _ in times)) * 1e9


async def _assert_delivered(scene: _Scene, produced: list[Placed]) -> None:
    """Each record once, in order, with no rebalance, and the checkpoint at the end."""
    ends = await topics.end_offsets(scene.broker.bootstrap, scene.backlog_topic)

    async def committed() -> bool:
        return await topics.committed_offsets(scene.broker.bootstrap, scene.backlog_topic) == ends

    await until_async(committed, what="the backlog is delivered", timeout=90.0, every=0.5)
    calls = scene.hanging.calls()
    oracle.assert_nothing_lost(produced, calls)
    oracle.assert_ordered(calls, by="partition")
    assert oracle.duplicates(calls) == {}
    scrape = await scene.runner.scrape()
    for mapping in (scene.backlog_topic, scene.other_topic):
        assert scrape.value("stream_runner_rebalances_total", mapping=mapping) == 1
