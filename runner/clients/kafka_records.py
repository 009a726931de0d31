"""Records as aiokafka's parser makes them, without the object that it makes of each for its users."""

# ruff: noqa: SLF001  (aiokafka has no hook for this)

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
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
    """What one fetch brought of one partition, of which ``take`` hands over many records at once."""

    next_fetch_offset: int
    _records: Any
    _batch: Any = None  # the one whose records are being handed over
    _of_batch: Iterator[ParsedRecord] = iter(())

    def take(self, most: int | None) -> tuple[list[ParsedRecord], bool]:
        """Up to ``most`` records, and whether this was all. Raises CorruptRecordException; nothing comes after that."""
        taken: list[ParsedRecord] = []
        try:
            is_all = self._take_into(taken, most)
        except BaseException:
            self._records = _Nothing()
            self._batch = None
            raise
        return taken, is_all

    def _take_into(self, taken: list[ParsedRecord], most: int | None) -> bool:
        while most is None or len(taken) < most:
            if self._batch is None:
                self._batch = self._next_batch()
                if self._batch is None:
                    return True
                # A batch can be asked for its iterator only once, and every slice asks.
                self._of_batch = islice(self._batch, None)
            room = None if most is None else most - len(taken)
            found = list(islice(self._of_batch, room))
            is_over = room is None or len(found) < room
            # A fetch brings whole batches, also where its position lies within one.
            if found and found[0].offset < self.next_fetch_offset:
                found = [record for record in found if record.offset >= self.next_fetch_offset]
            if found:
                self.next_fetch_offset = found[-1].offset + 1
                taken += found
            if is_over:
                # Compaction leaves a batch its last offset, even where it has taken the last record away.
                self.next_fetch_offset = self._batch.next_offset
                self._batch = None
        return False

    def _next_batch(self) -> Any:
        """The next one that has records for us, None at the end."""
        while self._records.has_next():
            batch = self._records.next_batch()
            if not batch.validate_crc():
                raise CorruptRecordException(f"the checksum of a batch of {self._tp} is wrong")
            if not (self._is_aborted(batch) or batch.is_control_batch):
                return batch
            self.next_fetch_offset = batch.next_offset
        return None

    def _is_aborted(self, batch: Any) -> bool:
        """Notes also which transactions begin and end at ``batch``."""
        if batch.producer_id is None:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and _holds_abort_marker(batch):
            self._aborted_producers.discard(batch.producer_id)
        return batch.is_transactional and batch.producer_id in self._aborted_producers


def _holds_abort_marker(batch: Any) -> bool:
    # Compaction may take the marker out of its batch, and leave the batch.
    return (control := next(iter(batch), None)) is not None and ControlRecord.parse(control.key) == ABORT_MARKER


def _getall(result_of: Callable[[], FetchResult | None], max_records: int | None = None) -> list[ParsedRecord]:
    """As ``FetchResult.getall``, which asks for each record singly."""
    result = result_of()
    assert result is not None, "called as its method"
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return []
    parsed: _Parsed = result._partition_records
    records, is_all = parsed.take(max_records)
    result._update_position()
    if is_all:
        result._partition_records = None
    return records


class _Nothing:
    """What is left of a fetch after a batch that cannot be read: what lies behind may not be handed over."""

    def has_next(self) -> bool:
        return False


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


class FetchBuffer(OrderedDict[TopicPartition, Any]):
    """The fetcher's buffer by partition; what is put into it is told to hand its records over as they are."""

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            parsed = result._partition_records
            parsed.__class__ = _Parsed
            parsed._records = _OrderedBatches(parsed._records, parsed.next_fetch_offset)
            # No cycles: fetches are large, and should be free as soon as they are read or dropped.
            parsed._records_iterator = None
            # The fetcher looks at the exact class, hence no class of our own.
            result.getall = partial(_getall, weakref.ref(result))
        super().__setitem__(tp, result)


def hand_over_parsed_records(consumer: AIOKafkaConsumer) -> None:
    """Make ``getmany`` of a started ``read_committed`` consumer without topics return ``ParsedRecord``.

    The consumer record is a third of what reading a record costs, and all of it is copied into our own record at once.
    Another quarter is that each record is passed on singly.
    """
    assert not consumer._fetcher._records, "nothing is fetched yet"
    consumer._fetcher._records = FetchBuffer()


def is_buffered(consumer: AIOKafkaConsumer, tp: TopicPartition) -> bool:
    """Whether records or an error of ``tp`` wait in ``consumer``: its position may have run ahead of them."""
    return tp in consumer._fetcher._records


def fetching_failed(consumer: AIOKafkaConsumer) -> BaseException | None:
    """What ended the task that fetches, which ``getmany`` would never tell."""
    task = consumer._fetcher.error_future
    return task.exception() if task.done() and not task.cancelled() else None
