"""The file destination: dead letters appended to one file, each a line of JSON.

A line has the members of the record's envelope (see ``runner.clients.lines``) and, beside them, ``topic``,
``partition``, ``position``, ``source``, ``group``, ``mapping``, ``function``, ``condition``, ``attempts``, ``error``
(null, or ``kind``, ``type``, ``text``, ``stack`` and ``status_code``) and ``given_up_at`` in epoch milliseconds.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio.to_thread import run_sync

from runner.clients.lines import envelope_of
from runner.model import DeadLetter, FunctionError
from runner.ports import DestinationError

_TAIL_BYTES: Final = 1 << 16


class FileDestination:
    """Appends to ``path``, which is created when it is first needed, with its directories.

    Several destinations, in several processes too, may share a file. What one ``store`` appends is synced once, and is
    either there as a whole or cut off again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        # Our own, so that handlers that block their threads never keep a dead letter from being stored.
        self._threads = anyio.CapacityLimiter(1)

    @property
    def description(self) -> str:
        return str(self._path)

    async def open(self) -> None:
        """Nothing is touched: the file may become available later."""

    async def store(self, letters: Sequence[DeadLetter]) -> Sequence[DestinationError | None]:
        if not letters:
            return []
        lines = b"".join([encode_letter(letter) for letter in letters])
        try:
            await run_sync(self._append, lines, limiter=self._threads)
        except OSError as error:
            return [DestinationError(f"cannot append to {self._path}: {error}") for _ in letters]
        return [None for _ in letters]

    async def close(self) -> None:
        """Nothing is kept open."""

    def _append(self, lines: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        created = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end = _repair_tail(descriptor)
            try:
                _write_all(descriptor, lines)
                os.fsync(descriptor)
                if created:
                    _fsync_directory(self._path.parent)
            except OSError:
                # Refused is refused as a whole: what is there of it would be stored a second time.
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)


def encode_letter(letter: DeadLetter) -> bytes:
    """``letter`` as its line, newline included."""
    record = letter.record
    members = {
        **envelope_of(record),
        "topic": record.partition.topic,
        "partition": record.partition.number,
        "position": record.position,
        "source": letter.source,
        "group": letter.group,
        "mapping": letter.mapping,
        "function": letter.function,
        "condition": letter.condition,
        "attempts": letter.attempts,
        "error": None if letter.error is None else _error_members(letter.error),
        "given_up_at": letter.given_up_at_ms,
    }
    return msgspec.json.encode(members) + b"\n"


def _error_members(error: FunctionError) -> dict[str, object]:
    return {
        "kind": error.kind,
        "type": _encodable(error.type),
        "text": _encodable(error.text),
        "stack": _encodable(error.stack),
        "status_code": error.status_code,
    }


def _encodable(text: str) -> str:
    """A function's words may hold lone surrogates, which no JSON can: they are shown escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _repair_tail(descriptor: int) -> int:
    """Deal with half a line that a crash left, which was never reported as stored; returns the file's size in bytes."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    begin = _last_line(descriptor, size)
    if _is_json(os.pread(descriptor, size - begin, begin)):  # whole but for its newline, as an editor leaves it
        _write_all(descriptor, b"\n")
        return size + 1
    os.ftruncate(descriptor, begin)
    return begin


def _last_line(descriptor: int, end: int) -> int:
    while end > 0:
        begin = max(0, end - _TAIL_BYTES)
        newline = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the question, answered
        return False
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync_directory(directory: Path) -> None:
    """Make a new file in ``directory`` outlive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
