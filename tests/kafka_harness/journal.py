"""The function's journal: one line a call, written before the answer leaves, readable while it grows."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

Ending: TypeAlias = Literal["answered", "reset", "abandoned"]
"""``reset``: the function cut the connection; ``abandoned``: the caller did, before there was an answer."""

_NUMBERS_A_MILLISECOND = 1 << 20


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call as the function saw it. Times are the machine's monotonic clock in nanoseconds, one for all processes.

    ``partition`` is ``topic-number``, of a Redis stream ``stream-0``; ``offsets`` of a stream's entries are
    ``entry_number``. ``keys`` holds ``key_id`` of each record, None for a null key. ``failed`` are the offsets that
    the answer named. ``status`` is the HTTP status, 0 when there was no answer. ``generation`` is that of the caller's
    lease, 0 when it has none.
    """

    start_ns: int
    end_ns: int
    mapping: str
    partition: str
    offsets: list[int]
    keys: list[int | None]
    attempt: int
    idempotency_key: str
    status: int
    ending: Ending = "answered"
    failed: list[int] = []
    error: str = ""
    generation: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether the records that the answer does not name as failed were handled."""
        return 200 <= self.status < 300


@functools.lru_cache(maxsize=65_536)
def key_id(key: bytes | None) -> int | None:
    """A short name of a key: 56 bits, so that two keys of a test do not share one."""
    return None if key is None else int.from_bytes(hashlib.blake2b(key, digest_size=7).digest())


def entry_number(entry_id: str) -> int:
    """A stream's entry id ``milliseconds-sequence`` as one number, in the ids' order. Raises ValueError for an id that
    a server with a sane clock would not give."""
    milliseconds, sequence = (int(part) for part in entry_id.split("-"))
    if not (0 <= milliseconds < 1 << 43 and 0 <= sequence < _NUMBERS_A_MILLISECOND):
        raise ValueError(f"no plausible entry id: {entry_id!r}")
    return milliseconds * _NUMBERS_A_MILLISECOND + sequence


def entry_id(number: int) -> str:
    """The id whose ``entry_number`` this is."""
    return "{}-{}".format(*divmod(number, _NUMBERS_A_MILLISECOND))


class JournalWriter:
    """Appends calls to a file; each is with the kernel when ``write`` returns, and survives a kill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._encoder = msgspec.json.Encoder()

    def write(self, call: Call) -> None:
        line = self._encoder.encode(call) + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the journal took only a part of a line: is the disk full?")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class JournalReader:
    """Reads a journal that may still grow; each look decodes only what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0
        self._calls: list[Call] = []
        self._decoder = msgspec.json.Decoder(Call)

    def calls(self) -> list[Call]:
        """All calls that have ended so far, in the order in which they did. A half-written last line waits."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._place)
                new = file.read()
            complete = new[: new.rfind(b"\n") + 1]
            self._place += len(complete)
            self._calls += [self._decoder.decode(line) for line in complete.splitlines()]
        return list(self._calls)
