"""Dead letters as the entries of a Redis stream.

A record of a Redis stream keeps its fields as they were. That of any other source has its key under
``stream-runner-key``, its value under ``stream-runner-value``, either absent when null, and each header under its own
name, in their order. A header that is null is ``stream-runner-null:<name>`` without a value; one whose name begins
with ``stream-runner-`` is ``stream-runner-header:<name>``. What is known of the letter comes last, under the names of
``runner.destinations.headers``; where the record has these already, as an earlier dead letter, they are replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from runner.clients.redis_entries import Content, FieldNames, Fields, encode_fields, fields_of
from runner.clients.redis_slots import companion_key
from runner.destinations.forms import Form, pointer_to
from runner.destinations.headers import CONTEXT, POINTER, PREFIX, context_headers
from runner.model import DeadLetter, Record

KEY: Final = b"stream-runner-key"
VALUE: Final = b"stream-runner-value"
NULL_HEADER: Final = "stream-runner-null:"
RESERVED_HEADER: Final = "stream-runner-header:"
ALL_FIELDS: Final = b"stream-runner-fields"
"""Holds the original fields as JSON (see ``encode_fields``) where they are more than a script can add."""

MOST_FIELDS: Final = 3_000
"""Lua hands some 8,000 values to a command at most; each field is two."""
_CONTEXT_FIELDS: Final = frozenset([name.encode() for name in CONTEXT])


def letter_fields(letter: DeadLetter, form: Form, names: FieldNames | None) -> list[tuple[bytes, bytes]]:
    """The fields of ``letter`` in ``form``. ``names``: how a source on Redis makes records; None for any other."""
    context = [(name.encode(), data) for name, data in context_headers(letter, with_error=form is Form.WHOLE)]
    if form in (Form.WHOLE, Form.WITHOUT_ERROR_TEXT):
        original = list(_original(letter.record, names))
        if len(original) > MOST_FIELDS:
            original = [(ALL_FIELDS, encode_fields(original))]
        return [*original, *context]
    key = letter.record.key if form is Form.POINTER else None
    content = [] if key is None else [(KEY, key)]
    return [*content, (VALUE, pointer_to(letter, form)), *context, (POINTER.encode(), b"true")]


def _original(record: Record, names: FieldNames | None) -> Iterator[tuple[bytes, bytes]]:
    if names is None:
        return _foreign(record)
    fields: Fields = fields_of(Content(record.key, record.value, record.headers), names)
    return (field for field in fields if field[0] not in _CONTEXT_FIELDS)


def _foreign(record: Record) -> Iterator[tuple[bytes, bytes]]:
    if record.key is not None:
        yield KEY, record.key
    if record.value is not None:
        yield VALUE, record.value
    for name, data in record.headers:
        if name in CONTEXT:
            continue
        if data is None:
            yield (NULL_HEADER + name).encode(), b""
        elif name.startswith(PREFIX):
            yield (RESERVED_HEADER + name).encode(), data
        else:
            yield name.encode(), data


def marker_of(letter: DeadLetter, stream: bytes) -> bytes:
    """The key, in the slot of ``stream``, that says that ``letter`` is stored there.

    Named by mapping, group, partition and position, and by what the record is: where a source's data was thrown away
    and written anew, another record may be at the same position.
    """
    record = letter.record
    digest = hashlib.blake2b(digest_size=16)
    for part in (letter.mapping, letter.group, record.partition.topic, record.partition.number, record.position):
        _add(digest, str(part).encode("utf-8", "backslashreplace"))
    _add(digest, b"%d" % record.timestamp_ms)
    for data in (record.key, record.value):
        _add(digest, data)
    for name, data in record.headers:
        _add(digest, name.encode("utf-8", "surrogatepass"))
        _add(digest, data)
    return companion_key(stream, b":dead-letter:" + digest.hexdigest().encode())


def _add(digest: hashlib.blake2b, part: bytes | None) -> None:
    digest.update(b"-" if part is None else b"%d:" % len(part))
    digest.update(part or b"")
