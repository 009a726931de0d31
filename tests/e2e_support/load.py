"""Records that keep coming while a test does something else."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from e2e_support.stream import Stream, committed_records
from kafka_harness import placement, producing
from kafka_harness.clients import started_producer
from kafka_harness.commit_watch import CommitWatch

_CHUNK = 200
_LOOK_EVERY = 0.02


class Load:
    """Within its ``async with`` block the group always has about ``backlog`` records left to do.

    ``keys`` different keys take turns. What was produced is added to the stream.
    """

    def __init__(self, stream: Stream, watch: CommitWatch, *, backlog: int, keys: int) -> None:
        self._stream = stream
        self._watch = watch
        self._backlog = backlog
        self._keys = keys
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_producing(), name=f"load-{self._stream.topic}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        # Not cancelled: a record that is sent must also be noted.
        self._ending = True
        await self._task

    async def _keep_producing(self) -> None:
        stream = self._stream
        place = placement.by_murmur2(stream.partitions)
        async with started_producer(stream.kafka.bootstrap) as producer:
            while not self._ending:
                if len(stream.placed) - committed_records(self._watch) < self._backlog:
                    items = producing.numbered(_CHUNK, keys=self._keys, start=len(stream.placed))
                    stream.placed += await producing.write(producer, stream.topic, items, place=place)
                else:
                    await asyncio.sleep(_LOOK_EVERY)
