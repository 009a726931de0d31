"""The line format of files: a record as one line of JSON, and back.

A line is an *envelope* if it is a JSON object with ``value`` or ``value_base64`` and no member outside ``key``,
``key_base64``, ``value``, ``value_base64``, ``headers`` and ``timestamp``. In it

- ``key`` and ``value`` that are strings are their UTF-8 bytes, null is no key, a tombstone; any other JSON value is its
  own text without insignificant white space. ``key_base64`` and ``value_base64`` hold bytes that are not UTF-8;
- ``headers`` is a list of ``[name, value]``, or an object of name to value where no name comes twice. A value is a
  string, null, or ``{"base64": "..."}``;
- ``timestamp`` is in epoch milliseconds; without it a record has none.

Every other line, an object that these rules cannot be applied to among them (both forms of the value, invalid base64),
is itself the value of a record without key, headers and timestamp: no line is ever lost for its form.
"""

from __future__ import annotations

import base64
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from runner.model import NO_TIMESTAMP, Headers, Record

MAXIMUM_TIMESTAMP_MS = (1 << 63) - 1


class Content(NamedTuple):
    """What a line says of its record."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def size(self) -> int:
        """Bytes of key, value and headers together, and one for each header."""
        size = (len(self.key) if self.key else 0) + (len(self.value) if self.value else 0)
        return size + sum([1 + len(name.encode()) + (len(value) if value else 0) for name, value in self.headers])


class _Binary(msgspec.Struct, forbid_unknown_fields=True):
    base64: bytes


_HeaderValue: TypeAlias = str | _Binary | None
_Timestamp: TypeAlias = Annotated[int, msgspec.Meta(ge=NO_TIMESTAMP, le=MAXIMUM_TIMESTAMP_MS)]


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    key: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    key_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    value_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    headers: list[tuple[str, _HeaderValue]] | dict[str, _HeaderValue] = []
    timestamp: _Timestamp = NO_TIMESTAMP


class _NotAnEnvelope(Exception):
    """The line's JSON is an object of its own."""


_envelopes = msgspec.json.Decoder(_Envelope)
_strings = msgspec.json.Decoder(str)


def decode_line(line: bytes) -> Content:
    """What ``line``, without its newline, holds. Never fails."""
    if line.lstrip()[:1] == b"{":
        try:
            return _content(_envelopes.decode(line))
        except (_NotAnEnvelope, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The rule, not an error: what is not an envelope is a value.
            return Content(None, line, (), NO_TIMESTAMP)
    return Content(None, line, (), NO_TIMESTAMP)


def _content(envelope: _Envelope) -> Content:
    if (envelope.value is msgspec.UNSET) == (envelope.value_base64 is msgspec.UNSET):
        raise _NotAnEnvelope
    if envelope.key is not msgspec.UNSET and envelope.key_base64 is not msgspec.UNSET:
        raise _NotAnEnvelope
    pairs = envelope.headers.items() if isinstance(envelope.headers, dict) else envelope.headers
    return Content(
        _bytes(envelope.key, envelope.key_base64),
        _bytes(envelope.value, envelope.value_base64),
        tuple([(name, _header_bytes(value)) for name, value in pairs]),
        envelope.timestamp,
    )


def _bytes(raw: msgspec.Raw | msgspec.UnsetType, binary: bytes | msgspec.UnsetType) -> bytes | None:
    if not isinstance(binary, msgspec.UnsetType):
        return binary
    if isinstance(raw, msgspec.UnsetType):
        return None
    text = bytes(raw)
    if text == b"null":
        return None
    if text[:1] == b'"':
        return _strings.decode(text).encode()
    return bytes(msgspec.json.format(text, indent=-1))


def _header_bytes(value: _HeaderValue) -> bytes | None:
    if isinstance(value, _Binary):
        return value.base64
    return None if value is None else value.encode()


def encode_line(record: Record) -> bytes:
    """``record`` as an envelope with its newline; ``decode_line`` gives the same key, value, headers and timestamp."""
    return msgspec.json.encode(envelope_of(record)) + b"\n"


def envelope_of(record: Record) -> dict[str, object]:
    """The members of ``record``'s envelope, ready for JSON; absent are a null key, no headers and no timestamp."""
    envelope: dict[str, object] = {}
    if record.key is not None:
        envelope |= _text_or_base64("key", record.key)
    envelope |= {"value": None} if record.value is None else _text_or_base64("value", record.value)
    if record.headers:
        envelope["headers"] = [(name, _header_json(value)) for name, value in record.headers]
    if record.timestamp_ms != NO_TIMESTAMP:
        envelope["timestamp"] = record.timestamp_ms
    return envelope


def _text_or_base64(name: str, data: bytes) -> dict[str, object]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:  # the other form is for exactly this
        return {f"{name}_base64": _base64(data)}


def _header_json(value: bytes | None) -> object:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:  # the other form is for exactly this
        return {"base64": _base64(value)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
