"""The memory source and destination keep the promises that the engine's tests build on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import pytest

from runner.model import NO_TIMESTAMP, Headers, Partition, Position
from runner.sources.starting import StartingPosition
from runner.testing import (
    DestinationConformance,
    MemoryDestination,
    MemorySource,
    MemoryStream,
    SourceConformance,
    StoredLetter,
)
from runner.testing.destination_suite import stored


class MemorySourceHarness:
    def __init__(self) -> None:
        self.stream = MemoryStream(3)

    @property
    def has_null_headers(self) -> bool:
        return True

    @property
    def partitions(self) -> Sequence[Partition]:
        return self.stream.partitions

    def make_source(
        self,
        *,
        starting_position: StartingPosition = StartingPosition.TRIM_HORIZON,
        starting_timestamp: float | None = None,
        on_data_loss: Literal["fail", "continue"] = "fail",
        stop_at_end: bool = False,
    ) -> MemorySource:
        return MemorySource(
            self.stream,
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
        self.stream.append(partition, key, value, headers, timestamp_ms)

    async def append_hole(self, partition: Partition) -> None:
        self.stream.append_hole(partition)

    async def committed(self, partition: Partition) -> Position | None:
        return self.stream.checkpoints.get(partition)

    async def lose_prefix(self, partition: Partition, records: int) -> None:
        self.stream.lose_prefix(partition, records)


class MemoryDestinationHarness:
    def __init__(self) -> None:
        self.destination = MemoryDestination()

    def make_destination(self) -> MemoryDestination:
        return self.destination

    async def read_back(self) -> Sequence[StoredLetter]:
        return [stored(letter) for letter in self.destination.letters]

    async def make_unavailable(self) -> None:
        self.destination.available = False

    async def make_available(self) -> None:
        self.destination.available = True


class TestMemorySource(SourceConformance):
    @pytest.fixture
    def harness(self) -> MemorySourceHarness:
        return MemorySourceHarness()


class TestMemoryDestination(DestinationConformance):
    @pytest.fixture
    def harness(self) -> MemoryDestinationHarness:
        return MemoryDestinationHarness()
