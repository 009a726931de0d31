"""Dead letters stored in a Kafka topic."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import anyio
from aiokafka import errors
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from runner.clients.kafka import KafkaConnection
from runner.clients.kafka_errors import InvalidRecordError
from runner.destinations.forms import Form
from runner.destinations.kafka_messages import Message, message_of, timestamp_of
from runner.destinations.kafka_producer import BATCH_BYTES, BATCH_OVERHEAD, Topic, TopicProducer, refused
from runner.destinations.overdue import ReportedWhenOverdue
from runner.model import DeadLetter, Record
from runner.ports import DestinationError, Observer

_TOO_LARGE: Final = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.RecordTooLargeError)
_ABOUT_THE_LETTER: Final = (
    *_TOO_LARGE,
    errors.InvalidTimestampError,
    errors.CorruptRecordException,
    InvalidRecordError,
)
"""Refusals that another letter of the same batch need not meet."""
_ABOUT_THE_PRODUCER: Final = (
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerEpoch,
    errors.InvalidProducerIdMapping,
    errors.ProducerFenced,
    errors.ProducerClosed,
)
"""Refusals that a new producer does not meet."""

Result: TypeAlias = DestinationError | None
_Group: TypeAlias = list[tuple[DeadLetter, Message]]


class KafkaDestination:
    """Stores each letter once in the original partition, or where its key belongs when the topic lacks that one.

    A letter without a key then goes by its source partition's number, so that letters of one source partition keep
    their order. ``timeout`` is in seconds: for connecting, after which nothing is stored, and for a write, after which
    it is reported and awaited on.
    """

    def __init__(self, *, connection: KafkaConnection, topic: str, timeout: float, observer: Observer) -> None:
        self._connection = connection
        self._topic = topic
        self._timeout = timeout
        self._observer = observer
        self._partitioner = DefaultPartitioner()
        self._producer: TopicProducer | None = None
        self._producers: list[TopicProducer] = []
        self._starting = asyncio.Lock()
        self._last_failure: tuple[float, str] | None = None
        self._partition_locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._closed = False

    @property
    def description(self) -> str:
        return f"topic {self._topic} of {self._connection}"

    async def open(self) -> None:
        """Nothing to do: the producer is made for the first letter."""

    async def store(self, letters: Sequence[DeadLetter]) -> Sequence[DestinationError | None]:
        """As ``ports.Destination.store`` says; letters of one destination partition are stored in order."""
        if not letters:
            return []
        try:
            topic = await self._current_topic()
        except DestinationError as error:
            return [DestinationError(str(error)) for _ in letters]
        results: list[Result] = [None] * len(letters)

        async def store_into(partition: int, indices: Sequence[int]) -> None:
            with ReportedWhenOverdue(self._observer, self.description, len(indices), self._timeout):
                async with self._partition_locks[partition]:
                    stored = await self._store_in_order(partition, [letters[index] for index in indices])
            for index, result in zip(indices, stored, strict=True):
                results[index] = result

        # At once: a partition without a leader is awaited for as long as it has none.
        async with anyio.create_task_group() as group:
            for partition, indices in self._by_partition(topic, letters).items():
                group.start_soon(store_into, partition, indices)
        return results

    async def close(self) -> None:
        """Stop the producers, by force after some seconds when brokers are down. Cancel the stores under way first."""
        self._closed = True
        for producer in self._producers:
            producer.stop()
        await asyncio.gather(*(producer.stopped() for producer in self._producers))

    def _by_partition(self, topic: Topic, letters: Sequence[DeadLetter]) -> dict[int, list[int]]:
        indices: defaultdict[int, list[int]] = defaultdict(list)
        for index, letter in enumerate(letters):
            indices[self._partition_of(topic, letter.record)].append(index)
        return indices

    def _partition_of(self, topic: Topic, record: Record) -> int:
        if record.partition.number in topic.partitions:
            return record.partition.number
        if record.key is None:
            return topic.partitions[record.partition.number % len(topic.partitions)]
        partition: int = self._partitioner(record.key, list(topic.partitions), [])
        return partition

    async def _store_in_order(self, partition: int, letters: Sequence[DeadLetter]) -> list[Result]:
        results: list[Result] = []
        try:
            topic = await self._current_topic()
            for group in _groups(letters, topic):
                await self._store_group(partition, group, topic, results)
        except DestinationError as error:
            # Not about one letter. Those behind it wait as well, or they would overtake it.
            results += [DestinationError(str(error)) for _ in letters[len(results) :]]
        return results

    async def _store_group(self, partition: int, group: _Group, topic: Topic, results: list[Result]) -> None:
        """Store in one batch; one by one when a letter in it is refused. Adds to ``results`` as it goes.

        Raises DestinationError when what keeps a letter out keeps out all that are left.
        """
        if len(group) > 1 and await self._write(partition, [message for _, message in group]) is None:
            results += [None] * len(group)
            return
        for letter, message in group:
            results.append(await self._store_one(partition, letter, message, topic))

    async def _store_one(self, partition: int, letter: DeadLetter, message: Message, topic: Topic) -> Result:
        """Store the largest form that the topic takes. Raises DestinationError as ``_store_group`` does."""
        form = Form.WHOLE
        while (error := await self._write(partition, [message])) is not None:
            timestamp_ms = message.timestamp_ms
            if isinstance(error, _TOO_LARGE) and form.smaller is not None:
                form = form.smaller
            elif isinstance(error, errors.InvalidTimestampError) and timestamp_ms != letter.given_up_at_ms:
                timestamp_ms = letter.given_up_at_ms
            else:
                return refused(error, self._connection, self._topic)
            message = message_of(letter, form, timestamp_ms)
        return None

    async def _write(self, partition: int, messages: Sequence[Message]) -> KafkaError | None:
        """None: stored. An error: refused, for what one of ``messages`` is. Raises DestinationError for all else."""
        producer = await self._current_producer()
        error = await producer.write(partition, messages)
        if isinstance(error, _ABOUT_THE_PRODUCER):
            producer = await self._current_producer()
            error = await producer.write(partition, messages)
        if error is None or isinstance(error, _ABOUT_THE_LETTER):
            return error
        raise refused(error, self._connection, self._topic) from error

    async def _current_topic(self) -> Topic:
        return await (await self._current_producer()).topic()

    async def _current_producer(self) -> TopicProducer:
        """A started one that is not spent. Raises DestinationError: the cluster cannot be reached or refuses us."""
        asked_at = time.monotonic()
        async with self._starting:
            if self._closed:
                raise DestinationError(f"{self.description} is closed")
            if self._producer is not None and not self._producer.spent:
                return self._producer
            if self._last_failure is not None and self._last_failure[0] >= asked_at:
                # It failed for another lane while this one stood in the queue: no second wait.
                raise DestinationError(self._last_failure[1])
            self._producer = TopicProducer(self._connection, self._topic, self._timeout)
            self._producers = [*(producer for producer in self._producers if not producer.is_stopped), self._producer]
            try:
                await self._producer.start()
            except DestinationError as error:
                self._last_failure = time.monotonic(), str(error)
                raise
            return self._producer


def _groups(letters: Sequence[DeadLetter], topic: Topic) -> Iterator[_Group]:
    """Letters that fit into one batch, in order; one that fits into none is alone."""
    room = min(BATCH_BYTES, topic.largest_batch_bytes) - BATCH_OVERHEAD
    group: _Group = []
    used = 0
    for letter in letters:
        message = message_of(letter, Form.WHOLE, timestamp_of(letter, topic.retention_ms))
        size = message.largest_size
        if group and used + size > room:
            yield group
            group, used = [], 0
        group.append((letter, message))
        used += size
    if group:
        yield group
