"""What a broker holds is damaged, gone, hidden or full of holes: nothing is skipped in silence, nobody else waits."""

from __future__ import annotations

from typing import Any

import pytest

from e2e_support.configuration import from_kafka, http, process
from e2e_support.looking import lag_records, mapping_view, problem_reason, until_problem
from e2e_support.process_fixtures import NewRunner, RunMappings
from kafka_harness import oracle, placement, producing, topics
from kafka_harness.broker import Broker
from kafka_harness.commit_watch import CommitWatch, committed_by_partition
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewTopic
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

MAPPING = "orders"
QUICK = {"commit_interval": "200ms", "maximum_batching_window": "0s", "batch_size": 10}
TO_THE_END = ("--until-caught-up", "--deadline", "30s")


def mappings(kafka: Broker, topic: str, **keys: Any) -> dict[str, Any]:
    return {MAPPING: from_kafka(kafka.bootstrap, topic, "function", group=topic, **{**QUICK, **keys})}


def config(kafka: Broker, topic: str, function: FunctionProcess, **keys: Any) -> dict[str, Any]:
    return process({"function": http(function.url)}, mappings(kafka, topic, **keys))


async def run_to_the_end(runner: RunnerProcess) -> None:
    """Launch one that ends by itself, and see it end well."""
    runner.launch()
    assert await runner.stopped() == 0


def handled(function: FunctionProcess) -> set[oracle.Origin]:
    return set(oracle.handled_at(function.calls()))


def of_partition(origins: set[oracle.Origin], name: str) -> list[int]:
    return sorted(offset for partition, offset in origins if partition == name)


async def test_a_corrupt_batch_stops_its_partition_alone_until_it_is_repaired(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, run_mappings: RunMappings
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=4)
    items = producing.numbered(400)
    placed = await producing.produce(kafka.bootstrap, topic, items, place=placement.round_robin(4), batch_records=10)
    kafka.flip_byte(topic, 2, 55)
    readable = {each.origin for each in placed if each.partition != 2 or each.offset < 50}
    runner = await run_mappings(mappings(kafka, topic))
    async with CommitWatch(kafka.bootstrap, topic) as watch:
        ends = {f"{topic}-0": 100, f"{topic}-1": 100, f"{topic}-2": 50, f"{topic}-3": 100}
        await watch.until_committed(ends, timeout=20)
        problem = (await until_problem(runner, MAPPING, "EVENT_SOURCE_UNREADABLE"))["problem"]
        assert f"{topic}-2" in problem["text"]
        assert "offset 50" in problem["text"]
        assert problem["hint"]
        more = await producing.produce(kafka.bootstrap, topic, producing.numbered(20), place=placement.always(1))
        await watch.until_committed({**ends, f"{topic}-1": 120})
        assert handled(function) == readable | {each.origin for each in more}

        kafka.flip_byte(topic, 2, 55)
        await watch.until_committed({f"{topic}-2": 100}, timeout=45)
    oracle.assert_nothing_lost([*placed, *more], function.calls())
    oracle.assert_ordered(function.calls(), by="partition")
    assert (await until_problem(runner, MAPPING, None))["state"] == "enabled"


async def test_aborted_transactions_at_the_end_leave_no_lag(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, run_mappings: RunMappings
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    placed = []
    for commit in (True, False, False):
        written = await producing.produce_in_transaction(
            kafka.bootstrap, topic, producing.numbered(3), transactional_id=topic, commit=commit
        )
        placed += written if commit else []
    runner = await run_mappings(mappings(kafka, topic))
    async with CommitWatch(kafka.bootstrap, topic) as watch:
        await watch.until_committed({f"{topic}-0": 12})
    assert await topics.end_offsets(kafka.bootstrap, topic) == {(topic, 0): 12}
    oracle.assert_nothing_lost(placed, function.calls())

    async def without_lag() -> bool:
        return lag_records(await runner.scrape(), MAPPING) == {0: 0}

    await until_async(without_lag, what="no record is left")


async def test_a_compacted_topic_is_read_to_its_end_over_the_holes(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, new_runner: NewRunner
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, configs=topics.COMPACT_AT_ONCE)

    async def compacted() -> bool:
        await producing.produce(kafka.bootstrap, topic, producing.numbered(20, keys=4))
        read = await topics.read_topic(kafka.bootstrap, topic)
        return len(read) <= read[-1].offset

    await until_async(compacted, what="the topic has holes", every=0.15)
    before = {(f"{topic}-0", record.offset) for record in await topics.read_topic(kafka.bootstrap, topic)}
    await function.start()
    runner = new_runner(config(kafka, topic, function), arguments=TO_THE_END)
    await run_to_the_end(runner)
    after = {(f"{topic}-0", record.offset) for record in await topics.read_topic(kafka.bootstrap, topic)}
    # The broker may compact on while the runner reads.
    assert after <= handled(function) <= before
    ends = await topics.end_offsets(kafka.bootstrap, topic)
    assert await topics.committed_offsets(kafka.bootstrap, topic) == ends


async def test_latest_forgets_nothing_that_came_after_the_first_start(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, run_mappings: RunMappings
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    place = placement.round_robin(2)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=place)
    latest = mappings(kafka, topic, starting_position="latest")
    # A member that comes back under its own name does not wait for the end of the killed one's session.
    latest[MAPPING]["source"]["kafka"]["group_instance_id"] = "the-one"
    runner = await run_mappings(latest)
    assert await committed_by_partition(kafka.bootstrap, topic) == {f"{topic}-0": 5, f"{topic}-1": 5}
    runner.kill()
    placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=place)
    await runner.start()
    await until(lambda: len(handled(function)) == len(placed), what="all that is new has arrived")
    oracle.assert_nothing_lost(placed, function.calls())


async def test_retention_past_the_checkpoint_stops_the_partition_or_is_counted_as_configured(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, new_runner: NewRunner
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    place = placement.round_robin(2)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(20), place=place)
    await function.start()
    first = new_runner(config(kafka, topic, function), arguments=TO_THE_END)
    await run_to_the_end(first)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(20), place=place)
    await topics.delete_records(kafka.bootstrap, {(topic, 0): 15})

    runner = new_runner(config(kafka, topic, function, on_data_loss="fail"))
    await runner.start()
    async with CommitWatch(kafka.bootstrap, topic) as watch:
        await watch.until_committed({f"{topic}-0": 10, f"{topic}-1": 20})
        problem = (await until_problem(runner, MAPPING, "DATA_LOSS"))["problem"]
        assert f"{topic}-0" in problem["text"]
        assert "from offset 10 to 14" in problem["text"]
        assert of_partition(handled(function), f"{topic}-0") == list(range(10))

        runner.write_config(config(kafka, topic, function, on_data_loss="continue"))
        runner.reload()
        await watch.until_committed({f"{topic}-0": 20, f"{topic}-1": 20})
    assert of_partition(handled(function), f"{topic}-0") == [*range(10), *range(15, 20)]
    assert (await runner.scrape()).value("stream_runner_data_loss_records_total", mapping=MAPPING) == 5
    assert await problem_reason(runner, MAPPING) is None


async def test_records_of_new_partitions_arrive_from_their_first_on(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, run_mappings: RunMappings
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=placement.round_robin(2))
    runner = await run_mappings(mappings(kafka, topic, starting_position="latest"))
    placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=placement.round_robin(2))
    await topics.add_partitions(kafka.bootstrap, topic, 4)

    async def grown() -> bool:
        """Keeps on writing, to the old partitions as to those that the runner has not seen yet."""
        placed.extend(
            await producing.produce(kafka.bootstrap, topic, producing.numbered(8), place=placement.round_robin(4))
        )
        return len((await mapping_view(runner, MAPPING))["partitions"]) == 4

    await until_async(grown, what="the new partitions are assigned", every=0.2)
    await until(lambda: len(handled(function)) >= len(placed), what="all records have arrived")
    oracle.assert_nothing_lost(placed, function.calls())
    oracle.assert_ordered(function.calls(), by="partition")
    assert oracle.duplicates(function.calls()) == {}
