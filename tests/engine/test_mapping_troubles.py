"""Partitions that cannot be read, ours or not: what is told of them, and what the mapping shows."""

from __future__ import annotations

import pytest

from engine_harness.scripts import FAILED
from engine_harness.world import World, source_of
from runner.engine.mapping import Mapping
from runner.engine.supervisor import Desired, Slot
from runner.model import ErrorKind, MappingState, Partition, Problem, Reason
from runner.telemetry.snapshot import MappingSnapshot
from runner.views import snapshot_of

GONE = Problem(Reason.EVENT_SOURCE_NOT_FOUND, "there is no such stream", "check its name")
LOST = Problem(Reason.DATA_LOSS, "5 entries were trimmed")


def foreign(number: int) -> Partition:
    """One that the source was told to read, and that was never assigned."""
    return Partition("dm", number)


def shown(world: World, mapping: Mapping) -> MappingSnapshot:
    slot = Slot(Desired("m", "f", None, lambda: mapping, world.observer))
    slot.mapping = mapping
    return snapshot_of(slot, world.clock.now())


async def test_a_partition_that_is_not_assigned_is_shown_with_its_own_problem() -> None:
    world = World()
    world.fill_numbers(3)
    mapping = world.mapping()
    async with world.running(mapping):
        mapping.partition_problem(foreign(0), GONE)
        mapping.partition_problem(foreign(1), LOST)
        await world.pass_time(1)
        view = shown(world, mapping)
        assert view.state is MappingState.PROBLEM
        assert {each.partition: (each.assigned, each.problem) for each in view.partitions} == {
            world.stream.partitions[0]: (True, None),
            foreign(0): (False, GONE),
            foreign(1): (False, LOST),
        }
        assert [each.lag_seconds for each in view.partitions if not each.assigned] == [None, None]
        mapping.partition_problem(foreign(0), None)
        mapping.partition_problem(foreign(1), None)
        assert [each.partition for each in shown(world, mapping).partitions] == world.stream.partitions
        assert mapping.state is MappingState.ENABLED


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "dm-0: there is no such stream"),
        (2, "2 partitions: dm-0, dm-1: there is no such stream"),
        (3, "3 partitions: dm-0, dm-1, dm-2: there is no such stream"),
        (16, "16 partitions: dm-0, dm-1, dm-2 and 13 more: there is no such stream"),
    ],
)
async def test_the_mappings_problem_says_how_many_partitions_and_names_the_first(count: int, text: str) -> None:
    world = World()
    mapping = world.mapping()
    for number in reversed(range(count)):
        mapping.partition_problem(foreign(number), GONE)
    assert mapping.problem == Problem(GONE.reason, text, GONE.hint)


async def test_that_a_partition_goes_on_is_told_when_it_is_read_here_again() -> None:
    world = World()
    mapping = world.mapping()
    ours = world.stream.partitions[0]
    async with world.running(mapping):
        mapping.partition_problem(ours, LOST)
        mapping.partition_problem(ours, None)
        assert world.observer.problems == [(ours, LOST), (ours, None)]
        mapping.partition_problem(ours, None)
        mapping.partition_problem(foreign(0), None)
        assert len(world.observer.problems) == 2, "nothing was wrong"


async def test_a_partition_that_another_reads_or_that_is_not_there_does_not_go_on() -> None:
    world = World()
    mapping = world.mapping()
    async with world.running(mapping):
        mapping.partition_problem(foreign(0), GONE)
        mapping.partition_problem(foreign(0), None)
        assert world.observer.problems == [(foreign(0), GONE)]
        mapping.assigned([foreign(0)])
        assert world.observer.problems == [(foreign(0), GONE), (foreign(0), None)]
        await mapping.revoked([foreign(0)])
        mapping.assigned([foreign(0)])
        assert len(world.observer.problems) == 2, "told once"
        mapping.partition_problem(foreign(0), LOST)
    mapping.partition_problem(foreign(0), None)
    assert world.observer.problems[2:] == [(foreign(0), LOST)], "a stop is no going on"


async def test_what_ended_an_assignment_is_told_once() -> None:
    world = World()
    mapping = world.mapping()
    ours = world.stream.partitions[0]
    async with world.running(mapping):
        mapping.partition_problem(ours, LOST)
        await mapping.lost([ours])
        assert mapping.problem is None
        mapping.partition_problem(ours, LOST)
        assert world.observer.problems == [(ours, LOST)]
        assert mapping.problem is not None
        mapping.partition_problem(ours, GONE)
        assert world.observer.problems == [(ours, LOST), (ours, GONE)]


async def test_the_last_error_of_the_function_is_shown() -> None:
    world = World()
    world.fill(b"poison")
    mapping = world.mapping(lambda _: FAILED)
    assert shown(world, mapping).last_error is None
    async with world.running(mapping):
        await world.pass_time(1)
        last = shown(world, mapping).last_error
        assert last is not None
        assert last.error == FAILED.error
        assert last.error.kind is ErrorKind.ERROR
        assert 0 <= world.clock.now() - last.at <= 2
        assert source_of(mapping).joined
