"""A loop around one life of a source, as the engine would run it, for tests to read records with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import takewhile

import anyio

from runner.model import Fetched, Partition, Position, Record
from runner.ports import AcknowledgesRecords, Source
from runner.testing.listener import RecordingListener

TIME_LIMIT = 45.0
"""Seconds for whatever is waited for."""

QUIET_FETCHES = 2
"""Fetches in a row without a record after which nothing more is believed to come."""


class Reader:
    """Keeps all that an open source brought: ``records`` and ``next_positions`` for each partition, and ``fetches``."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.listener = RecordingListener()
        self.fetches: list[Fetched] = []
        self.records: defaultdict[Partition, list[Record]] = defaultdict(list)
        self.next_positions: dict[Partition, Position] = {}
        self._surplus = 0
        self._settled: defaultdict[Partition, int] = defaultdict(int)

    @classmethod
    @asynccontextmanager
    async def of(cls, source: Source) -> AsyncIterator[Reader]:
        """Open ``source``, wait until it has joined, and close it at the end."""
        reader = cls(source)
        try:
            with anyio.fail_after(TIME_LIMIT):
                await source.open(reader.listener)
                await reader._until(lambda: source.joined)
            yield reader
        finally:
            await source.close()

    def values(self, partition: Partition) -> list[bytes | None]:
        """The values read of ``partition`` so far."""
        return [record.value for record in self.records[partition]]

    async def read(self, count: int) -> None:
        """Fetch until ``count`` more records than were asked for so far are there."""
        self._surplus -= count
        await self.until(lambda: self._surplus >= 0)

    async def read_nothing(self) -> None:
        """Fetch a few times; fails when a record comes."""
        with anyio.fail_after(TIME_LIMIT):
            for _ in range(QUIET_FETCHES):
                before = sum(map(len, self.records.values()))
                await self._fetch()
                assert sum(map(len, self.records.values())) == before, "records came that must not"

    async def read_to_the_end(self) -> None:
        """Fetch until the source says of every partition that nothing more is there."""
        await self.until(self._at_the_end)

    async def read_until_caught_up(self) -> None:
        await self.until(lambda: self.source.caught_up)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Fetch until ``condition`` holds. Raises TimeoutError when it does not come to hold."""
        with anyio.fail_after(TIME_LIMIT):
            await self._until(condition)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._fetch()

    async def _fetch(self) -> None:
        for fetched in await self.source.fetch():
            assert fetched.partition in self.listener.owned, "a partition was fetched that is not ours"
            self.fetches.append(fetched)
            self.records[fetched.partition] += fetched.records
            self.next_positions[fetched.partition] = fetched.next_position
            self._surplus += len(fetched.records)

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        """Store ``positions``; all that was read before them is settled."""
        for partition, position in positions.items():
            if isinstance(self.source, AcknowledgesRecords):
                settled = takewhile(lambda record: record.position != position, self.records[partition])  # noqa: B023
                fresh = list(settled)[self._settled[partition] :]
                self._settled[partition] += len(fresh)
                self.source.settled(partition, fresh)
        await self.source.checkpoint(positions)

    def _at_the_end(self) -> bool:
        backlogs = [self.source.backlog(partition) for partition in self.next_positions]
        return all(backlog is not None and backlog.records == 0 for backlog in backlogs)
