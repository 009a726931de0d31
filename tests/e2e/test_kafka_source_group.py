"""The source as a member of its group: who joins, who leaves, who has its name, and what becomes of its topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from kafka_harness import placement, producing, topics
from kafka_harness.broker import Broker
from kafka_harness.clients import connected_admin
from kafka_harness.properties import NODE_ID
from kafka_harness.waiting import until
from runner.clients.kafka import KafkaConnection
from runner.model import Partition, Reason
from runner.ports import CheckpointFenced, SourceError
from runner.sources.kafka import KafkaSource, KafkaSourceSettings
from runner.sources.starting import StartingPosition
from runner.testing.reader import Reader

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

TIME_LIMIT = 40.0


def member(
    kafka: Broker,
    topic: str,
    *,
    instance: str | None = None,
    stop_at_end: bool = False,
    starting: StartingPosition = StartingPosition.TRIM_HORIZON,
) -> KafkaSource:
    """A member of the group that has the topic's name."""
    settings = KafkaSourceSettings(
        connection=KafkaConnection((kafka.bootstrap,), "test"),
        topics=(topic,),
        group=topic,
        drain_timeout=1.0,
        commit_timeout=5.0,
        starting=starting,
        group_instance_id=instance,
        session_timeout=6.0,
        stop_at_end=stop_at_end,
    )
    return KafkaSource(settings, now=time.time)


@asynccontextmanager
async def reading(reader: Reader) -> AsyncIterator[asyncio.Task[None]]:
    """Fetch from ``reader`` for as long as the block runs; the task ends by what ends the source."""
    task = asyncio.create_task(reader.until(lambda: False))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_rebalance_is_not_the_end_of_the_topic(kafka: Broker, new_topic: Callable[[], str]) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    # More than what comes while it joins.
    await producing.produce(kafka.bootstrap, topic, producing.numbered(10_000), place=placement.round_robin(2))
    async with Reader.of(member(kafka, topic, stop_at_end=True)) as reader:
        for number in range(2):
            reader.source.pause(Partition(topic, number))
        async with reading(reader), AsyncExitStack() as others:
            claims: list[bool] = []

            def reassigned() -> bool:
                claims.append(reader.source.caught_up)
                return len(reader.listener.assignments) == 2

            joining = asyncio.create_task(others.enter_async_context(Reader.of(member(kafka, topic))))
            await until(reassigned, what="the first member has a new assignment", every=0.001)
            await joining
        assert not any(claims)


async def test_partitions_move_with_their_checkpoints_and_their_old_owner_is_fenced(
    kafka: Broker, new_topic: Callable[[], str]
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=placement.round_robin(2))
    async with Reader.of(member(kafka, topic)) as first:
        await first.read(10)
        await first.source.checkpoint({Partition(topic, number): 3 for number in range(2)})
        async with reading(first), Reader.of(member(kafka, topic)) as second:
            await second.read(2)
            await until(lambda: len(first.listener.assignments) == 2, what="the first member has a new assignment")
            (mine,), (theirs,) = first.listener.assignments[-1], second.listener.assignments[-1]
            assert {mine, theirs} == {Partition(topic, 0), Partition(topic, 1)}
            assert [record.position for record in second.records[theirs]] == [3, 4]
            assert second.records[theirs][0].sequence == 0
            with pytest.raises(CheckpointFenced):
                await first.source.checkpoint({theirs: 5})
        assert await topics.committed_offsets(kafka.bootstrap, topic) == {(topic, 0): 3, (topic, 1): 3}


async def test_a_second_member_with_our_instance_id_is_a_problem(kafka: Broker, new_topic: Callable[[], str]) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    async with (
        Reader.of(member(kafka, topic, instance="the-one")) as first,
        reading(first) as one,
        Reader.of(member(kafka, topic, instance="the-one")) as second,
        reading(second) as other,
    ):
        done, _ = await asyncio.wait({one, other}, timeout=TIME_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        error = next(iter(done)).exception()
    assert isinstance(error, SourceError)
    assert error.problem.reason is Reason.DUPLICATE_MEMBER
    assert error.problem.hint


async def test_a_topic_that_is_deleted_while_it_is_read_is_a_problem(
    kafka: Broker, new_topic: Callable[[], str]
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    async with Reader.of(member(kafka, topic)) as reader:
        await topics.delete_topic(kafka.bootstrap, topic)
        with pytest.raises(SourceError) as caught:
            await reader.until(lambda: False)
    assert caught.value.problem.reason is Reason.EVENT_SOURCE_NOT_FOUND
    assert topic in caught.value.problem.text


async def test_commits_say_how_many_partitions_there_were_at_the_first_start(
    kafka: Broker, new_topic: Callable[[], str]
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=placement.round_robin(2))
    latest = StartingPosition.LATEST
    async with Reader.of(member(kafka, topic, starting=latest)):
        pass
    await topics.add_partitions(kafka.bootstrap, topic, 3)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(5), place=placement.always(2))
    async with Reader.of(member(kafka, topic, starting=latest)) as reader:
        await reader.read(5)
        await reader.source.checkpoint({Partition(topic, 2): 5})
    assert [record.position for record in reader.records[Partition(topic, 2)]] == list(range(5))
    async with connected_admin(kafka.bootstrap) as admin:
        commits = await admin.list_consumer_group_offsets(topic, group_coordinator_id=NODE_ID)
    assert {commit.metadata for commit in commits.values()} == {"stream-runner/1 partitions=2"}
    assert commits[TopicPartition(topic, 2)].offset == 5


@pytest.mark.parametrize(("metadata", "start"), [("stream-runner/1 partitions=2", 5), ("", 0)])
async def test_a_partition_without_a_commit_is_new_unless_it_was_there_at_the_first_start(
    kafka: Broker, new_topic: Callable[[], str], metadata: str, start: int
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=placement.round_robin(2))
    other = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=topic, enable_auto_commit=False)
    await other.start()
    try:
        other.assign([TopicPartition(topic, 0)])
        await other.commit({TopicPartition(topic, 0): OffsetAndMetadata(3, metadata)})
    finally:
        await other.stop()
    async with Reader.of(member(kafka, topic, starting=StartingPosition.LATEST)) as reader:
        assert await topics.committed_offsets(kafka.bootstrap, topic) == {(topic, 0): 3, (topic, 1): start}
        await reader.read(2 + 5 - start)
    assert [record.position for record in reader.records[Partition(topic, 1)]] == list(range(start, 5))
