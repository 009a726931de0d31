"""Records as aiokafka's parser makes them, without the object that it makes of each for its users."""

# ruff: noqa: SLF001  (aiokafka has no hook for this)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
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
    def __iter__(self) -> Iterator[ParsedRecord]:
        # The generator itself: going through this class's own ``__next__`` is a call for each record.
        parsed: Iterator[ParsedRecord] = self._records_iterator
        return parsed

    def _consumer_record(self, tp: TopicPartition, record: ParsedRecord) -> ParsedRecord:
        return record

    def _contains_abort_marker(self, batch: Any) -> bool:
        # Compaction may take the marker out of its batch, and leave the batch.
        return (control := next(batch, None)) is not None and ControlRecord.parse(control.key) == ABORT_MARKER


class _OrderedBatches:
    """The batches of one fetch, which never go back.

    A batch's checksum leaves out its base offset, and the parser drops without a word what lies before the position.
    """

    def __init__(self, records: Any, position: int) -> None:
        self._records = records
        self._next_offset = position
        self.has_next: Callable[[], bool] = records.has_next

    def next_batch(self) -> Any:
        """Raises CorruptRecordException."""
        batch = self._records.next_batch()
        if batch.next_offset <= self._next_offset:
            raise CorruptRecordException(
                f"a batch before offset {batch.next_offset} is where {self._next_offset} is due"
            )
        self._next_offset = batch.next_offset
        return batch


class _Buffer(OrderedDict[TopicPartition, Any]):
    """The fetcher's buffer by partition; what is put into it is told to hand its records over as they are."""

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            parsed = result._partition_records
            parsed.__class__ = _Parsed
            parsed._records = _OrderedBatches(parsed._records, parsed.next_fetch_offset)
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
