"""Dead letters as the records of a Kafka topic."""

from __future__ import annotations

from typing import Final, NamedTuple

from runner.destinations.forms import Form, pointer_to
from runner.destinations.headers import POINTER, dead_letter_headers, original_headers
from runner.model import DeadLetter

_RECORD_OVERHEAD: Final = 32
"""Bytes that a record's own framing may take: its lengths, deltas and attributes."""
_HEADER_OVERHEAD: Final = 10


class Message(NamedTuple):
    """A record as a producer takes it. ``timestamp_ms`` is never negative."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int

    @property
    def largest_size(self) -> int:
        """Bytes in a batch, at most."""
        headers = sum(4 * len(name) + len(value or b"") + _HEADER_OVERHEAD for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + _RECORD_OVERHEAD


def message_of(letter: DeadLetter, form: Form, timestamp_ms: int) -> Message:
    """``letter`` in ``form``, byte for byte but for the pointers, which are JSON."""
    record = letter.record
    ours = dead_letter_headers(letter, with_error=form is Form.WHOLE)
    if form in (Form.WHOLE, Form.WITHOUT_ERROR_TEXT):
        return Message(record.key, record.value, [*original_headers(record), *ours], timestamp_ms)
    key = record.key if form is Form.POINTER else None
    return Message(key, pointer_to(letter, form), [*ours, (POINTER, b"true")], timestamp_ms)


def timestamp_of(letter: DeadLetter, retention_ms: int | None) -> int:
    """The record's own timestamp where the topic keeps it long enough to be seen to, else the time of giving up.

    A record older than a topic's retention is deleted as soon as it is stored: the dead letter would be lost. So the
    own timestamp stays only while half of ``retention_ms`` (None: no limit) is left.
    """
    timestamp_ms = letter.record.timestamp_ms
    if timestamp_ms < 0:
        return letter.given_up_at_ms
    if retention_ms is not None and letter.given_up_at_ms - timestamp_ms > retention_ms / 2:
        return letter.given_up_at_ms
    return timestamp_ms
