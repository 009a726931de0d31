"""One record as a plain HTTP request: its value is the body, everything else is in headers.

``Stream-Runner-Null-Value: true`` tells a null value from an empty one; a null key has no ``Stream-Runner-Key``. Names
and values are percent-encoded UTF-8 or bytes. Headers beyond the caps, and null ones, are named instead of sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_from_bytes

from runner.model import Headers, Invocation, Record

MAXIMUM_HEADERS: Final = 64
MAXIMUM_HEADER_BYTES: Final = 8_192
MAXIMUM_KEY_BYTES: Final = 2_048
MAXIMUM_LIST_BYTES: Final = 1_024

_PREFIX: Final = "Stream-Runner-Header-"


class RawPayload:
    """The value of the only record of an invocation, as it is."""

    content_type: Final = "application/octet-stream"

    @property
    def fixed_size(self) -> int:
        return 0

    @property
    def largest_expansion(self) -> tuple[float, int]:
        return 1.0, 0

    def size_of(self, record: Record) -> int:
        """Bytes of the body: those of the value, since key and headers do not travel in it."""
        return 0 if record.value is None else len(record.value)

    def encode(self, invocation: Invocation) -> bytes:
        """The body. The invocation has one record."""
        return _only(invocation).value or b""

    def headers(self, invocation: Invocation) -> list[tuple[str, str]]:
        """The HTTP headers that carry what the body does not, in the record's order; a name may occur again."""
        record = _only(invocation)
        lines = [
            ("Stream-Runner-Timestamp", str(record.timestamp_ms)),
            ("Stream-Runner-Timestamp-Type", record.timestamp_type.value),
        ]
        if record.value is None:
            lines.append(("Stream-Runner-Null-Value", "true"))
        if record.key is not None:
            lines.append(_key_line(record.key))
        return lines + _header_lines(record.headers)


def _only(invocation: Invocation) -> Record:
    if len(invocation.records) != 1:
        raise ValueError(f"payload raw carries one record, this invocation has {len(invocation.records)}")
    return invocation.records[0]


def _key_line(key: bytes) -> tuple[str, str]:
    encoded = quote_from_bytes(key, safe="")
    if len(encoded) > MAXIMUM_KEY_BYTES:
        return "Stream-Runner-Omitted-Key-Bytes", str(len(key))
    return "Stream-Runner-Key", encoded


def _header_lines(headers: Headers) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    null: list[str] = []
    omitted: list[str] = []
    room = MAXIMUM_HEADER_BYTES
    for name, value in headers:
        encoded_name = quote(name, safe="", errors="replace")
        if value is None:
            null.append(encoded_name)
            continue
        size = len(_PREFIX) + len(encoded_name) + len(value)
        encoded_value = quote_from_bytes(value, safe="") if size <= room else ""
        size += len(encoded_value) - len(value)
        if len(lines) == MAXIMUM_HEADERS or size > room or len(value) > room:
            omitted.append(encoded_name)
            continue
        room -= size
        lines.append((_PREFIX + encoded_name, encoded_value))
    if null:
        lines.append(("Stream-Runner-Null-Headers", _listed(null)))
    if omitted:
        lines.append(("Stream-Runner-Omitted-Headers", _listed(omitted)))
    return lines


def _listed(names: Iterable[str]) -> str:
    """``a, b, +3``: the names as far as they fit, and how many more there are. An empty name is ``""``."""
    shown: list[str] = []
    more = 0
    room = MAXIMUM_LIST_BYTES
    for name in names:
        entry = name or '""'
        if more or len(entry) + 2 > room:
            more += 1
            continue
        room -= len(entry) + 2
        shown.append(entry)
    if more:
        shown.append(f"+{more}")
    return ", ".join(shown)
