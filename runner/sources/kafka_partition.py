"""One assigned Kafka partition as the source keeps it."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import TopicPartition

from runner.clients.kafka_records import ParsedRecord
from runner.model import Fetched, Headers, Partition, Problem, Record, TimestampType

_TIMESTAMP_TYPES = (TimestampType.CREATE_TIME, TimestampType.LOG_APPEND_TIME)


class AssignedPartition:
    """Made anew for each assignment. ``next_offset`` is the offset after everything that was handed over."""

    __slots__ = (
        "end",
        "end_learnt_at",
        "is_paused",
        "is_suspect",
        "next_offset",
        "partition",
        "problem",
        "retries",
        "retry_at",
        "sequence",
        "stuck_since",
        "target",
        "tp",
    )

    def __init__(self, tp: TopicPartition, start: int, target: int | None) -> None:
        """``target``: the offset at which reading ends, None to follow for ever."""
        self.tp = tp
        self.partition = Partition(tp.topic, tp.partition)
        self.next_offset = start
        self.target = target
        self.sequence = 0
        self.is_paused = False  # by the engine
        self.is_suspect = False  # read record by record, to find the place that cannot be read
        self.problem: Problem | None = None  # stopped until retry_at
        self.retry_at = 0.0
        self.retries = 0
        self.stuck_since: float | None = None  # when the broker was first seen to hand out nothing before the end
        self.end: int | None = None  # asked for, where no fetch tells
        self.end_learnt_at = 0.0

    @property
    def is_at_target(self) -> bool:
        return self.target is not None and self.next_offset >= self.target

    @property
    def is_fetched(self) -> bool:
        return not self.is_paused and self.problem is None and not self.is_at_target

    def take(self, messages: Sequence[ParsedRecord], position: int) -> Fetched:
        """``position`` is the client's, after ``messages`` and what it passed over behind them."""
        target = self.target
        if target is not None and position > target:
            messages = [message for message in messages if message.offset < target]
            position = target
        partition = self.partition
        sequence = self.sequence
        total = 0
        records: list[Record] = []
        append = records.append
        for message in messages:
            key = message.key
            value = message.value
            headers: Headers = ()
            size = 0 if value is None else len(value)
            if key is not None:
                size += len(key)
            if message.headers:
                headers = tuple(message.headers)
                for name, header in headers:
                    size += 1 + len(name) + (0 if header is None else len(header))
            total += size
            append(
                Record(
                    partition,
                    message.offset,
                    key,
                    value,
                    headers,
                    message.timestamp,
                    sequence,
                    size,
                    _TIMESTAMP_TYPES[message.timestamp_type or 0],
                )
            )
            sequence += 1
        self.sequence = sequence
        self.next_offset = position
        self.stuck_since = None
        return Fetched(partition, records, position, total)
