"""Limits on concurrency: of the process, of a function, of a mapping; shared fairly."""

from __future__ import annotations

import anyio
import pytest

from engine_harness.observing import RecordingObserver
from engine_harness.scripts import hanging_on, slow
from engine_harness.world import World, function_of, invoked
from runner.core.lanes import Ordering
from runner.core.permits import Permits
from runner.engine.mapping import Mapping
from runner.model import Partition, Record, Settlement


def unordered(world: World, name: str = "m", **options: object) -> Mapping:
    """A mapping that invokes as much at once as it may."""
    return world.mapping(ordering=Ordering.NONE, factor=50, batch_size=1, name=name, **options)  # type: ignore[arg-type]


async def test_a_mapping_never_exceeds_its_own_limit() -> None:
    world = World()
    world.fill_numbers(20)
    mapping = unordered(world, script=slow(1), concurrency=3)
    async with world.running(mapping):
        await world.pass_time(10)
    assert function_of(mapping).most_running == 3
    assert len(invoked(mapping)) == 20
    assert mapping.dispatcher.in_flight == 0


async def test_the_process_never_exceeds_its_limit_and_all_of_it_is_used() -> None:
    world = World(permits=4)
    world.fill_numbers(20)
    mapping = unordered(world, script=slow(1))
    async with world.running(mapping):
        await world.pass_time(4.95)
        assert len(world.observer.values(Settlement.DELIVERED)) == 20, "5 turns of 4"
    assert function_of(mapping).most_running == 4


async def test_lanes_run_side_by_side_and_one_lane_never_overlaps_itself() -> None:
    world = World()
    for number in range(60):
        world.fill(b"v", key=b"%d" % (number % 6))
    mapping = world.mapping(slow(1), ordering=Ordering.KEY, factor=50, batch_size=1)
    async with world.running(mapping):
        await world.pass_time(0.1)
        lanes = {hash(b"%d" % number) % 50 for number in range(6)}
        assert function_of(mapping).running == len(lanes)
        await world.pass_time(60)
        assert world.checkpoint() == 60
    assert function_of(mapping).most_running == len(lanes)


async def test_mappings_share_a_functions_limit() -> None:
    world = World()
    world.fill_numbers(20)
    shared = Permits(5)
    function = world.function(slow(1))
    sources = {"a": world.source(), "b": world.another_source(*[b"v"] * 20)}
    mappings = [
        unordered(world, name, function=function, function_permits=shared, source=source)
        for name, source in sources.items()
    ]
    async with world.running(*mappings):
        await world.pass_time(20)
    assert function.most_running == 5
    assert len(function.calls) == 40
    assert shared.in_use == world.permits.in_use == 0


async def test_a_hung_function_never_keeps_other_mappings_from_going_on() -> None:
    world = World(permits=3)
    world.fill_numbers(50)
    hog = unordered(world, "hog", script=hanging_on(*[b"%d" % number for number in range(50)]), drain_timeout=1)
    observer = RecordingObserver()
    other = unordered(world, "other", script=slow(0.1), observer=observer, source=world.another_source(*[b"v"] * 50))
    async with world.running(hog, other):
        await world.pass_time(20)
        assert function_of(hog).running == 2, "one permit is left to the other"
        assert len(observer.values(Settlement.DELIVERED)) == 50


async def test_several_hung_functions_never_keep_another_mapping_from_going_on() -> None:
    world = World(permits=4)
    hogs = [
        unordered(
            world,
            name,
            script=hanging_on(b"stuck"),
            source=world.another_source(*[b"stuck"] * 50),
            observer=RecordingObserver(),
            drain_timeout=1,
        )
        for name in ("one", "two")
    ]
    observer = RecordingObserver()
    other = unordered(world, "other", script=slow(0.1), observer=observer, source=world.another_source(*[b"v"] * 50))
    async with world.running(*hogs, other):
        await world.pass_time(20)
        assert sum(function_of(hog).running for hog in hogs) == 3, "one permit is left to the other"
        assert len(observer.values(Settlement.DELIVERED)) == 50


async def test_the_permits_of_a_mapping_that_ends_serve_the_others() -> None:
    world = World(permits=1)
    world.fill_numbers(3)
    hog = unordered(world, "hog", script=hanging_on(b"0", b"1", b"2"), drain_timeout=1)
    observer = RecordingObserver()
    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hog.run)
            await world.pass_time(0.5)
            other = unordered(world, "other", observer=observer, source=world.another_source(b"x", b"y", b"z"))
            tasks.start_soon(other.run)
            await world.pass_time(5)
            assert invoked(other) == []
            hog.stop()
            await world.pass_time(5)
            assert len(observer.values(Settlement.DELIVERED)) == 3
            other.stop()


class Defective(RecordingObserver):
    """Raises at the second settlement, which no observer may."""

    def records_settled(self, partition: Partition, how: Settlement, records: list[Record], now: float) -> None:  # type: ignore[override]
        super().records_settled(partition, how, records, now)
        if self.calls["settled"] == 2:
            raise RuntimeError("a defect")


async def test_a_defect_ends_its_own_mapping_and_not_the_one_that_gave_the_permit_back() -> None:
    world = World(permits=1)
    world.fill(b"a", b"b")
    healthy = unordered(world, "healthy", script=slow(5))
    broken = unordered(world, "broken", source=world.another_source(b"x", b"y"), observer=Defective(), age=3.0)
    outcomes: list[str] = []

    async def run(mapping: Mapping) -> None:
        try:
            await mapping.run()
        except Exception as error:
            outcomes.append(f"{mapping.policy.name}: {error!r}")

    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, healthy)
            await world.pass_time(0.1)
            tasks.start_soon(run, broken)
            await world.pass_time(20)
            assert len(invoked(healthy)) == 2
            healthy.stop()
    [outcome] = outcomes
    assert outcome.startswith("broken: ")
    assert "a defect" in outcome


@pytest.mark.parametrize("limit", [1, 7])
async def test_every_permit_comes_back(limit: int) -> None:
    world = World(partitions=3, permits=limit)
    for partition in range(3):
        world.fill_numbers(10, partition=partition)
    mapping = unordered(world, script=slow(0.3))
    async with world.running(mapping):
        await world.pass_time(1)
        await mapping.revoked([Partition("orders", 1)])
        await world.pass_time(30)
    assert world.permits.in_use == 0
    assert function_of(mapping).most_running <= limit
