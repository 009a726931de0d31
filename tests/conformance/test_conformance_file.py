"""The file source and destination keep every adapter's promises."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from runner.clients.lines import encode_line
from runner.destinations.file import FileDestination
from runner.model import NO_TIMESTAMP, Headers, Partition, Position, Record
from runner.sources.file import FileSource
from runner.sources.starting import StartingPosition
from runner.testing import DestinationConformance, SourceConformance, StoredLetter


class FileSourceHarness:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "orders"
        self.directory.mkdir()
        self.checkpoint_file = directory / "checkpoints.json"
        for partition in self.partitions:
            self.path(partition).touch()

    @property
    def has_null_headers(self) -> bool:
        return True

    @property
    def partitions(self) -> Sequence[Partition]:
        return [Partition("orders", number) for number in range(3)]

    def path(self, partition: Partition) -> Path:
        return self.directory / f"{partition.number}.jsonl"

    def make_source(
        self,
        *,
        starting_position: StartingPosition = StartingPosition.TRIM_HORIZON,
        starting_timestamp: float | None = None,
        on_data_loss: Literal["fail", "continue"] = "fail",
        stop_at_end: bool = False,
    ) -> FileSource:
        return FileSource(
            name="orders-to-charge-card",
            directory=self.directory,
            checkpoint_file=self.checkpoint_file,
            poll_interval=0.01,
            now=time.time,
            starting_position=starting_position,
            starting_timestamp=starting_timestamp,
            on_data_loss=on_data_loss,
            stop_at_end=stop_at_end,
        )

    async def append(
        self,
        partition: Partition,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> None:
        with self.path(partition).open("ab") as file:
            file.write(encode_line(Record(partition, 0, key, value, headers, timestamp_ms, 0, 0)))

    async def append_hole(self, partition: Partition) -> None:
        with self.path(partition).open("ab") as file:
            file.write(b" \n")

    async def committed(self, partition: Partition) -> Position | None:
        if not self.checkpoint_file.exists():
            return None
        stored = json.loads(self.checkpoint_file.read_bytes())["partitions"].get(str(partition.number))
        return None if stored is None else int(stored["position"])

    async def lose_prefix(self, partition: Partition, records: int) -> None:
        lines = self.path(partition).read_bytes().splitlines(keepends=True)
        replacement = self.directory / "replacement"
        replacement.write_bytes(b"".join(lines[records:]))
        replacement.replace(self.path(partition))


class FileDestinationHarness:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "dead" / "letters.jsonl"

    def make_destination(self) -> FileDestination:
        return FileDestination(self.path)

    async def read_back(self) -> Sequence[StoredLetter]:
        if not self.path.exists():
            return []
        return [letter_of(json.loads(line)) for line in self.path.read_bytes().splitlines()]

    async def make_unavailable(self) -> None:
        self.path.parent.write_bytes(b"a file where the directory should be")

    async def make_available(self) -> None:
        self.path.parent.unlink()


def letter_of(members: dict[str, Any]) -> StoredLetter:
    def part(name: str) -> bytes | None:
        if f"{name}_base64" in members:
            return base64.b64decode(members[f"{name}_base64"])
        text = members.get(name)
        return None if text is None else text.encode()

    def header(value: Any) -> bytes | None:
        if isinstance(value, dict):
            return base64.b64decode(value["base64"])
        return None if value is None else value.encode()

    return StoredLetter(
        part("key"),
        part("value"),
        tuple([(name, header(value)) for name, value in members.get("headers", [])]),
        Partition(members["topic"], members["partition"]),
        str(members["position"]),
        members["mapping"],
        members["condition"],
        members["attempts"],
    )


class TestFileSource(SourceConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> FileSourceHarness:
        return FileSourceHarness(tmp_path)


class TestFileDestination(DestinationConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> FileDestinationHarness:
        return FileDestinationHarness(tmp_path)
