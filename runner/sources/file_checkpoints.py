"""The checkpoints of one mapping of files: one small JSON file, replaced atomically, held by one runner at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

HEAD_BYTES: Final = 1024


class Head(msgspec.Struct, frozen=True):
    """What a file begins with, to tell it from another of the same name: a digest of its first ``length`` bytes."""

    length: int
    digest: str

    @classmethod
    def of(cls, start: bytes) -> Head:
        """The head that is ``start``."""
        return cls(len(start), hashlib.blake2b(start, digest_size=16).hexdigest())


NO_HEAD: Final = Head.of(b"")


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """The position, in bytes, to begin at, and the head of the file that it belongs to."""

    position: int
    head: Head


class _Document(msgspec.Struct):
    partitions: dict[int, StoredCheckpoint]
    version: Literal[1] = 1


class CheckpointsInUse(Exception):
    """Another runner holds these checkpoints. ``holder`` is what it left in the lock file: its process id."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by {'process ' + holder if holder else 'another process'}")


class CheckpointsUnreadable(Exception):
    """The file's content is not what was once written there. The message names the file."""


class CheckpointFile:
    """Blocking, and safe to use from several threads. Methods raise OSError where the disk does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._mutex = threading.Lock()
        self._descriptor: int | None = None
        self._stored: dict[int, StoredCheckpoint] = {}

    def acquire(self) -> Mapping[int, StoredCheckpoint] | None:
        """Refuse every other runner, and read what is stored: None before the first ``update``.

        Raises CheckpointsInUse, CheckpointsUnreadable.
        """
        with self._mutex:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock()
            try:
                stored = self._load()
            except BaseException:
                self._unlock()
                raise
            self._stored = dict(stored or {})
            return stored

    def update(self, checkpoints: Mapping[int, StoredCheckpoint]) -> None:
        """Store ``checkpoints`` beside those of other partitions; durable when this returns."""
        with self._mutex:
            if self._descriptor is None:
                raise CheckpointsInUse(self.path, "")
            merged = {**self._stored, **checkpoints}
            self._save(merged)
            self._stored = merged

    def release(self) -> None:
        """Let other runners in. Does nothing when it is not held."""
        with self._mutex:
            self._unlock()

    def _lock(self) -> None:
        # The lock file stays: deleting it would let two runners hold locks on two files of one name.
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise CheckpointsInUse(self.path, holder) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _unlock(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _load(self) -> dict[int, StoredCheckpoint] | None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(content, type=_Document).partitions
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointsUnreadable(f"{self.path} holds no checkpoints of ours: {error}") from error

    def _save(self, partitions: dict[int, StoredCheckpoint]) -> None:
        content = msgspec.json.encode(_Document(partitions))
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
        _fsync_directory(self.path.parent)


def _fsync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` outlive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
