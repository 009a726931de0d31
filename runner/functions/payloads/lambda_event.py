"""The event that AWS Lambda hands to a function of a self-managed Kafka event source mapping, and its like for others.

A null header value is JSON null, an empty one ``[]``; byte values are Java's signed bytes, as AWS sends them.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any, Final

import msgspec

from runner.functions.payloads.shape import EventShape, json_text, shape_of
from runner.model import Headers, Invocation, Partition, Record, TimestampType

_LONGEST_DESCRIPTION: Final = 4_096
_LONGEST_GROUP: Final = 1_600
_SIGNED_LENGTHS: Final = bytes(len(str(byte if byte < 128 else byte - 256)) for byte in range(256))
_CONTENT: Final = ("timestamp", "timestampType", "key", "value", "headers")
_ENCODE: Final = msgspec.json.Encoder().encode


class LambdaPayload:
    """``event_source`` is the word for the source: AWS's ``SelfManagedKafka``, or ``File``, or ``RedisStreams``.

    With ``source_description`` (what ``Invocation.source`` will say) ``fixed_size`` is close; without it, it keeps
    room for one of 4 kB. Both it and ``largest_expansion`` presume that topics have at most 255 bytes.
    """

    content_type: Final = "application/json"

    def __init__(self, event_source: str, source_description: str | None = None) -> None:
        self._event_source = event_source
        self._shape = shape_of(event_source)
        self._encodable = _encodable(self._shape)
        envelope = len(_ENCODE(self._envelope(source_description or "", "", [])))
        unknown = _LONGEST_DESCRIPTION if source_description is None else 0
        self._fixed_size = envelope + unknown + _LONGEST_GROUP

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
        key, value, position = record.key, record.value, record.position
        size = _frame_size(self._shape, record.partition, record.timestamp_type) + len(str(record.timestamp_ms))
        size += len(str(position)) if isinstance(position, int) else len(_ENCODE(position))
        size += 4 if key is None else 2 + 4 * ((len(key) + 2) // 3)
        size += 4 if value is None else 2 + 4 * ((len(value) + 2) // 3)
        return size + _headers_size(record.headers) if record.headers else size

    def exact_size(self, invocation: Invocation) -> int:
        """``len(encode(invocation))``, calculated. The invocation has records."""
        envelope = self._envelope(invocation.source, self._shape.group_of(invocation.partition), [])
        return len(_ENCODE(envelope)) + sum(map(self.size_of, invocation.records)) - 1

    def encode(self, invocation: Invocation) -> bytes:
        """The event as JSON."""
        encodable = self._encodable
        place = self._shape.place_of(invocation.partition).values()
        records = [
            encodable(
                *place,
                record.position,
                record.timestamp_ms,
                record.timestamp_type,
                record.key,
                record.value,
                _headers(record.headers),
            )
            for record in invocation.records
        ]
        return _ENCODE(self._envelope(invocation.source, self._shape.group_of(invocation.partition), records))

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """What ``json.loads`` makes of ``encode(invocation)``, without encoding anything but the base64."""
        place = self._shape.place_of(invocation.partition)
        position = self._shape.position
        records = [_plain(record, place, position) for record in invocation.records]
        return self._envelope(invocation.source, self._shape.group_of(invocation.partition), records)

    def _envelope(self, source: str, group: str, records: list[Any]) -> dict[str, Any]:
        return {"eventSource": self._event_source, self._shape.source: json_text(source), "records": {group: records}}


@cache
def _encodable(shape: EventShape) -> Callable[..., msgspec.Struct]:
    """Makes what is encoded for a record, of the values of its members in their order: half the cost of a dict."""
    members = [*shape.place_of(Partition("", 0)), shape.position, *_CONTENT]
    return msgspec.defstruct("Encodable", members, gc=False)


def _plain(record: Record, place: dict[str, str | int], position: str) -> dict[str, Any]:
    key, value = record.key, record.value
    create_time = record.timestamp_type is TimestampType.CREATE_TIME
    return {
        **place,
        position: record.position,
        "timestamp": record.timestamp_ms,
        "timestampType": "CREATE_TIME" if create_time else "LOG_APPEND_TIME",
        "key": None if key is None else b2a_base64(key, newline=False).decode("ascii"),
        "value": None if value is None else b2a_base64(value, newline=False).decode("ascii"),
        "headers": _headers(record.headers),
    }


def _headers(headers: Headers) -> list[dict[str, list[int] | None]]:
    return [
        {json_text(name): None if value is None else memoryview(value).cast("b").tolist()} for name, value in headers
    ]


def _headers_size(headers: Iterable[tuple[str, bytes | None]]) -> int:
    size = -1
    for name, value in headers:
        size += _text_size(name) + 4
        if value is None:
            size += 4
        elif value:
            size += sum(value.translate(_SIGNED_LENGTHS)) + len(value) + 1
        else:
            size += 2
    return size


@lru_cache(maxsize=4096)
def _text_size(text: str) -> int:
    return len(_ENCODE(json_text(text)))


@lru_cache(maxsize=4096)
def _frame_size(shape: EventShape, partition: Partition, timestamp_type: TimestampType) -> int:
    """Bytes of an encoded record that all of its partition share: everything but the values that vary, and a comma."""
    sample = _encodable(shape)(*shape.place_of(partition).values(), 0, 0, timestamp_type, None, None, [])
    return len(_ENCODE(sample)) - len("0") - len("0") - len("null") - len("null") + len(",")
