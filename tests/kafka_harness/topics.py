"""What tests do to topics and groups from outside, by short-lived clients over the plain-text listener."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import for_code

from kafka_harness.clients import connected_admin, reading_consumer
from kafka_harness.properties import NODE_ID
from kafka_harness.waiting import until_async

COMPACT_AT_ONCE: Final = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.001",
    "segment.ms": "100",
    "max.compaction.lag.ms": "100",
}
"""Configs of a topic whose closed segments are compacted within a second; the newest segment never is."""

STAMPED_BY_BROKER: Final = {"message.timestamp.type": "LogAppendTime"}
"""Configs of a topic whose records carry the time at which the broker stored them."""


class Consumed(NamedTuple):
    """A record as a plain consumer sees it. ``stamped_by_broker``: the timestamp is the time of storing it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int
    stamped_by_broker: bool

    def header(self, name: str) -> bytes | None:
        """The first header of that name. Raises LookupError when there is none."""
        for present, value in self.headers:
            if present == name:
                return value
        raise LookupError(f"{self.topic}-{self.partition}@{self.offset} has no header {name!r}")


async def create_topic(
    bootstrap: str, topic: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None
) -> None:
    """Create a topic; it can be written to when this returns. Raises KafkaError."""
    async with connected_admin(bootstrap) as admin:
        new = NewTopic(topic, num_partitions=partitions, replication_factor=1, topic_configs=dict(configs or {}))
        response = await admin.create_topics([new])
        for name, code, message, *_ in response.topic_errors:
            if code:
                raise for_code(code)(f"{name}: {message}")
        await _await_partitions(admin, topic, partitions)


async def add_partitions(bootstrap: str, topic: str, total: int) -> None:
    """Grow a topic to ``total`` partitions; they can be written to when this returns. Raises KafkaError."""
    async with connected_admin(bootstrap) as admin:
        await admin.create_partitions({topic: NewPartitions(total)})
        await _await_partitions(admin, topic, total)


async def delete_topic(bootstrap: str, topic: str) -> None:
    """Delete a topic; no broker knows it any more when this returns. Raises KafkaError."""
    async with connected_admin(bootstrap) as admin:
        response = await admin.delete_topics([topic])
        for name, code, *_ in response.topic_error_codes:
            if code:
                raise for_code(code)(name)

        async def gone() -> bool:
            return topic not in await admin.list_topics()

        await until_async(gone, what=f"topic {topic} is deleted")


async def topic_names(bootstrap: str) -> set[str]:
    async with connected_admin(bootstrap) as admin:
        return set(await admin.list_topics())


async def delete_records(bootstrap: str, before: Mapping[tuple[str, int], int]) -> None:
    """Delete all records of these partitions before the given offsets. Raises KafkaError."""
    async with connected_admin(bootstrap) as admin:
        await admin.delete_records(
            {TopicPartition(*place): RecordsToDelete(before_offset=offset) for place, offset in before.items()}
        )


async def committed_offsets(bootstrap: str, group: str) -> dict[tuple[str, int], int]:
    """The committed offset of each partition for which the group has one."""
    async with connected_admin(bootstrap) as admin:
        found = await admin.list_consumer_group_offsets(group, group_coordinator_id=NODE_ID)
        return {(place.topic, place.partition): entry.offset for place, entry in found.items() if entry.offset >= 0}


async def end_offsets(
    bootstrap: str, topic: str, *, isolation_level: str = "read_committed"
) -> dict[tuple[str, int], int]:
    """The end of each partition: the last stable offset, or with ``read_uncommitted`` the high watermark."""
    async with reading_consumer(bootstrap, isolation_level) as consumer:
        places = await _places(consumer, topic)
        ends = await consumer.end_offsets(places)
        return {(place.topic, place.partition): offset for place, offset in ends.items()}


async def begin_offsets(bootstrap: str, topic: str) -> dict[tuple[str, int], int]:
    async with reading_consumer(bootstrap, "read_committed") as consumer:
        begins = await consumer.beginning_offsets(await _places(consumer, topic))
        return {(place.topic, place.partition): offset for place, offset in begins.items()}


async def read_topic(
    bootstrap: str, topic: str, *, isolation_level: str = "read_committed", timeout: float = 30.0
) -> list[Consumed]:
    """All that the topic holds up to its end as it is now, by partition and offset.

    Raises TimeoutError after ``timeout`` seconds, and what the consumer raises: CorruptRecordException for one.
    """
    async with asyncio.timeout(timeout), reading_consumer(bootstrap, isolation_level) as consumer:
        places = await _places(consumer, topic)
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        records: list[Consumed] = []
        while True:
            # A position is learnt before the first record, and passes markers and holes, which bring no record.
            behind = [place for place in places if await consumer.position(place) < ends[place]]
            if not behind:
                break
            for found in (await consumer.getmany(*behind, timeout_ms=200)).values():
                records += [
                    Consumed(
                        record.topic,
                        record.partition,
                        record.offset,
                        record.key,
                        record.value,
                        tuple(record.headers),
                        record.timestamp,
                        record.timestamp_type == 1,
                    )
                    for record in found
                ]
    return sorted(
        (record for record in records if record.offset < ends[TopicPartition(record.topic, record.partition)]),
        key=lambda record: (record.partition, record.offset),
    )


async def _places(consumer: AIOKafkaConsumer, topic: str) -> Sequence[TopicPartition]:
    partitions = await consumer._client._wait_on_metadata(topic)
    return [TopicPartition(topic, number) for number in sorted(partitions)]


async def _await_partitions(admin: AIOKafkaAdminClient, topic: str, total: int) -> None:
    async def led() -> bool:
        (found,) = await admin.describe_topics([topic])
        leaders = [entry["leader"] for entry in found["partitions"]]
        return found["error_code"] == 0 and len(leaders) == total and min(leaders) >= 0

    await until_async(led, what=f"topic {topic} has {total} partitions with a leader")
