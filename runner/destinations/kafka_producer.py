"""One idempotent producer for one topic, from its first connection to its first failed write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, UnknownTopicOrPartitionError
from aiokafka.protocol.admin import DescribeConfigsRequest

from runner.clients.kafka import KafkaConnection, build_producer, stop_client
from runner.clients.kafka_errors import problem_of
from runner.clients.kafka_probe import diagnose
from runner.clients.kafka_topics import suggest
from runner.destinations.kafka_messages import Message
from runner.model import Problem
from runner.ports import DestinationError

BATCH_BYTES: Final = 256 * 1024
"""Letters are written together up to this size; one that is larger goes alone."""

BATCH_OVERHEAD: Final = 128
"""Bytes that a batch takes besides its records, rounded up."""
_LARGEST_BATCH_BYTES: Final = 64 * 1024 * 1024
"""Beyond it the broker's socket.request.max.bytes (100 MiB) would cut the connection, and the client try for ever."""
_TOPIC_KNOWN_FOR: Final = 10.0
"""Seconds for which what was learnt about the topic is taken as true."""
_STOP_TIMEOUT: Final = 3.0
_DIAGNOSIS_TIMEOUT: Final = 5.0
_DEFAULT_RETENTION_MS: Final = 7 * 24 * 3_600_000
_CONFIGS: Final = ["max.message.bytes", "retention.ms"]


class Topic(NamedTuple):
    """What is known of the topic. ``retention_ms`` is None when records stay for ever."""

    partitions: tuple[int, ...]
    largest_batch_bytes: int
    retention_ms: int | None


class TopicProducer:
    """Writes batches to one topic. After a failed write it is not used again: its sequence numbers have a gap.

    (aiokafka counts a batch when it is first sent, the broker when it is stored; every later batch of that partition
    would be refused as out of order.) A write that was cancelled spends it as well, since the batch is still in it.
    """

    def __init__(self, connection: KafkaConnection, topic: str, timeout: float) -> None:
        self._connection = connection
        self._topic = topic
        self._timeout = timeout
        self._producer = build_producer(
            connection,
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=round(min(max(timeout, 1.0), 30.0) * 1000),
        )
        self._known: Topic | None = None
        self._known_until = 0.0
        self._writing = 0
        self._stop: asyncio.Task[None] | None = None
        self.spent = False

    async def start(self) -> None:
        """Connect, within the timeout. Raises DestinationError; then it is spent."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._producer.start()
        except (KafkaError, OSError) as error:
            self.retire()
            raise _unavailable(await self._diagnose(error)) from error
        except BaseException:
            self.retire()
            raise

    async def topic(self) -> Topic:
        """The topic as it was within the last seconds. Raises DestinationError: missing, or the cluster is away."""
        if self._known is None or time.monotonic() >= self._known_until:
            self._known = None
            try:
                async with asyncio.timeout(self._timeout):
                    self._known = await self._learn()
            except (KafkaError, OSError) as error:
                raise _unavailable(await self._diagnose(error)) from error
            self._known_until = time.monotonic() + _TOPIC_KNOWN_FOR
        return self._known

    async def write(self, partition: int, messages: Sequence[Message]) -> KafkaError | None:
        """Store ``messages`` in one batch, all or none; wait for as long as the client may still deliver it.

        Returns the error by which it was refused; then nothing is stored. The caller sees to it that two writes to
        one partition do not overlap.
        """
        batch = self._producer.create_batch()
        for message in messages:
            added = batch.append(
                timestamp=message.timestamp_ms, key=message.key, value=message.value, headers=message.headers
            )
            assert added is not None, "more was put together than fits into a batch"
        batch.close()
        if batch.size() > (await self.topic()).largest_batch_bytes:
            return MessageSizeTooLargeError(f"{batch.size()} bytes")
        if partition not in (self._producer.client.cluster.partitions_for_topic(self._topic) or ()):
            self._known = None
            return UnknownTopicOrPartitionError(f"{self._topic}-{partition}")
        # No await from here to the hand-over: the client finds the topic in its metadata and does not ask for it by
        # name, which would create it.
        return await self._hand_over(partition, batch)

    async def _hand_over(self, partition: int, batch: Any) -> KafkaError | None:
        self._writing += 1
        try:
            await (await self._producer.send_batch(batch, self._topic, partition=partition))
        except KafkaError as error:
            self.spent = True
            self._known = None
            return error
        except BaseException:
            self.spent = True
            raise
        finally:
            self._writing -= 1
            if self.spent:
                self.retire()
        return None

    def retire(self) -> None:
        """Use it no more, and stop it as soon as no write is under way in it."""
        self.spent = True
        if self._writing == 0:
            self.stop()

    def stop(self) -> None:
        """Stop it now, whatever is under way in it."""
        self.spent = True
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_task(stop_client(self._producer, _STOP_TIMEOUT))

    async def stopped(self) -> None:
        """Wait for the end of ``stop``: some seconds at most. Never raises."""
        if self._stop is not None:
            await asyncio.wait({self._stop})

    @property
    def is_stopped(self) -> bool:
        return self._stop is not None and self._stop.done()

    async def _diagnose(self, error: BaseException) -> Problem:
        return await diagnose(error, self._connection, self._topic, min(self._timeout, _DIAGNOSIS_TIMEOUT))

    async def _learn(self) -> Topic:
        client = self._producer.client
        # With no topic named this is the full list: naming one would create it.
        if not await client.force_metadata_update():
            raise TimeoutError("no broker answers")
        partitions = client.cluster.partitions_for_topic(self._topic)
        if not partitions:
            near = suggest(self._topic, client.cluster.topics())
            raise UnknownTopicOrPartitionError(near or "no topic has a similar name")
        configs = await self._configs()
        return Topic(
            partitions=tuple(sorted(partitions)),
            largest_batch_bytes=min(int(configs.get(_CONFIGS[0], _LARGEST_BATCH_BYTES)), _LARGEST_BATCH_BYTES),
            retention_ms=_retention(int(configs.get(_CONFIGS[1], _DEFAULT_RETENTION_MS))),
        )

    async def _configs(self) -> dict[str, str]:
        """The topic's settings; empty when we may not see them: then the broker decides, record by record."""
        client = self._producer.client
        request = DescribeConfigsRequest([(ConfigResourceType.TOPIC, self._topic, _CONFIGS)], False)
        response = await client.send(client.get_random_node(), request)
        return {
            name: value
            for error_code, _, _, _, entries in response.resources
            if error_code == 0
            for name, value, *_ in entries
            if value is not None
        }


def _retention(retention_ms: int) -> int | None:
    return None if retention_ms < 0 else retention_ms


def refused(error: BaseException, connection: KafkaConnection, topic: str) -> DestinationError:
    """``error``, with which a write was refused, for the lane that waits."""
    return _unavailable(problem_of(error, connection, topic))


def _unavailable(problem: Problem) -> DestinationError:
    return DestinationError(f"{problem.text} ({problem.hint})" if problem.hint else problem.text)
