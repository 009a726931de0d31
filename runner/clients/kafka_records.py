"""Records as aiokafka's parser makes them, without the object that it makes of each for its users."""

# ruff: noqa: SLF001  (aiokafka has no hook for this)

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord


class ParsedRecord(Protocol):
    """What a record of a fetch has; key and value are bytes of their own, not views of the fetch."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class _Parsed(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    def _consumer_record(self, tp: TopicPartition, record: ParsedRecord) -> ParsedRecord:
        return record

    def _contains_abort_marker(self, batch: Any) -> bool:
        # Compaction may take the marker out of its batch, and leave the batch.
        return (control := next(batch, None)) is not None and ControlRecord.parse(control.key) == ABORT_MARKER


class _Buffer(OrderedDict[TopicPartition, Any]):
    """The fetcher's buffer by partition; what is put into it is told to hand its records over as they are."""

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            result._partition_records.__class__ = _Parsed
        super().__setitem__(tp, result)


def hand_over_parsed_records(consumer: AIOKafkaConsumer) -> None:
    """Make ``getmany`` of a started consumer without topics return ``ParsedRecord``.

    The consumer record is a third of what reading a record costs, and all of it is copied into our own record at once.
    """
    assert not consumer._fetcher._records, "nothing is fetched yet"
    consumer._fetcher._records = _Buffer()


def is_buffered(consumer: AIOKafkaConsumer, tp: TopicPartition) -> bool:
    """Whether records or an error of ``tp`` wait in ``consumer``: its position may have run ahead of them."""
    return tp in consumer._fetcher._records


def fetching_failed(consumer: AIOKafkaConsumer) -> BaseException | None:
    """What ended the task that fetches, which ``getmany`` would never tell."""
    task = consumer._fetcher.error_future
    return task.exception() if task.done() and not task.cancelled() else None
