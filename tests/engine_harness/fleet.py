"""A supervisor with mappings of a world, each on a stream of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from engine_harness.observing import RecordingObserver
from engine_harness.world import TIME_LIMIT, World
from runner.engine.mapping import Mapping
from runner.engine.supervisor import Changes, Desired, Slot, Supervisor
from runner.model import MappingState, Reason
from runner.testing import MemorySource, MemoryStream, ScriptedFunction
from runner.testing.function import Script

Builder = Callable[[], Mapping]


class TrackedSource(MemorySource):
    """Notes in ``diary`` when it joins and leaves."""

    def __init__(self, stream: MemoryStream, diary: list[str], name: str, **options: Any) -> None:
        super().__init__(stream, name=name, **options)
        self._diary = diary
        self._called = name

    async def open(self, listener: Any) -> None:
        self._diary.append(f"{self._called} joins")
        await super().open(listener)

    async def close(self) -> None:
        self._diary.append(f"{self._called} leaves")
        await super().close()


class Fleet:
    """``built`` holds every mapping that was ever built, by name; ``diary`` who joined and left, in order."""

    def __init__(self) -> None:
        self.world = World()
        self.supervisor = Supervisor(self.world.clock, jitter=lambda: 0.0)
        self.streams: dict[str, MemoryStream] = {}
        self.observers: dict[str, RecordingObserver] = {}
        self.functions: dict[str, ScriptedFunction] = {}
        self.built: dict[str, list[Mapping]] = {}
        self.diary: list[str] = []
        self.clock = self.world.clock

    def desired(
        self,
        name: str,
        *,
        version: int = 1,
        enabled: bool = True,
        script: Script | None = None,
        stream: str | None = None,
        build: Builder | None = None,
        **options: Any,
    ) -> Desired:
        """``options`` as in ``World.mapping``; the stream is the mapping's own unless another's is named."""

        def build_mapping() -> Mapping:
            mapping = self.world.mapping(
                function=self.functions.setdefault(name, self.world.function(script)),
                source=TrackedSource(
                    self.stream(stream or name),
                    self.diary,
                    f"{name} {version}",
                    now=self.clock.now,
                    stop_at_end=options.get("until_caught_up", False),
                ),
                observer=self.observer(name),
                name=name,
                **options,
            )
            self.built.setdefault(name, []).append(mapping)
            return mapping

        return Desired(
            name=name,
            function="scripted",
            fingerprint=(name, version, enabled),
            build=build or build_mapping,
            observer=self.observer(name),
            enabled=enabled,
            until_caught_up=options.get("until_caught_up", False),
        )

    def stream(self, name: str) -> MemoryStream:
        if name not in self.streams:
            self.streams[name] = MemoryStream(topic=name)
        return self.streams[name]

    def fill(self, name: str, count: int) -> None:
        for number in range(count):
            self.stream(name).append(0, b"k", b"%d" % number)

    def checkpoint(self, name: str) -> object:
        stream = self.stream(name)
        return stream.checkpoints.get(stream.partitions[0])

    def observer(self, name: str) -> RecordingObserver:
        return self.observers.setdefault(name, RecordingObserver())

    def reconcile(self, *desired: Desired) -> Changes:
        return self.supervisor.reconcile({each.name: each for each in desired})

    def slot(self, name: str) -> Slot:
        [slot] = [slot for slot in self.supervisor.slots if slot.shown.name == name]
        return slot

    def told_of(self, name: str) -> tuple[MappingState, Reason | None]:
        """What the slot says of its mapping: the state, with the reason when it is in a problem."""
        slot = self.slot(name)
        return slot.state, None if slot.current_problem is None else slot.current_problem.reason

    async def pass_time(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    @asynccontextmanager
    async def running(self, *desired: Desired) -> AsyncIterator[None]:
        """Run ``desired``; at the end all is stopped and gone."""
        self.reconcile(*desired)
        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.supervisor.run)
                await anyio.wait_all_tasks_blocked()
                yield
                self.supervisor.stop()
        assert list(self.supervisor.slots) == [] or all(slot.is_finished for slot in self.supervisor.slots)
