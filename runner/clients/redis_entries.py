"""Stream entries: decoded from raw replies, turned into a record's content and back without losing a byte.

A field's name is a header's name. One that is not UTF-8, which no header can have, is written
``stream-runner-name-base64:<base64>``.

Without a field for the value, the value is JSON of all fields: an object of name to value where no name comes twice and
all is UTF-8, else a list of ``[name, value]``, in which what is not UTF-8 is ``{"base64": "..."}``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from runner.model import NO_TIMESTAMP, Headers

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names and values as an entry has them: a name may come again, and both may be any bytes."""

Entry: TypeAlias = tuple[str, Sequence[bytes] | None]
"""``ms-seq``, and names and values in turn, as a reply has them; None when the entry was deleted or trimmed."""

_LARGEST_NUMBER: Final = (1 << 64) - 1
LARGEST_ID: Final = f"{_LARGEST_NUMBER}-{_LARGEST_NUMBER}"
"""An entry of this id is the last that its stream can ever have."""
_ID: Final = re.compile(r"(\d{1,20})-(\d{1,20})", re.ASCII)
_YEAR_2000_MS: Final = 946_684_800_000
_DAY_MS: Final = 24 * 3_600_000

FIELD_ORDER: Final = "stream-runner-field-order"
"""A header that says where key and value stood among the fields, when not first: ``<index>,<index>``, or ``-``."""
_ENCODED_NAME: Final = "stream-runner-name-base64:"
_LONGEST_KEPT: Final = 256
"""Bytes of a field's name whose header's name is remembered: data that somebody uses as names is not."""


class MalformedReply(ValueError):
    """A reply does not have the shape of entries."""


def decode_entries(reply: Any) -> list[Entry]:
    """The entries in a reply of XRANGE or XCLAIM, by RESP2, also from inside of a script. Raises MalformedReply.

    A nil in place of an entry, by which 6.2 answers XCLAIM for a deleted one without naming it, is left out.
    """
    try:
        return [(one[0].decode("ascii"), one[1]) for one in reply or () if one is not None]
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise MalformedReply(f"these are no entries: {str(reply)[:200]}") from error


def decode_streams(reply: Any) -> list[tuple[bytes, list[Entry]]]:
    """The streams with their entries in a reply of XREAD or XREADGROUP; none when it is nil. Raises MalformedReply."""
    try:
        return [(stream, decode_entries(entries)) for stream, entries in reply or ()]
    except (TypeError, ValueError) as error:
        raise MalformedReply(f"these are no streams: {str(reply)[:200]}") from error


def parse_id(text: str) -> tuple[int, int]:
    """``ms-seq`` as two numbers, which are ordered as the server orders ids. Raises ValueError."""
    match = _ID.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not the id of an entry")
    milliseconds, number = int(match[1]), int(match[2])
    if max(milliseconds, number) > _LARGEST_NUMBER:
        raise ValueError(f"{text!r} is beyond the largest id")
    return milliseconds, number


def compare_ids(first: str, second: str) -> int:
    """Below 0, 0 or above 0, as ``first`` is before, equal to or after ``second``. Raises ValueError."""
    one, other = parse_id(first), parse_id(second)
    return (one > other) - (one < other)


def previous_id(entry_id: str) -> str:
    """The next smaller id: a group that is made there reads ``entry_id`` first. Raises ValueError at 0-0."""
    milliseconds, number = parse_id(entry_id)
    if number > 0:
        return f"{milliseconds}-{number - 1}"
    if milliseconds == 0:
        raise ValueError("no id is before 0-0")
    return f"{milliseconds - 1}-{_LARGEST_NUMBER}"


def following_id(entry_id: str) -> str:
    """The next larger id; LARGEST_ID itself, since nothing can come after it. Raises ValueError."""
    milliseconds, number = parse_id(entry_id)
    if number < _LARGEST_NUMBER:
        return f"{milliseconds}-{number + 1}"
    if milliseconds == _LARGEST_NUMBER:
        return entry_id
    return f"{milliseconds + 1}-0"


def timestamp_ms_of(entry_id: str, now_ms: int) -> int:
    """Epoch milliseconds, or NO_TIMESTAMP when the id cannot be a time: before 2000, or over a day ahead of now."""
    milliseconds = int(entry_id.partition("-")[0])
    return milliseconds if _YEAR_2000_MS <= milliseconds <= now_ms + _DAY_MS else NO_TIMESTAMP


class FieldNames(NamedTuple):
    """Which field of an entry holds a record's key, and which its value. None: no key; all fields are the value."""

    key: bytes | None = None
    value: bytes | None = None


class Content(NamedTuple):
    """What an entry says of its record."""

    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        """Bytes of key, value and headers together, and one for each header."""
        size = (len(self.key) if self.key else 0) + (len(self.value) if self.value else 0)
        return size + sum([1 + len(name.encode()) + (len(value) if value else 0) for name, value in self.headers])


class ContentReader:
    """Reads the entries of one stream by ``names``. Mostly they have the same fields, one entry as the other: where
    what stands among them is found out only when their names differ from those of the entry before."""

    def __init__(self, names: FieldNames) -> None:
        self._wanted = names
        self.never_found = {name for name in names if name is not None}
        """Of the wanted fields those that no entry has had so far."""
        self._found: list[bytes] = []
        self._layout = _layout([], names)

    def read(self, parts: Sequence[bytes]) -> tuple[bytes | None, bytes | None, Headers, int]:
        """What ``content_of`` says of the fields that are ``parts``, names and values in turn: key, value and headers;
        and the content's size. Raises MalformedReply when the last value is missing."""
        if parts[::2] != self._found:
            self._found = list(parts[::2])
            self._layout = _layout(self._found, self._wanted)
            self.never_found.difference_update(self._found)
        key_at, value_at, others, headers, size = self._layout
        try:
            key = None if key_at is None else parts[key_at]
            if self._wanted.value is None:
                encoded = encode_fields(list(zip(parts[::2], parts[1::2], strict=True)))
                return key, encoded, (), len(encoded) + len(key or b"")
            value = None if value_at is None else parts[value_at]
            if others:
                headers = (*[(name, parts[index]) for index, name in others], *headers)
                size += sum([len(parts[index]) for index, _ in others])
        except (IndexError, ValueError) as error:
            raise MalformedReply(f"these are no names and values in turn: {str(parts)[:200]}") from error
        return key, value, headers, size + (len(key) if key else 0) + (len(value) if value else 0)


class _Layout(NamedTuple):
    """Where an entry with certain field names has what, by the places of the data in a reply. ``others`` are the fields
    that are headers, with the names that these have; ``last`` are headers that do not depend on the fields' data;
    ``size`` is that of all but this data."""

    key_at: int | None
    value_at: int | None
    others: Sequence[tuple[int, str]]
    last: Headers
    size: int


def _layout(found: Sequence[bytes], wanted: FieldNames) -> _Layout:
    key_at, value_at = _index(found, wanted.key), _index(found, wanted.value)
    others = [
        (_place(index), header_name(name)) for index, name in enumerate(found) if index != key_at and index != value_at
    ]
    last: Headers = ()
    present = [index for index in (key_at, value_at) if index is not None]
    if present != list(range(len(present))):
        last = ((FIELD_ORDER, b"%b,%b" % (_shown(key_at), _shown(value_at))),)
    size = sum([1 + len(name.encode()) for _, name in others]) + Content(None, None, last).size
    return _Layout(
        None if key_at is None else _place(key_at), None if value_at is None else _place(value_at), others, last, size
    )


def _place(index: int) -> int:
    """Of a field's data among names and values in turn."""
    return 2 * index + 1


def content_of(fields: Fields, names: FieldNames) -> Content:
    """The content of an entry. Of a name that comes again the first is taken, the others are headers.

    ``fields_of`` gives the same ``fields`` again, in their order.
    """
    key, value, headers, _ = ContentReader(names).read([part for field in fields for part in field])
    return Content(key, value, headers)


def fields_of(content: Content, names: FieldNames) -> Fields:
    """The fields of the entry that had this content. ``names`` must be those by which it was read."""
    if names.value is None:
        return [] if content.value is None else decode_fields(content.value)
    headers = list(content.headers)
    order = headers.pop()[1] if headers and headers[-1][0] == FIELD_ORDER else None
    named = [(names.key, content.key), (names.value, content.value)]
    if order is None:
        placed = dict(enumerate([(name, data) for name, data in named if name is not None and data is not None]))
    else:
        indices = [None if text == b"-" else int(text) for text in order.split(b",")]
        placed = {
            index: (name, data)
            for index, (name, data) in zip(indices, named, strict=True)
            if index is not None and name is not None and data is not None
        }
    others = iter([(field_name(name), data or b"") for name, data in headers])
    return [placed[index] if index in placed else next(others) for index in range(len(headers) + len(placed))]


def _index(found: Sequence[bytes], wanted: bytes | None) -> int | None:
    return found.index(wanted) if wanted is not None and wanted in found else None


def _shown(index: int | None) -> bytes:
    return b"-" if index is None else b"%d" % index


def header_name(field: bytes) -> str:
    """The name of the header for a field of this name; no two fields have the same."""
    return _kept_header_name(field) if len(field) <= _LONGEST_KEPT else _header_name(field)


def _header_name(field: bytes) -> str:
    try:
        name = field.decode()
    except UnicodeDecodeError:  # the other form is for exactly this
        return _ENCODED_NAME + base64.b64encode(field).decode("ascii")
    if name == FIELD_ORDER or name.startswith(_ENCODED_NAME):
        return _ENCODED_NAME + base64.b64encode(field).decode("ascii")
    return name


_kept_header_name: Final = lru_cache(maxsize=4096)(_header_name)


def field_name(header: str) -> bytes:
    """The inverse of ``header_name``; a name that looks encoded, and is not, is taken as it is."""
    if header.startswith(_ENCODED_NAME):
        try:
            return base64.b64decode(header[len(_ENCODED_NAME) :], validate=True)
        except binascii.Error:
            return header.encode()
    return header.encode()


class _Binary(msgspec.Struct, forbid_unknown_fields=True):
    base64: bytes


_Text: TypeAlias = str | _Binary
_decoder: Final = msgspec.json.Decoder(dict[str, str] | list[tuple[_Text, _Text]])


def encode_fields(fields: Fields) -> bytes:
    """``fields`` as JSON: see the module's words. ``decode_fields`` gives the same again."""
    try:
        texts = [(name.decode(), data.decode()) for name, data in fields]
    except UnicodeDecodeError:  # the other form is for exactly this
        return msgspec.json.encode([(_text(name), _text(data)) for name, data in fields])
    by_name = dict(texts)
    return msgspec.json.encode(by_name if len(by_name) == len(texts) else texts)


def decode_fields(data: bytes) -> Fields:
    """The inverse of ``encode_fields``. Raises msgspec.DecodeError for anything else."""
    decoded = _decoder.decode(data)
    pairs: Iterable[tuple[_Text, _Text]] = decoded.items() if isinstance(decoded, dict) else decoded
    return [(_bytes(name), _bytes(content)) for name, content in pairs]


def _bytes(text: _Text) -> bytes:
    return text.base64 if isinstance(text, _Binary) else text.encode()


def _text(part: bytes) -> _Text:
    try:
        return part.decode()
    except UnicodeDecodeError:  # the other form is for exactly this
        return _Binary(part)
