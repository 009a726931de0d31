"""The records that one request brings to the function: from AWS's Kafka event, a Redis event, or a raw request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from kafka_harness.behaviour import Behaviour
from kafka_harness.journal import entry_id, entry_number

_ONLY_PARTITION = "-0"  # a Redis stream is one partition


class DeliveredRecord(NamedTuple):
    """``offset`` of a stream's entry is its ``entry_number``."""

    offset: int
    key: bytes | None
    value: bytes | None


class Delivery(NamedTuple):
    """The records of one call; ``partition`` is ``topic-number`` or ``stream-0``.

    ``attempt`` and ``generation`` are 0 when the caller did not say. ``is_stream``: the records are of a Redis stream.
    """

    mapping: str
    partition: str
    attempt: int
    idempotency_key: str
    records: list[DeliveredRecord]
    generation: int = 0
    is_stream: bool = False

    def identifier(self, offset: int) -> dict[str, str | int]:
        """How an answer with partial failures names a record."""
        if self.is_stream:
            return {"stream": self.partition.removesuffix(_ONLY_PARTITION), "id": entry_id(offset)}
        return {"partition": self.partition, "offset": offset}


class DeliveryInvalid(Exception):
    """The request is not what the behaviour says that it must be."""


class _EventRecord(msgspec.Struct):
    """``offset`` is of Kafka's and files' events, ``id`` of a Redis stream's."""

    key: bytes | None
    value: bytes | None
    offset: int | None = None
    id: str | None = None

    @property
    def number(self) -> int:
        if self.id is not None:
            return entry_number(self.id)
        if self.offset is None:
            raise ValueError("a record without a position")
        return self.offset


class _Event(msgspec.Struct):
    records: dict[str, list[_EventRecord]]
    source: str = msgspec.field(default="", name="eventSource")


_decoder = msgspec.json.Decoder(_Event)


def read_delivery(headers: Mapping[str, str], body: bytes, behaviour: Behaviour) -> Delivery:
    """``headers`` have lower-case names. Raises DeliveryInvalid."""
    try:
        partition, is_stream = headers.get("stream-runner-partition", ""), False
        if behaviour.payload == "lambda":
            partition, is_stream, records = _from_event(body)
        else:
            key = headers.get("stream-runner-key")
            offset = int(headers["stream-runner-first-position"])
            null = headers.get("stream-runner-null-value") == "true"
            records = [DeliveredRecord(offset, None if key is None else unquote_to_bytes(key), None if null else body)]
        return Delivery(
            mapping=headers.get("stream-runner-mapping", ""),
            partition=partition,
            attempt=int(headers.get("stream-runner-attempt", "0")),
            idempotency_key=headers.get("idempotency-key", ""),
            records=records,
            generation=int(headers.get("stream-runner-generation", "0")),
            is_stream=is_stream,
        )
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise DeliveryInvalid(f"{type(error).__name__}: {error}") from error


def _from_event(body: bytes) -> tuple[str, bool, list[DeliveredRecord]]:
    event = _decoder.decode(body)
    if len(event.records) != 1:
        raise ValueError(f"records of one partition were expected, not of {sorted(event.records)}")
    ((partition, records),) = event.records.items()
    if not records:
        raise ValueError("an event without a record")
    is_stream = event.source == "RedisStreams"
    found = [DeliveredRecord(record.number, record.key, record.value) for record in records]
    return partition + _ONLY_PARTITION if is_stream else partition, is_stream, found


class PoisonCounter:
    """Knows how often each record has failed, for poison that fails only so many times."""

    def __init__(self) -> None:
        self._failures: Counter[tuple[str, int]] = Counter()

    def failing(self, delivery: Delivery) -> list[DeliveredRecord]:
        """The poison records that fail now; those with a number are counted."""
        found = []
        for record in delivery.records:
            limit = _poison(record.value)
            if limit is None:
                continue
            origin = (delivery.partition, record.offset)
            if limit is not True and self._failures[origin] >= limit:
                continue
            self._failures[origin] += 1
            found.append(record)
        return found


def named_failures(delivery: Delivery, failing: list[DeliveredRecord], behaviour: Behaviour) -> list[int]:
    """The offsets that an answer with partial failures names."""
    if behaviour.named == "poison":
        return [record.offset for record in failing]
    first = failing[0].offset
    keys: set[bytes | None] = set()
    poison = {record.offset for record in failing}
    named = []
    for record in delivery.records:
        if record.offset in poison:
            keys.add(record.key)
        if (behaviour.named == "rest" and record.offset >= first) or record.key in keys:
            named.append(record.offset)
    return named


def _poison(value: bytes | None) -> bool | int | None:
    """True, a number of failures, or None for a record that is not poison. Anything may be in a value."""
    if value is None or b'"poison"' not in value:
        return None
    try:
        decoded = json.loads(value)
    except ValueError:
        return None
    mark = decoded.get("poison") if isinstance(decoded, dict) else None
    return mark if isinstance(mark, int) and mark else None
