"""Where a group begins to read the partitions that it was given."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from runner.sources.starting import StartingPosition

_METADATA = re.compile(r"stream-runner/1 partitions=(\d+)")


def metadata_of(partitions: int) -> str:
    """What every commit says of its topic: how many partitions it had when the group first started on it.

    It tells a partition that was added later (read from its beginning) from one whose first commit is still missing
    because another member was faster (read from the configured starting position)."""
    return f"stream-runner/1 partitions={partitions}"


@dataclass(frozen=True, slots=True)
class Starts:
    """``positions`` of all given partitions; ``first`` are those that must be committed before anything is read.

    ``metadata`` is by topic, for all later commits."""

    positions: Mapping[TopicPartition, int]
    first: Mapping[TopicPartition, OffsetAndMetadata]
    metadata: Mapping[str, str]


async def resolve_starts(
    consumer: AIOKafkaConsumer,
    partitions: Collection[TopicPartition],
    commits: Mapping[TopicPartition, OffsetAndMetadata],
    sizes: Mapping[str, int],
    starting: StartingPosition,
    starting_timestamp: float | None,
) -> Starts:
    """``commits`` are all of the group, ``sizes`` the topics' numbers of partitions. Raises aiokafka's errors."""
    born = _partitions_at_first_start(commits)
    positions: dict[TopicPartition, int] = {}
    at_start: list[TopicPartition] = []
    new: list[TopicPartition] = []
    for partition in partitions:
        commit = commits.get(partition)
        if commit is not None:
            positions[partition] = commit.offset
        elif partition.topic not in born or partition.partition < born[partition.topic]:
            at_start.append(partition)
        else:
            new.append(partition)
    first = dict(await _offsets_at(consumer, at_start, starting, starting_timestamp))
    if new:
        first.update(await consumer.beginning_offsets(new))
    positions.update(first)
    topics = {partition.topic for partition in partitions}
    metadata = {topic: metadata_of(born.get(topic, sizes[topic])) for topic in topics}
    return Starts(
        positions,
        {partition: OffsetAndMetadata(offset, metadata[partition.topic]) for partition, offset in first.items()},
        metadata,
    )


def _partitions_at_first_start(commits: Mapping[TopicPartition, OffsetAndMetadata]) -> dict[str, int]:
    """By topic that the group has commits on; 0 where another program made them, so that nothing new is skipped."""
    born: dict[str, int] = {}
    for partition, commit in commits.items():
        match = _METADATA.search(commit.metadata or "")
        born[partition.topic] = max(born.get(partition.topic, 0), int(match[1]) if match else 0)
    return born


async def _offsets_at(
    consumer: AIOKafkaConsumer,
    partitions: Collection[TopicPartition],
    starting: StartingPosition,
    starting_timestamp: float | None,
) -> Mapping[TopicPartition, int]:
    if not partitions:
        return {}
    match starting:
        case StartingPosition.TRIM_HORIZON:
            offsets: Mapping[TopicPartition, int] = await consumer.beginning_offsets(partitions)
        case StartingPosition.LATEST:
            offsets = await consumer.end_offsets(partitions)
        case StartingPosition.AT_TIMESTAMP:
            assert starting_timestamp is not None
            stamp = int(starting_timestamp * 1000)
            # The ends come first: what is appended after the search found nothing must lie behind them.
            ends = await consumer.end_offsets(partitions)
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, stamp))
            offsets = {
                partition: ends[partition] if found[partition] is None else found[partition].offset
                for partition in partitions
            }
    return offsets
