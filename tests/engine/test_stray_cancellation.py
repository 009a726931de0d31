"""A cancellation that nobody asked for, as a client library lets one escape, ends no mapping without a word."""

from __future__ import annotations

import asyncio
from collections import abc

from engine_harness.fleet import Fleet, TrackedSource
from runner.engine.mapping import Mapping
from runner.model import MappingState, Partition, Position, Reason


async def test_a_mapping_that_a_stray_cancellation_ends_is_a_problem_and_started_again() -> None:
    fleet = Fleet()
    fleet.fill("m", 3)
    strays = 1

    class Straying(TrackedSource):
        async def checkpoint(self, positions: abc.Mapping[Partition, Position]) -> None:
            nonlocal strays
            if strays:
                strays -= 1
                raise asyncio.CancelledError
            await super().checkpoint(positions)

    def build() -> Mapping:
        source = Straying(fleet.stream("m"), fleet.diary, "m", now=fleet.clock.now)
        return fleet.world.mapping(source=source, observer=fleet.observer("m"), name="m")

    async with fleet.running(fleet.desired("m", build=build)):
        await fleet.pass_time(10)
        assert strays == 0
        told = [(state, problem and problem.reason) for state, problem in fleet.observer("m").states]
        assert (MappingState.PROBLEM, Reason.INTERNAL_ERROR) in told
        assert fleet.told_of("m") == (MappingState.ENABLED, None)
        assert fleet.checkpoint("m") == 3
