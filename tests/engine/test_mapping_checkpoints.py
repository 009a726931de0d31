"""Checkpoints under trouble: refused, late, of an assignment that is over, of a process that stood still."""

from __future__ import annotations

import anyio
import pytest

from engine_harness.scripts import hanging_on, slow
from engine_harness.world import World, function_of, invoked, source_of
from runner.engine.mapping import Mapping
from runner.model import Partition, Reason
from runner.ports import CheckpointFailed, CheckpointFenced, SourceError


async def test_a_checkpoint_that_failed_is_made_again_in_its_newest_form() -> None:
    world = World()
    world.fill_numbers(2)
    mapping = world.mapping(slow(0.7), batch_size=1)
    async with world.running(mapping):
        source_of(mapping).checkpoint_faults.append(CheckpointFailed("not now"))
        await world.pass_time(1.2)
        assert world.observer.commit_failures == [("not now", False)]
        assert world.checkpoint() == 0
        await world.pass_time(1)
        assert world.checkpoint() == 2


async def test_a_checkpoint_without_an_answer_is_given_up_after_its_timeout() -> None:
    world = World()
    world.fill_numbers(1)
    mapping = world.mapping(commit_timeout=5)
    async with world.running(mapping):
        source_of(mapping).hold_checkpoints()
        await world.pass_time(5.8)
        assert world.observer.commit_failures == []
        await world.pass_time(0.2)
        assert world.observer.commit_failures == [("no answer within 5 s", False)]
        source_of(mapping).release_checkpoints()
        await world.pass_time(1.1)
        assert world.checkpoint() == 1


async def test_a_stop_lasts_no_longer_than_drain_and_commit_timeout() -> None:
    """The last checkpoint waits for one that the timer began, and both of them hang."""
    world = World()
    world.fill(b"stuck", b"a")
    mapping = world.mapping(hanging_on(b"stuck"), batch_size=1, drain_timeout=3, commit_timeout=5, commit_interval=1.5)
    async with world.running(mapping):
        await world.pass_time(0.5)
        source_of(mapping).hold_checkpoints()
        stopped_at = world.clock.now()
        mapping.stop()
        await world.pass_time(0)
        world.fill(b"never read")
    assert world.clock.now() - stopped_at <= 3 + 5 + 0.01


async def test_nothing_is_stored_twice() -> None:
    world = World()
    world.fill_numbers(5)
    async with world.running(world.mapping()):
        await world.pass_time(20)
    assert len(world.stream.history) == 2, "the starting position and the end"


async def test_a_fenced_checkpoint_discards_its_worker_at_once() -> None:
    world = World()
    world.fill(b"a", b"slow")
    mapping = world.mapping(hanging_on(b"slow"), batch_size=1)
    async with world.running(mapping):
        source_of(mapping).checkpoint_faults.append(CheckpointFenced("another owner"))
        await world.pass_time(1.1)
        assert world.observer.commit_failures == [("another owner", True)]
        assert function_of(mapping).running == 0
        assert world.observer.stale == 1, "settled, and cannot be stored"
        assert world.observer.cancelled == 1, "in flight"
        world.fill(b"b")
        await world.pass_time(5)
        assert len(invoked(mapping)) == 2
        await source_of(mapping).rebalance([])
        await source_of(mapping).rebalance(world.stream.partitions)
        await world.pass_time(2)
        assert invoked(mapping)[2:] == [[b"a"], [b"slow"]]
    assert world.budget.used == 0


async def test_a_partition_that_is_fenced_while_it_drains_is_not_waited_for() -> None:
    world = World(partitions=2)
    world.fill(b"a", b"slow")
    mapping = world.mapping(hanging_on(b"slow"), batch_size=1, drain_timeout=100)
    async with world.running(mapping):
        await world.pass_time(1.2)  # "a" is stored
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source_of(mapping).rebalance, [])
            await world.pass_time(1)
            began_at = world.clock.now()
            # The checkpoint of the other partition tells that both are lost.
            mapping._committer.fence(mapping.workers[world.stream.partitions[0]])
        assert world.clock.now() - began_at < 1


async def test_the_lost_partitions_of_a_revoke_start_nothing_more() -> None:
    world = World()
    world.fill_numbers(3)
    mapping = world.mapping(slow(2), batch_size=1, commit_interval=100)
    async with world.running(mapping):
        await world.pass_time(2.5)
        assert len(invoked(mapping)) == 2
        source_of(mapping).checkpoint_faults.append(CheckpointFenced("the group has gone on"))
        began_at = world.clock.now()
        await source_of(mapping).rebalance([])
        assert world.clock.now() - began_at < 0.1
    assert len(invoked(mapping)) == 2
    assert world.checkpoint() == 0


async def test_a_job_handed_over_just_before_its_partition_was_lost_is_not_started() -> None:
    world = World()
    world.fill(b"a")
    mapping = world.mapping()
    async with world.running(mapping):
        await world.pass_time(0.5)
        worker = mapping.workers[world.stream.partitions[0]]
        world.fill(b"b")
        [fetched] = await source_of(mapping).fetch()
        worker.accept(fetched, world.clock.now(), None)
        mapping.dispatcher.pump()
        assert worker.running == 1
        worker.discard()
        await world.pass_time(0.1)
        assert worker.running == 0
        assert invoked(mapping) == [[b"a"]]
        assert world.permits.in_use == 0


async def _run_until_it_fails(mapping: Mapping, failures: list[SourceError]) -> None:
    try:
        await mapping.run()
    except SourceError as error:
        failures.append(error)


@pytest.mark.parametrize("lease", [10.0, None])
async def test_after_a_suspension_longer_than_the_lease_nothing_in_flight_counts(lease: float | None) -> None:
    world = World()
    world.fill(b"before", b"in flight", b"after")
    mapping = world.mapping(slow(2), batch_size=1, lease=lease, commit_interval=1.9)
    failures: list[SourceError] = []
    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run_until_it_fails, mapping, failures)
            await world.pass_time(3)
            world.clock.suspend(11)
            await world.pass_time(1.5)
            mapping.stop()
    if lease is None:
        assert (failures, world.checkpoint()) == ([], 3)
        return
    [failure] = failures
    assert failure.problem.reason is Reason.EVENT_SOURCE_UNREACHABLE
    assert "stood still for 11" in failure.problem.text
    assert world.checkpoint() == 0, "what was settled and not stored is not stored any more"
    assert (world.observer.stale, world.observer.cancelled) == (1, 1), "one was settled, one in flight"
    assert len(invoked(mapping)) == 2


async def test_a_suspension_shorter_than_the_lease_is_nothing() -> None:
    world = World()
    world.fill_numbers(2)
    mapping = world.mapping(slow(2), batch_size=1, lease=10)
    async with world.running(mapping):
        await world.pass_time(1)
        world.clock.suspend(9)
        await world.pass_time(5)
        assert world.checkpoint() == 2


@pytest.mark.parametrize("since_a_look", [0.0, 0.25, 0.49])
async def test_a_suspension_is_noticed_whenever_it_begins(since_a_look: float) -> None:
    """The looks that come twice a second may only make it seem longer."""
    world = World()
    world.fill_numbers(1)
    mapping = world.mapping(slow(5), lease=4)
    failures: list[SourceError] = []
    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run_until_it_fails, mapping, failures)
            await world.pass_time(3.001 + since_a_look)
            world.clock.suspend(4.01)
            await world.pass_time(3)
            mapping.stop()
    assert len(failures) == 1
    assert world.checkpoint() == 0


async def test_opening_may_take_longer_than_the_lease() -> None:
    world = World()
    world.fill_numbers(1)
    function = world.function()

    async def open_slowly() -> None:
        await anyio.sleep(30)

    function.open = open_slowly  # type: ignore[method-assign]
    mapping = world.mapping(function=function, lease=10)
    async with world.running(mapping):
        await world.pass_time(32)
        assert world.checkpoint() == 1


async def test_a_revoke_after_a_suspension_stores_nothing() -> None:
    world = World()
    world.fill_numbers(1)
    mapping = world.mapping(lease=10, commit_interval=100)
    failures: list[SourceError] = []
    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run_until_it_fails, mapping, failures)
            await world.pass_time(1.1)
            assert len(invoked(mapping)) == 1
            world.clock.suspend(11)
            await mapping.revoked([Partition("orders", 0)])
    assert len(failures) == 1
    assert world.checkpoint() == 0
