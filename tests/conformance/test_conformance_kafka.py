"""The Kafka source and destination keep every adapter's promises, on a real broker."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Literal

import pytest
from aiokafka import AIOKafkaProducer

from kafka_harness import topics
from kafka_harness.broker import Broker
from kafka_harness.clients import started_producer
from runner.clients.kafka import KafkaConnection
from runner.destinations.kafka import KafkaDestination
from runner.model import NO_TIMESTAMP, Headers, Partition, Position
from runner.ports import Observer
from runner.sources.kafka import KafkaSource, KafkaSourceSettings
from runner.sources.starting import StartingPosition
from runner.testing import DestinationConformance, SourceConformance, StoredLetter

pytestmark = pytest.mark.kafka

PARTITIONS = 3
OUR_HEADERS = ("stream-runner-", "kafka_dlt-")
KEEP_ALL = {"retention.ms": "-1"}
"""The suites' records are years old: the broker would remove them at once."""


class KafkaSourceHarness:
    """Writes by one idempotent producer; holes are aborted transactions, which leave a hidden record and a marker."""

    def __init__(self, bootstrap: str, topic: str, producers: AsyncExitStack) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._producers = producers
        self._producer: AIOKafkaProducer | None = None
        self._aborting: AIOKafkaProducer | None = None
        self._offsets: defaultdict[Partition, list[int]] = defaultdict(list)

    @property
    def has_null_headers(self) -> bool:
        return True

    @property
    def partitions(self) -> Sequence[Partition]:
        return [Partition(self._topic, number) for number in range(PARTITIONS)]

    def make_source(
        self,
        *,
        starting_position: StartingPosition = StartingPosition.TRIM_HORIZON,
        starting_timestamp: float | None = None,
        on_data_loss: Literal["fail", "continue"] = "fail",
        stop_at_end: bool = False,
    ) -> KafkaSource:
        settings = KafkaSourceSettings(
            connection=KafkaConnection((self._bootstrap,), "conformance"),
            topics=(self._topic,),
            group=self._topic,
            drain_timeout=1.0,
            commit_timeout=5.0,
            starting=starting_position,
            starting_timestamp=starting_timestamp,
            continue_after_loss=on_data_loss == "continue",
            session_timeout=6.0,
            stop_at_end=stop_at_end,
        )
        return KafkaSource(settings, now=time.time)

    async def append(
        self,
        partition: Partition,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> None:
        if self._producer is None:
            self._producer = await self._producers.enter_async_context(started_producer(self._bootstrap))
        assert self._producer is not None
        stamp = None if timestamp_ms == NO_TIMESTAMP else timestamp_ms
        stored = await self._producer.send_and_wait(
            partition.topic, value, key, partition.number, timestamp_ms=stamp, headers=list(headers)
        )
        self._offsets[partition].append(stored.offset)

    async def append_hole(self, partition: Partition) -> None:
        if self._aborting is None:
            producer = started_producer(self._bootstrap, transactional_id=self._topic)
            self._aborting = await self._producers.enter_async_context(producer)
        assert self._aborting is not None
        await self._aborting.begin_transaction()
        await self._aborting.send_and_wait(partition.topic, b"aborted", b"k", partition.number)
        await self._aborting.abort_transaction()

    async def committed(self, partition: Partition) -> Position | None:
        return (await topics.committed_offsets(self._bootstrap, self._topic)).get((partition.topic, partition.number))

    async def lose_prefix(self, partition: Partition, records: int) -> None:
        first_left = self._offsets[partition][records]
        await topics.delete_records(self._bootstrap, {(partition.topic, partition.number): first_left})


class KafkaDestinationHarness:
    """A topic that is deleted while it is to be unavailable. It has the partition that the letters come from."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic

    def make_destination(self) -> KafkaDestination:
        connection = KafkaConnection((self._bootstrap,), "conformance")
        return KafkaDestination(connection=connection, topic=self._topic, timeout=5.0, observer=Observer())

    async def read_back(self) -> Sequence[StoredLetter]:
        return [letter_of(record) for record in await topics.read_topic(self._bootstrap, self._topic)]

    async def make_unavailable(self) -> None:
        await topics.delete_topic(self._bootstrap, self._topic)

    async def make_available(self) -> None:
        await topics.create_topic(self._bootstrap, self._topic, configs=KEEP_ALL)


def letter_of(record: topics.Consumed) -> StoredLetter:
    """What a consumer of the dead-letter topic makes of ``record``."""

    def said(name: str) -> str:
        return (record.header(f"stream-runner-{name}") or b"").decode()

    return StoredLetter(
        record.key,
        record.value,
        tuple([(name, value) for name, value in record.headers if not name.startswith(OUR_HEADERS)]),
        Partition(said("original-topic"), int(said("original-partition"))),
        said("original-position"),
        said("mapping"),
        said("condition"),
        int(said("attempts")),
    )


class TestKafkaSource(SourceConformance):
    @pytest.fixture
    async def harness(self, kafka: Broker, new_topic: Callable[[], str]) -> AsyncIterator[KafkaSourceHarness]:
        topic = new_topic()
        await topics.create_topic(kafka.bootstrap, topic, partitions=PARTITIONS, configs=KEEP_ALL)
        async with AsyncExitStack() as producers:
            yield KafkaSourceHarness(kafka.bootstrap, topic, producers)


class TestKafkaDestination(DestinationConformance):
    @pytest.fixture
    async def harness(self, kafka: Broker, new_topic: Callable[[], str]) -> KafkaDestinationHarness:
        topic = new_topic()
        await topics.create_topic(kafka.bootstrap, topic, configs=KEEP_ALL)
        return KafkaDestinationHarness(kafka.bootstrap, topic)
