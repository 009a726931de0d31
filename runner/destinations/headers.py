"""The headers by which a stored dead letter says where it comes from, in our own names beside Spring's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from runner.model import NO_TIMESTAMP, DeadLetter, FunctionError, Record, TimestampType

PREFIX: Final = "stream-runner-"

CONTEXT: Final = frozenset(
    PREFIX + name
    for name in (
        "original-topic",
        "original-partition",
        "original-position",
        "original-timestamp-ms",
        "original-timestamp-type",
        "original-consumer-group",
        "original-source",
        "mapping",
        "function",
        "condition",
        "attempts",
        "given-up-at-ms",
        "error-kind",
        "error-type",
        "error-text",
        "error-stack",
        "error-status-code",
        "pointer",
    )
)
"""The names by which a dead letter says where it comes from."""
POINTER: Final = PREFIX + "pointer"
"""Says that the value is a pointer to the original record, and not the record itself."""

_SPRING: Final = frozenset(
    "kafka_dlt-" + name
    for name in (
        "original-topic",
        "original-partition",
        "original-offset",
        "original-timestamp",
        "original-timestamp-type",
        "original-consumer-group",
        "exception-fqcn",
        "exception-message",
        "exception-stacktrace",
    )
)
_SPRING_TIMESTAMP_TYPES: Final = {
    TimestampType.CREATE_TIME: "CreateTime",
    TimestampType.LOG_APPEND_TIME: "LogAppendTime",
}
_LONGEST_TYPE: Final = 256
_INT: Final = struct.Struct(">i")
_LONG: Final = struct.Struct(">q")


def dead_letter_headers(letter: DeadLetter, *, with_error: bool = True) -> list[tuple[str, bytes]]:
    """What is known of ``letter``: ours as text in UTF-8, times in epoch milliseconds; Spring's as Spring encodes them.

    ``with_error=False`` leaves out what can be long: the error's text and stack.
    """
    return [*context_headers(letter, with_error=with_error), *_spring(letter, with_error)]


def original_headers(record: Record) -> list[tuple[str, bytes | None]]:
    """The record's headers byte for byte, but for those that ``dead_letter_headers`` writes.

    A record that was a dead letter before has them already; they are replaced, so that no redrive adds to them.
    """
    return [(name, value) for name, value in record.headers if name not in CONTEXT and name not in _SPRING]


def context_headers(letter: DeadLetter, *, with_error: bool = True) -> Iterator[tuple[str, bytes]]:
    """Those of ``dead_letter_headers`` that have our own names, which are in ``CONTEXT``."""
    record = letter.record
    facts: dict[str, str | int] = {
        "original-topic": record.partition.topic,
        "original-partition": record.partition.number,
        "original-position": record.position,
        "original-timestamp-ms": record.timestamp_ms,
        "original-timestamp-type": record.timestamp_type.value,
        "original-consumer-group": letter.group,
        "original-source": letter.source,
        "mapping": letter.mapping,
        "function": letter.function,
        "condition": letter.condition.value,
        "attempts": letter.attempts,
        "given-up-at-ms": letter.given_up_at_ms,
        **({} if letter.error is None else _facts_of(letter.error, with_error)),
    }
    for name, value in facts.items():
        yield PREFIX + name, _text(value)


def _facts_of(error: FunctionError, with_error: bool) -> dict[str, str | int]:
    facts: dict[str, str | int] = {"error-kind": error.kind.value, "error-type": error.type[:_LONGEST_TYPE]}
    if error.status_code is not None:
        facts["error-status-code"] = error.status_code
    if with_error:
        facts["error-text"] = error.text
        if error.stack:
            facts["error-stack"] = error.stack
    return facts


def _spring(letter: DeadLetter, with_error: bool) -> Iterator[tuple[str, bytes]]:
    record = letter.record
    has_timestamp = record.timestamp_ms != NO_TIMESTAMP
    timestamp_type = _SPRING_TIMESTAMP_TYPES[record.timestamp_type] if has_timestamp else "NoTimestampType"
    yield "kafka_dlt-original-topic", _text(record.partition.topic)
    yield "kafka_dlt-original-partition", _INT.pack(record.partition.number)
    if isinstance(record.position, int):
        yield "kafka_dlt-original-offset", _LONG.pack(record.position)
    yield "kafka_dlt-original-timestamp", _LONG.pack(record.timestamp_ms)
    yield "kafka_dlt-original-timestamp-type", _text(timestamp_type)
    yield "kafka_dlt-original-consumer-group", _text(letter.group)
    if letter.error is not None:
        yield "kafka_dlt-exception-fqcn", _text(letter.error.type[:_LONGEST_TYPE])
        if with_error:
            yield "kafka_dlt-exception-message", _text(letter.error.text)
            yield "kafka_dlt-exception-stacktrace", _text(letter.error.stack)


def _text(value: str | int) -> bytes:
    """UTF-8; what a function's error may hold that is not Unicode (lone surrogates) is escaped."""
    return str(value).encode("utf-8", "backslashreplace")
