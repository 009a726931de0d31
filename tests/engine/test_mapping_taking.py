"""A source that takes partitions by itself is told when its mapping stops, and fences reach who must hear of them."""

from __future__ import annotations

from collections.abc import Collection

from engine_harness.world import World
from runner.model import Partition
from runner.ports import CheckpointFenced, TakesPartitions
from runner.testing import MemorySource, MemoryStream


class TakingSource(MemorySource):
    """Remembers what was still in flight when it was told to take no more."""

    def __init__(self, stream: MemoryStream, world: World) -> None:
        super().__init__(stream, now=world.clock.now)
        self.owned_when_told: list[Collection[Partition]] = []

    def stop_taking(self) -> None:
        self.owned_when_told.append(list(self.assigned))


async def test_who_stops_takes_no_more_before_it_drains() -> None:
    world = World()
    world.fill_numbers(3)
    source = TakingSource(world.stream, world)
    assert isinstance(source, TakesPartitions)
    mapping = world.mapping(source=source)
    async with world.running(mapping):
        await world.pass_time(5)
        assert source.owned_when_told == []
    assert source.owned_when_told == [list(world.stream.partitions)]
    assert world.checkpoint() == 3


async def test_a_partition_is_fenced_though_the_checkpoint_of_another_failed() -> None:
    world = World(2)
    for partition in range(2):
        world.fill_numbers(3, partition=partition)
    refused, failed = world.stream.partitions
    source = world.source()
    source.checkpoint_faults.append(CheckpointFenced("another's", [refused], {failed: "no answer"}))
    mapping = world.mapping(source=source)
    async with world.running(mapping):
        await world.pass_time(1.5)
        assert world.observer.commit_failures == [("another's", True), ("no answer", False)]
        assert world.stream.checkpoints.get(failed) in (None, 0), "it was not stored"
        assert mapping.workers[refused].is_discarded
        assert not mapping.workers[failed].is_discarded
        await world.pass_time(2)
        assert world.stream.checkpoints[failed] == 3, "and is handed over again"
