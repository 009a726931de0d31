"""A group's committed offsets as somebody outside sees them, again and again while a test runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from aiokafka.errors import KafkaError

from kafka_harness.clients import connected_admin
from kafka_harness.journal import Call
from kafka_harness.oracle import SettledTimes
from kafka_harness.producing import Placed
from kafka_harness.properties import NODE_ID
from kafka_harness.topics import Consumed, committed_offsets
from kafka_harness.waiting import until

_SHOWN = 5


class Observation(NamedTuple):
    """The committed offset of each ``topic-number`` that had one, when the broker's answer was there."""

    monotonic_ns: int
    epoch_ns: int
    committed: Mapping[str, int]


class CommitWatch:
    """Polls in the background while its ``async with`` block runs, and goes on while the broker is away.

    ``observations`` holds what was seen, oldest first; ``outages`` the text of each failed look.
    """

    def __init__(self, bootstrap: str, group: str, *, every: float = 0.1) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self.observations: list[Observation] = []
        self.outages: list[str] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch(), name=f"commit-watch-{self._group}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (failure := self._task.exception()) is not None:
            raise failure

    @property
    def newest(self) -> Mapping[str, int]:
        """What was committed at the last look; empty before the first."""
        return self.observations[-1].committed if self.observations else {}

    async def until_committed(self, positions: Mapping[str, int], *, timeout: float = 60.0) -> None:
        """Wait until the commits seen are exactly ``positions`` (``topic-number`` to offset), or TimeoutError."""

        def reached() -> bool:
            return all(self.newest.get(partition) == offset for partition, offset in positions.items())

        try:
            await until(reached, what="", timeout=timeout, every=self._every)
        except TimeoutError as error:
            raise TimeoutError(f"committed {dict(self.newest)} after {timeout:g} s, not {dict(positions)}") from error

    def assert_safe(
        self,
        produced: Iterable[Placed],
        calls: Iterable[Call],
        dead_letters: Iterable[Consumed] = (),
        *,
        filtered: Iterable[tuple[str, int]] = (),
    ) -> None:
        """At every look, no checkpoint was beyond the lowest record that was not settled by then."""
        assert self.observations, f"the commits of {self._group} were never seen: {self.outages[-_SHOWN:]}"
        settled = SettledTimes(produced, calls, dead_letters, monotonic_of=self._monotonic_of, filtered=set(filtered))
        offenders = []
        for seen in self.observations:
            for partition, checkpoint in seen.committed.items():
                unsettled = settled.unsettled_before(partition, checkpoint, seen.monotonic_ns)
                if unsettled is not None:
                    offenders.append(f"{partition}: {checkpoint} committed, {unsettled} not settled")
        assert not offenders, f"{len(offenders)} checkpoints were too far: {'; '.join(offenders[:_SHOWN])}"

    def assert_never_back(self) -> None:
        """No partition's checkpoint was ever seen to move backwards."""
        furthest: dict[str, int] = {}
        offenders = []
        for seen in self.observations:
            for partition, checkpoint in seen.committed.items():
                if checkpoint < furthest.get(partition, checkpoint):
                    offenders.append(f"{partition}: {checkpoint} after {furthest[partition]}")
                furthest[partition] = max(checkpoint, furthest.get(partition, checkpoint))
        assert not offenders, f"{len(offenders)} checkpoints moved back: {'; '.join(offenders[:_SHOWN])}"

    def _monotonic_of(self, epoch_ns: int) -> int:
        """By how far the clocks were apart at the first look from then on: a machine's time of day may be set."""
        seen = next((each for each in self.observations if each.epoch_ns >= epoch_ns), self.observations[-1])
        return epoch_ns - (seen.epoch_ns - seen.monotonic_ns)

    async def _watch(self) -> None:
        while True:
            try:
                await self._look_repeatedly()
            except (KafkaError, OSError, TimeoutError) as error:
                self.outages.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(self._every)

    async def _look_repeatedly(self) -> None:
        async with connected_admin(self._bootstrap) as admin:
            while True:
                found = await admin.list_consumer_group_offsets(self._group, group_coordinator_id=NODE_ID)
                committed = {
                    f"{place.topic}-{place.partition}": entry.offset
                    for place, entry in found.items()
                    if entry.offset >= 0
                }
                self.observations.append(Observation(time.monotonic_ns(), time.time_ns(), committed))
                await asyncio.sleep(self._every)


async def committed_by_partition(bootstrap: str, group: str) -> dict[str, int]:
    """One look: the committed offset of each ``topic-number``."""
    found = await committed_offsets(bootstrap, group)
    return {f"{topic}-{number}": offset for (topic, number), offset in found.items()}
