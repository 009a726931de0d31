"""A stream, and mappings that read it, under one clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from engine_harness.observing import RecordingObserver
from engine_harness.policies import a_policy
from runner.core.flow import ByteBudget
from runner.core.permits import Permits
from runner.engine.clock import LoopClock
from runner.engine.mapping import Mapping
from runner.model import NO_TIMESTAMP, MappingState, Partition, Position, Reason
from runner.ports import Destination
from runner.testing import MemorySource, MemoryStream, ScriptedFunction
from runner.testing.function import Script

EPOCH = 1_000_000.0
TIME_LIMIT = 10_000.0
"""Virtual seconds after which a test that still waits has failed: a mapping never leaves its loop idle."""


class SuspendableClock(LoopClock):
    """A clock of a process that can be stopped: its time goes on, and its timers do not fire meanwhile."""

    def __init__(self) -> None:
        super().__init__(epoch=EPOCH)
        self._suspended = 0.0

    def now(self) -> float:
        return super().now() + self._suspended

    def suspend(self, seconds: float) -> None:
        """The process stood still for ``seconds``, from now on past."""
        self._suspended += seconds


class World:
    """Everything outlives the mappings; ``permits`` and ``budget`` are the process's. Made inside the running loop."""

    def __init__(self, partitions: int = 1, *, permits: int = 1_000, budget: int = 1 << 30) -> None:
        self.clock = SuspendableClock()
        self.stream = MemoryStream(partitions)
        self.permits = Permits(permits)
        self.budget = ByteBudget(budget)
        self.observer = RecordingObserver()

    def fill(
        self,
        *values: bytes | None,
        partition: int = 0,
        key: bytes | None = b"k",
        keys: Sequence[bytes] = (),
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> None:
        """Append ``values``, all with ``key`` or each with its own of ``keys``."""
        for index, value in enumerate(values):
            self.stream.append(partition, keys[index] if keys else key, value, timestamp_ms=timestamp_ms)

    def fill_numbers(self, count: int, *, partition: int = 0, key: bytes | None = b"k") -> None:
        """Append the values ``b"0"``, ``b"1"``, and so on."""
        self.fill(*[b"%d" % number for number in range(count)], partition=partition, key=key)

    def checkpoint(self, partition: int = 0) -> Position | None:
        return self.stream.checkpoints.get(Partition(self.stream.topic, partition))

    def source(self, **options: Any) -> MemorySource:
        return MemorySource(self.stream, now=self.clock.now, **options)

    def another_source(self, *values: bytes) -> MemorySource:
        """Of a stream of its own, with ``values`` in its one partition."""
        stream = MemoryStream(topic="others")
        for value in values:
            stream.append(0, b"k", value, timestamp_ms=int(self.clock.now() * 1000))
        return MemorySource(stream, now=self.clock.now)

    def function(self, script: Script | None = None, **options: Any) -> ScriptedFunction:
        return ScriptedFunction(script, now=self.clock.now, **options)

    def mapping(
        self,
        script: Script | None = None,
        *,
        function: ScriptedFunction | None = None,
        source: MemorySource | None = None,
        destination: Destination | None = None,
        observer: RecordingObserver | None = None,
        function_permits: Permits | None = None,
        lease: float | None = None,
        alone: anyio.Lock | None = None,
        until_caught_up: bool = False,
        jitter: Callable[[], float] = lambda: 0.5,
        **policy: Any,
    ) -> Mapping:
        """``policy`` as in ``a_policy``. With the usual jitter, waits are 1, 2, 4 ... seconds."""
        return Mapping(
            policy=a_policy(**policy),
            source=source or self.source(),
            function=function or self.function(script),
            destination=destination,
            observer=observer or self.observer,
            clock=self.clock,
            process_permits=self.permits,
            function_permits=function_permits,
            budget=self.budget,
            lease=lease,
            alone=alone,
            until_caught_up=until_caught_up,
            jitter=jitter,
        )

    async def pass_time(self, seconds: float) -> None:
        """Let virtual time pass: all that is due happens."""
        await anyio.sleep(seconds)

    @asynccontextmanager
    async def running(self, *mappings: Mapping) -> AsyncIterator[None]:
        """Run ``mappings``, which had a tenth of a second to begin; at the end they are stopped, drained, and gone."""
        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as tasks:
                for mapping in mappings:
                    tasks.start_soon(mapping.run)
                await anyio.wait_all_tasks_blocked()
                yield
                for mapping in mappings:
                    mapping.stop()


def source_of(mapping: Mapping) -> MemorySource:
    assert isinstance(mapping.source, MemorySource)
    return mapping.source


def function_of(mapping: Mapping) -> ScriptedFunction:
    assert isinstance(mapping.function, ScriptedFunction)
    return mapping.function


def invoked(mapping: Mapping) -> list[list[bytes | None]]:
    """The values of each invocation so far, in the order of their starts."""
    return [[record.value for record in call.invocation.records] for call in function_of(mapping).calls]


def told_of(mapping: Mapping) -> tuple[MappingState, Reason | None]:
    """The state of a mapping, with the reason when it is in a problem."""
    return mapping.state, None if mapping.problem is None else mapping.problem.reason
