"""Kafka's log segments on disk: where a record's value lies, so that one byte of it can be corrupted."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# base offset, length after these two fields, partition leader epoch, magic, CRC, attributes, last offset delta
_HEAD = struct.Struct(">qiibIhi")
_HEADER_BYTES = 61
_LENGTH_ENDS_AT = 12
_MAGIC = 2
_CODEC = 0x07
_CONTROL = 0x20


class StoredBatch(NamedTuple):
    """A record batch in a segment: its offsets, inclusive, and its bytes in the file."""

    first_offset: int
    last_offset: int
    begin: int
    end: int
    attributes: int


def batches(segment: Path) -> Iterator[StoredBatch]:
    """The complete batches of a segment file, in order."""
    data = segment.read_bytes()
    begin = 0
    while begin + _HEADER_BYTES <= len(data):
        base, length, _epoch, magic, _crc, attributes, delta = _HEAD.unpack_from(data, begin)
        end = begin + _LENGTH_ENDS_AT + length
        if magic != _MAGIC or end > len(data):
            return
        yield StoredBatch(base, base + delta, begin, end, attributes)
        begin = end


def flip_value_byte(segments: list[Path], offset: int) -> StoredBatch:
    """Invert a byte of the value of the record at ``offset``; doing it again repairs it.

    In a compressed batch the last compressed byte is inverted. The broker does not look into stored batches and hands
    them out as they are; it is the client that meets the wrong checksum, for the whole batch that is returned here.
    Raises LookupError when no segment holds such a record, or its value is null or empty.
    """
    for segment in segments:
        for batch in batches(segment):
            if batch.first_offset <= offset <= batch.last_offset and not batch.attributes & _CONTROL:
                with segment.open("r+b") as file:
                    place = batch.end - 1 if batch.attributes & _CODEC else _value_place(segment, batch, offset)
                    file.seek(place)
                    (byte,) = file.read(1)
                    file.seek(place)
                    file.write(bytes([byte ^ 0xFF]))
                return batch
    raise LookupError(f"no record with offset {offset} in {[segment.name for segment in segments]}")


def _value_place(segment: Path, batch: StoredBatch, offset: int) -> int:
    data = segment.read_bytes()
    place = batch.begin + _HEADER_BYTES
    while place < batch.end:
        length, start = _varint(data, place)
        # attributes are one byte; then the deltas of timestamp and offset, and the key
        _timestamp, at = _varint(data, start + 1)
        delta, at = _varint(data, at)
        key_bytes, at = _varint(data, at)
        value_bytes, at = _varint(data, at + max(key_bytes, 0))
        if batch.first_offset + delta == offset:
            if value_bytes <= 0:
                raise LookupError(f"the record at offset {offset} has no value to corrupt")
            return at
        place = start + length
    raise LookupError(f"no record with offset {offset} in the batch {batch}")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A zigzag number and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), place
        shift += 7
