"""Looking at partition files: blocking, without state, so that a thread can do it and its result may be dropped."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from runner.clients.lines import decode_line
from runner.model import NO_TIMESTAMP, Partition, Problem, Reason, Record
from runner.sources.file_checkpoints import HEAD_BYTES, Head
from runner.sources.starting import StartingPosition

MAXIMUM_LINE_BYTES: Final = 16 << 20
COUNT_BYTES: Final = 8 << 20
"""Bytes that one look counts newlines in, at most: a long backlog is counted over many looks."""

_BLOCK_BYTES: Final = 1 << 20
_PARTITION_FILE: Final = re.compile(r"(0|[1-9][0-9]{0,8})\.jsonl")

Signature = tuple[int, int, int]
"""Inode, size in bytes and time of the last change in nanoseconds: while these are the same, so is the file."""


class Wanted(NamedTuple):
    """Where to go on in a partition. ``idle`` is the file's signature when it last had nothing to read. ``counted_to``
    is how far its ``ahead`` newlines behind ``position`` were counted."""

    partition: Partition
    path: Path
    position: int
    head: Head
    sequence: int
    idle: Signature | None
    counted_to: int
    ahead: int


class Look(NamedTuple):
    """What is there. Either ``lost`` says why the position is no more, or ``problem`` why nothing can be read, or the
    other members tell what came; ``start`` is the file's beginning, as far as it was read, up to ``HEAD_BYTES``.
    ``ahead`` is the number of lines behind ``next_position``, None while they are not all counted."""

    partition: Partition
    next_position: int
    records: Sequence[Record] = ()
    size: int = 0
    start: bytes | None = None
    idle: Signature | None = None
    counted_to: int = 0
    ahead: int | None = 0
    counted: int = 0
    lost: str | None = None
    problem: Problem | None = None


class _Lines(NamedTuple):
    records: list[Record]
    size: int
    next_position: int
    lines: int


def partition_numbers(directory: Path) -> list[int]:
    """The numbers of the files ``<n>.jsonl``, in order. Raises OSError."""
    with os.scandir(directory) as entries:
        matches = [_PARTITION_FILE.fullmatch(entry.name) for entry in entries]
    return sorted([int(match[1]) for match in matches if match])


def partition_path(directory: Path, number: int) -> Path:
    return directory / f"{number}.jsonl"


def look(wanted: Wanted, maximum_records: int, maximum_bytes: int) -> Look:
    """Read the complete lines at a position: up to ``maximum_records``, of about ``maximum_bytes`` together."""
    try:
        descriptor = _open_if_changed(wanted)
        if descriptor is None:
            return Look(
                wanted.partition,
                wanted.position,
                idle=wanted.idle,
                counted_to=wanted.counted_to,
                ahead=wanted.ahead,
                counted=wanted.ahead,
            )
        try:
            return _look(descriptor, wanted, maximum_records, maximum_bytes)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        if wanted.position == 0:
            return Look(wanted.partition, 0)
        return _lost(wanted, "the file is gone")
    except OSError as error:
        denied = isinstance(error, PermissionError)
        reason = Reason.EVENT_SOURCE_AUTHZ_ERROR if denied else Reason.EVENT_SOURCE_UNREADABLE
        text = f"cannot read {wanted.partition} at position {wanted.position}: {error}"
        return Look(wanted.partition, wanted.position, problem=Problem(reason, text, "it is tried again"))


def _open_if_changed(wanted: Wanted) -> int | None:
    if wanted.idle is not None and _signature(wanted.path.stat()) == wanted.idle:
        return None
    return os.open(wanted.path, os.O_RDONLY | os.O_CLOEXEC)


def _signature(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _look(descriptor: int, wanted: Wanted, maximum_records: int, maximum_bytes: int) -> Look:
    status = os.fstat(descriptor)
    position = wanted.position
    start = os.pread(descriptor, HEAD_BYTES, 0)
    if status.st_size < position:
        return _lost(wanted, f"the file has only {status.st_size} bytes: it was truncated or replaced")
    if Head.of(start[: wanted.head.length]) != wanted.head:
        return _lost(wanted, "the file begins otherwise than the one that was read: it was replaced")
    if position and os.pread(descriptor, 1, position - 1) != b"\n":
        return _lost(wanted, "no line begins there: the file was replaced")
    block = _read_lines(descriptor, position, maximum_bytes)
    if len(block) > MAXIMUM_LINE_BYTES and not block.endswith(b"\n"):
        text = f"the line at position {position} of {wanted.partition} is longer than {MAXIMUM_LINE_BYTES} bytes"
        return Look(wanted.partition, position, problem=Problem(Reason.EVENT_SOURCE_UNREADABLE, text, "split the line"))
    lines = _records(block, wanted, maximum_records)
    counted_to, counted = _count_ahead(descriptor, wanted, lines, status.st_size)
    at_end = lines.next_position == position
    return Look(
        wanted.partition,
        lines.next_position,
        records=lines.records,
        size=lines.size,
        start=start[: lines.next_position],
        idle=_signature(status) if at_end and counted_to >= status.st_size else None,
        counted_to=counted_to,
        ahead=counted if counted_to >= status.st_size else None,
        counted=counted,
    )


def _lost(wanted: Wanted, why: str) -> Look:
    return Look(wanted.partition, wanted.position, lost=f"position {wanted.position} of {wanted.partition}: {why}")


def _read_lines(descriptor: int, position: int, maximum_bytes: int) -> bytes:
    """Complete lines only, or one that is too long without its end, or nothing where there is but half a line."""
    length = min(maximum_bytes, MAXIMUM_LINE_BYTES)
    block = os.pread(descriptor, length, position)
    end = block.rfind(b"\n") + 1
    if end:
        return block[:end]
    while len(block) == length and length <= MAXIMUM_LINE_BYTES:
        length = min(length * 4, MAXIMUM_LINE_BYTES + 1)
        block = os.pread(descriptor, length, position)
        end = block.find(b"\n") + 1
        if end:
            return block[:end]
        if length > MAXIMUM_LINE_BYTES:
            break
    return block if len(block) > MAXIMUM_LINE_BYTES else b""


def _records(block: bytes, wanted: Wanted, maximum_records: int) -> _Lines:
    """The records of ``block``'s lines; blank ones are passed over, and lines behind the last record are left."""
    partition, sequence, position = wanted.partition, wanted.sequence, wanted.position
    records: list[Record] = []
    total = count = 0
    # No more is split than may be used: what remains of the block is read again by the next look.
    for line in block.split(b"\n", maximum_records)[:-1]:
        if line and not line.isspace():
            key, value, headers, timestamp_ms = content = decode_line(line)
            size = content.size
            records.append(
                Record(partition, position, key, value, headers, timestamp_ms, sequence + len(records), size)
            )
            total += size
        position += len(line) + 1
        count += 1
    return _Lines(records, total, position, count)


def _count_ahead(descriptor: int, wanted: Wanted, lines: _Lines, size: int) -> tuple[int, int]:
    """How far newlines are counted now, and how many of them are behind the last line that was read."""
    if lines.next_position >= wanted.counted_to:
        counted_to, counted = lines.next_position, 0
    else:
        counted_to, counted = wanted.counted_to, wanted.ahead - lines.lines
    budget = COUNT_BYTES
    while counted_to < size and budget > 0:
        block = os.pread(descriptor, min(_BLOCK_BYTES, size - counted_to), counted_to)
        if not block:
            break
        counted += block.count(b"\n")
        counted_to += len(block)
        budget -= len(block)
    return counted_to, counted


def end_of_lines(path: Path) -> int:
    """The position behind the last complete line. Raises OSError."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - _BLOCK_BYTES)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return 0


def starting_position_in(path: Path, starting_position: StartingPosition, timestamp: float | None) -> int:
    """Where to begin in a file without a checkpoint; ``timestamp`` is in seconds since the epoch. Raises OSError."""
    if starting_position is StartingPosition.TRIM_HORIZON:
        return 0
    if starting_position is StartingPosition.LATEST:
        return end_of_lines(path)
    assert timestamp is not None, "at_timestamp comes with a timestamp"
    return _first_line_from(path, timestamp * 1000)


def _first_line_from(path: Path, timestamp_ms: float) -> int:
    """The first line that is not older; one without a timestamp counts as being as old as the file's last change."""
    position = 0
    with path.open("rb") as file:
        changed_ms = os.fstat(file.fileno()).st_mtime_ns / 1e6
        while line := file.readline(MAXIMUM_LINE_BYTES + 1):
            if not line.endswith(b"\n"):  # half a line, or one too long: where reading shall stop as well
                return position
            if not line.isspace():
                own_ms = decode_line(line[:-1]).timestamp_ms
                if (changed_ms if own_ms == NO_TIMESTAMP else own_ms) >= timestamp_ms:
                    return position
            position += len(line)
    return position


def head_at(path: Path, position: int) -> Head:
    """The head of what is before ``position``. Raises OSError."""
    with path.open("rb") as file:
        return Head.of(file.read(min(HEAD_BYTES, position)))
