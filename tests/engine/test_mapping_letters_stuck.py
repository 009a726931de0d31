"""A destination that does not answer for one partition: the dead letters of the others pass it by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio

from engine_harness.scripts import failing
from engine_harness.world import World, source_of, told_of
from runner.core.lanes import Ordering
from runner.engine.mapping import Mapping
from runner.model import DeadLetter, MappingState, Reason
from runner.ports import DestinationError
from runner.testing import MemoryDestination


class StuckInPartition0(MemoryDestination):
    """Stores of partition 0 hang until ``answer`` is set; ``most_at_once`` counts those of one partition."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = anyio.Event()
        self.most_at_once = 0
        self._under_way: Counter[int] = Counter()

    async def store(self, letters: Sequence[DeadLetter]) -> Sequence[DestinationError | None]:
        numbers = {letter.record.partition.number for letter in letters}
        self._under_way.update(numbers)
        self.most_at_once = max(self.most_at_once, *self._under_way.values())
        try:
            if 0 in numbers:
                await self.answer.wait()
            return await super().store(letters)
        finally:
            self._under_way.subtract(numbers)

    def stored(self, partition: int) -> list[bytes | None]:
        return [letter.record.value for letter in self.letters if letter.record.partition.number == partition]


def _filled(partitions: int = 3) -> World:
    """Every partition holds one good record, then one poison."""
    world = World(partitions)
    for partition in range(partitions):
        world.fill(b"good", b"poison", partition=partition)
    return world


def _dead_lettering(world: World, destination: MemoryDestination, drain_timeout: float = 5.0) -> Mapping:
    return world.mapping(
        failing(b"poison"),
        destination=destination,
        attempts=0,
        batch_size=1,
        factor=4,
        ordering=Ordering.NONE,
        drain_timeout=drain_timeout,
    )


async def test_letters_of_other_partitions_are_stored_meanwhile() -> None:
    world, destination = _filled(), StuckInPartition0()
    async with world.running(_dead_lettering(world, destination)):
        await world.pass_time(3)
        assert [world.checkpoint(partition) for partition in range(3)] == [1, 2, 2]
        for partition in range(3):
            world.fill(b"good", b"poison", partition=partition)
        await world.pass_time(3)
        assert [world.checkpoint(partition) for partition in range(3)] == [1, 4, 4]
        destination.answer.set()
        await world.pass_time(3)
        assert [world.checkpoint(partition) for partition in range(3)] == [4, 4, 4]
    assert [destination.stored(partition) for partition in range(3)] == [[b"poison"] * 2] * 3


async def test_letters_of_one_partition_keep_their_order_and_their_stores_do_not_overlap() -> None:
    world, destination = World(), StuckInPartition0()
    poisons = [b"%d" % number for number in range(8)]
    mapping = world.mapping(
        failing(*poisons),
        destination=destination,
        attempts=0,
        batch_size=1,
        factor=4,
        ordering=Ordering.NONE,
    )
    async with world.running(mapping):
        world.fill(*poisons[:1])
        await world.pass_time(2)
        world.fill(*poisons[1:])
        await world.pass_time(2)
        destination.answer.set()
        await world.pass_time(3)
        assert world.checkpoint() == 8
    assert destination.most_at_once == 1
    assert destination.stored(0) == poisons


async def test_a_stop_leaves_only_the_stuck_letter_to_come_again() -> None:
    world, destination = _filled(), StuckInPartition0()
    started = world.clock.now()
    async with world.running(_dead_lettering(world, destination, drain_timeout=2.0)):
        await world.pass_time(1.5)
    assert world.clock.now() - started < 1.5 + 2.5
    assert [world.checkpoint(partition) for partition in range(3)] == [1, 2, 2]
    assert destination.stored(0) == []


async def test_a_letter_under_way_when_its_partition_is_lost_holds_up_only_that_one() -> None:
    world, destination = _filled(), StuckInPartition0()
    mapping = _dead_lettering(world, destination, drain_timeout=0.1)
    async with world.running(mapping):
        await world.pass_time(1.5)
        await source_of(mapping).rebalance([])
        await source_of(mapping).rebalance(world.stream.partitions)
        world.fill(b"good", b"poison", partition=1)
        await world.pass_time(3)
        assert [world.checkpoint(partition) for partition in range(3)] == [1, 4, 2]
        destination.answer.set()
        await world.pass_time(3)
        assert [world.checkpoint(partition) for partition in range(3)] == [2, 4, 2]
    assert [destination.stored(partition) for partition in range(3)] == [[b"poison"], [b"poison"] * 2, [b"poison"]]


async def test_the_problem_lasts_while_letters_of_any_partition_are_refused() -> None:
    world, destination = _filled(2), StuckInPartition0()
    destination.faults.extend([DestinationError("no")] * 3)
    mapping = _dead_lettering(world, destination)
    async with world.running(mapping):
        await world.pass_time(0.2)
        assert told_of(mapping) == (MappingState.PROBLEM, Reason.DESTINATION_UNAVAILABLE)
        await world.pass_time(5)
        assert destination.stored(1) == [b"poison"]
        assert told_of(mapping) == (MappingState.ENABLED, None)
        destination.faults.append(DestinationError("no"))
        destination.answer.set()
        await world.pass_time(0.1)
        assert told_of(mapping) == (MappingState.PROBLEM, Reason.DESTINATION_UNAVAILABLE)
        world.fill(b"poison", partition=1)
        await world.pass_time(0.1)
        assert destination.stored(1) == [b"poison"] * 2
        assert told_of(mapping) == (MappingState.PROBLEM, Reason.DESTINATION_UNAVAILABLE)
        await world.pass_time(3)
        assert told_of(mapping) == (MappingState.ENABLED, None)
