"""The event that AWS Lambda hands to a function of a self-managed Kafka event source mapping.

A null header value is JSON null, an empty one ``[]``; byte values are Java's signed bytes, as AWS sends them.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

from runner.model import Headers, Invocation, Partition, Position, Record, TimestampType

_LONGEST_DESCRIPTION: Final = 4_096
_LONGEST_PARTITION: Final = 1_600
_SIGNED_LENGTHS: Final = bytes(len(str(byte if byte < 128 else byte - 256)) for byte in range(256))
_ENCODE: Final = msgspec.json.Encoder().encode


class _Record(msgspec.Struct, rename="camel", gc=False):
    topic: str
    partition: int
    offset: Position
    timestamp: int
    timestamp_type: TimestampType
    key: bytes | None
    value: bytes | None
    headers: list[dict[str, list[int] | None]]


class _Event(msgspec.Struct, rename="camel", gc=False):
    event_source: str
    bootstrap_servers: str
    records: dict[str, list[_Record]]


class LambdaPayload:
    """``event_source`` is AWS's word for the source: ``SelfManagedKafka``, or ``File``.

    With ``source_description`` (what ``Invocation.source`` will say) ``fixed_size`` is close; without it, it keeps
    room for one of 4 kB.
    """

    content_type: Final = "application/json"

    def __init__(self, event_source: str, source_description: str | None = None) -> None:
        self._event_source = event_source
        envelope = len(_ENCODE(_Event(event_source, _text(source_description or ""), {"": []})))
        unknown = _LONGEST_DESCRIPTION if source_description is None else 0
        self._fixed_size = envelope + unknown + _LONGEST_PARTITION

    @property
    def fixed_size(self) -> int:
        """Bytes of an event besides its records, at most."""
        return self._fixed_size

    @property
    def largest_expansion(self) -> tuple[float, int]:
        """``{"\\u0001":null},`` makes 16 bytes of a header of one; the rest is a record's own members.

        It presumes that a header counts for at least one byte in ``Record.size``.
        """
        return 16.0, 2_048

    def size_of(self, record: Record) -> int:
        """Bytes of the encoded record, exactly, with the comma that parts it from the next."""
        key, value = record.key, record.value
        size = _frame_size(record.partition, record.timestamp_type) + _json_size(record.position)
        size += len(str(record.timestamp_ms))
        size += 4 if key is None else 2 + 4 * ((len(key) + 2) // 3)
        size += 4 if value is None else 2 + 4 * ((len(value) + 2) // 3)
        return size + _headers_size(record.headers) if record.headers else size

    def exact_size(self, invocation: Invocation) -> int:
        """``len(encode(invocation))``, calculated. The invocation has records."""
        envelope = _Event(self._event_source, _text(invocation.source), {_text(str(invocation.partition)): []})
        return len(_ENCODE(envelope)) + sum(map(self.size_of, invocation.records)) - 1

    def encode(self, invocation: Invocation) -> bytes:
        """The event as JSON."""
        records = [
            _Record(
                topic=_text(record.partition.topic),
                partition=record.partition.number,
                offset=record.position,
                timestamp=record.timestamp_ms,
                timestamp_type=record.timestamp_type,
                key=record.key,
                value=record.value,
                headers=_headers(record.headers),
            )
            for record in invocation.records
        ]
        return _ENCODE(
            _Event(self._event_source, _text(invocation.source), {_text(str(invocation.partition)): records})
        )

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """What ``json.loads`` makes of ``encode(invocation)``, without encoding anything but the base64."""
        return {
            "eventSource": self._event_source,
            "bootstrapServers": _text(invocation.source),
            "records": {_text(str(invocation.partition)): [_plain(record) for record in invocation.records]},
        }


def _plain(record: Record) -> dict[str, Any]:
    key, value = record.key, record.value
    create_time = record.timestamp_type is TimestampType.CREATE_TIME
    return {
        "topic": _text(record.partition.topic),
        "partition": record.partition.number,
        "offset": record.position,
        "timestamp": record.timestamp_ms,
        "timestampType": "CREATE_TIME" if create_time else "LOG_APPEND_TIME",
        "key": None if key is None else b2a_base64(key, newline=False).decode("ascii"),
        "value": None if value is None else b2a_base64(value, newline=False).decode("ascii"),
        "headers": _headers(record.headers),
    }


def _headers(headers: Headers) -> list[dict[str, list[int] | None]]:
    return [{_text(name): None if value is None else memoryview(value).cast("b").tolist()} for name, value in headers]


def _text(text: str) -> str:
    """JSON holds Unicode: what is none (a lone surrogate) becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _headers_size(headers: Iterable[tuple[str, bytes | None]]) -> int:
    size = -1
    for name, value in headers:
        size += _json_size(name) + 4
        if value is None:
            size += 4
        elif value:
            size += sum(value.translate(_SIGNED_LENGTHS)) + len(value) + 1
        else:
            size += 2
    return size


def _json_size(value: Position) -> int:
    return len(str(value)) if isinstance(value, int) else _text_size(value)


@lru_cache(maxsize=4096)
def _text_size(text: str) -> int:
    return len(_ENCODE(_text(text)))


@lru_cache(maxsize=4096)
def _frame_size(partition: Partition, timestamp_type: TimestampType) -> int:
    """Bytes of an encoded record that all of its partition share: everything but the values that vary, and a comma."""
    sample = _Record(_text(partition.topic), partition.number, 0, 0, timestamp_type, None, None, [])
    return len(_ENCODE(sample)) - len("0") - len("0") - len("null") - len("null") + len(",")
