"""How a partition is let go: at a stop, at a revoke, and when its mapping's source fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import anyio
import pytest

from engine_harness.scripts import FAILED, failing, hanging_on, in_turn, keys_in_lanes, slow, values
from engine_harness.world import World, function_of, invoked, source_of
from runner.core.lanes import Ordering
from runner.model import SUCCEEDED, Fetched, Invocation, Outcome, Partition, Problem, Reason, Settlement
from runner.ports import SourceError
from runner.testing import MemoryDestination, MemorySource


async def test_a_clean_stop_settles_what_was_dispatched_and_drops_the_rest() -> None:
    world = World()
    world.fill_numbers(30)
    mapping = world.mapping(slow(5))
    async with world.running(mapping):
        await world.pass_time(1)
    assert len(invoked(mapping)) == 1
    assert world.checkpoint() == 10
    assert world.observer.repeated == [(world.stream.partitions[0], 0)]
    assert world.budget.used == 0


async def test_a_stop_with_retries_waiting_repeats_nothing_when_their_wait_ends_in_time() -> None:
    world = World()
    world.fill_numbers(3)
    mapping = world.mapping(in_turn(FAILED, FAILED), batch_size=1, drain_timeout=30)
    async with world.running(mapping):
        await world.pass_time(0.5)
        assert len(invoked(mapping)) == 1
    assert invoked(mapping) == [[b"0"]] * 3, "nothing is started beyond the line"
    assert world.checkpoint() == 1
    assert world.observer.repeated == [(world.stream.partitions[0], 0)]


async def test_a_retry_that_would_come_too_late_is_given_up_at_once() -> None:
    world = World()
    world.fill_numbers(3)
    mapping = world.mapping(lambda _: FAILED, batch_size=1, backoff=100, maximum_backoff=100, drain_timeout=30)
    async with world.running(mapping):
        await world.pass_time(0.5)
        stopped_at = world.clock.now()
    assert world.clock.now() - stopped_at < 1, "50 s are not waited for, nor are 30"
    assert world.observer.unsettled == [(world.stream.partitions[0], 1)], "what was never begun is not announced"
    assert (world.checkpoint(), len(invoked(mapping))) == (0, 1)


async def test_an_abandoned_lane_announces_exactly_the_records_settled_beyond_it() -> None:
    world = World()
    stuck, free = keys_in_lanes([1, 2], factor=4)
    world.fill(b"a", b"poison", b"b", b"c", b"d", keys=[free, stuck, free, free, stuck])
    mapping = world.mapping(
        failing(b"poison"), ordering=Ordering.KEY, factor=4, batch_size=1, backoff=100, maximum_backoff=100
    )
    async with world.running(mapping):
        await world.pass_time(0.5)
    assert world.checkpoint() == 1
    assert world.observer.repeated == [(world.stream.partitions[0], 2)]
    assert world.observer.values(Settlement.DELIVERED) == [b"a", b"b", b"c"]


async def test_nothing_of_an_abandoned_lanes_successors_is_started_or_waited_for() -> None:
    """Two lanes retry; the one with the lower record fails for good: the other's retry would only be repeated."""
    world = World()
    low, high = keys_in_lanes([1, 2], factor=4)
    world.fill(b"low", b"high", keys=[low, high])

    async def script(invocation: Invocation) -> Outcome:
        if values(invocation) == [b"low"] and invocation.attempt == 1:
            await anyio.sleep(3)
        return FAILED

    mapping = world.mapping(
        script, ordering=Ordering.KEY, factor=4, batch_size=1, backoff=16, maximum_backoff=100, drain_timeout=8
    )
    async with world.running(mapping):
        await world.pass_time(2)
        stopped_at = world.clock.now()
    # The lower record would be tried again after 11 s, too late; the higher one after 8 s, in time.
    assert world.clock.now() - stopped_at < 2, "the wait of the higher record leads nowhere"
    assert invoked(mapping) == [[b"low"], [b"high"]]


async def test_what_outlives_the_drain_timeout_is_cancelled_and_awaited() -> None:
    world = World()
    world.fill(b"stuck", b"a", b"b")
    mapping = world.mapping(hanging_on(b"stuck"), ordering=Ordering.NONE, factor=3, batch_size=1, drain_timeout=7)
    async with world.running(mapping):
        await world.pass_time(0.5)
        stopped_at = world.clock.now()
    assert world.clock.now() - stopped_at == pytest.approx(7, abs=0.01)
    assert function_of(mapping).running == 0
    assert (world.observer.stale, world.observer.cancelled) == (0, 1), "no result came"
    assert world.observer.unsettled == [(world.stream.partitions[0], 1)]
    assert world.observer.repeated == [(world.stream.partitions[0], 2)]
    assert world.permits.in_use == 0


async def test_records_filtered_beyond_the_checkpoint_are_announced_too() -> None:
    world = World()
    world.fill(b"keep", b"refuse", b"refuse")
    mapping = world.mapping(window=100, wants=lambda record: record.value == b"keep")
    async with world.running(mapping):
        await world.pass_time(0.5)
    assert world.observer.repeated == [(world.stream.partitions[0], 2)]


async def test_a_letter_that_waits_for_its_destination_keeps_the_partition_until_the_timeout() -> None:
    world = World()
    world.fill(b"poison")
    destination = MemoryDestination()
    destination.available = False
    mapping = world.mapping(failing(b"poison"), attempts=0, destination=destination, drain_timeout=20)
    async with world.running(mapping):
        await world.pass_time(1)
        mapping.stop()
        await world.pass_time(5)
        destination.available = True
    assert world.checkpoint() == 1
    assert len(destination.letters) == 1


async def test_a_revoke_leaves_the_other_partitions_alone() -> None:
    world = World(partitions=2)
    zero, one = world.stream.partitions
    world.fill_numbers(3, partition=0)
    world.fill_numbers(3, partition=1)
    mapping = world.mapping(slow(2), batch_size=1)
    async with world.running(mapping):
        await world.pass_time(1)
        await source_of(mapping).rebalance([one])
        assert list(mapping.workers) == [one]
        assert world.stream.checkpoints[zero] == 1
        assert function_of(mapping).running == 1, "the other partition's next batch"
        await world.pass_time(10)
        assert world.stream.checkpoints == {zero: 1, one: 3}
    assert world.observer.repeated == [(zero, 0), (one, 0)]


async def test_a_new_assignment_begins_at_the_checkpoint_with_a_new_worker() -> None:
    world = World()
    [zero] = world.stream.partitions
    world.fill_numbers(4)
    mapping = world.mapping(slow(2), batch_size=1)
    async with world.running(mapping):
        await world.pass_time(3)
        before = mapping.workers[zero]
        await source_of(mapping).rebalance([])
        assert mapping.workers == {}
        await source_of(mapping).rebalance([zero])
        assert mapping.workers[zero] is not before
        await world.pass_time(10)
    assert invoked(mapping) == [[b"0"], [b"1"], [b"2"], [b"3"]]


async def test_a_result_that_comes_after_the_revoke_counts_for_nothing() -> None:
    """A handler that ignores cancellation comes back when its records are another owner's."""
    world = World()
    world.fill(b"slow")

    async def stubborn(_invocation: Invocation) -> Outcome:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(4)
        return SUCCEEDED

    mapping = world.mapping(stubborn, drain_timeout=1)
    async with world.running(mapping):
        await world.pass_time(0.5)
        await source_of(mapping).rebalance([])
        assert world.clock.now() - function_of(mapping).calls[0].started_at == pytest.approx(4, abs=0.01)
        await world.pass_time(5)
    assert world.observer.settled == {}
    assert world.observer.stale == 1
    assert world.checkpoint() == 0


async def test_a_stop_and_a_revoke_of_the_same_partition_both_wait_for_its_drain() -> None:
    world = World()
    world.fill_numbers(1)
    mapping = world.mapping(slow(5))
    async with world.running(mapping):
        await world.pass_time(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source_of(mapping).rebalance, [])
            await anyio.wait_all_tasks_blocked()
            mapping.stop()
            await world.pass_time(1)
            assert not world.observer.repeated
    assert world.observer.repeated == [(world.stream.partitions[0], 0)]
    assert world.checkpoint() == 1


class FetchingRevoker(MemorySource):
    """Lets a partition go from inside ``fetch``, as a source does that finds it lost."""

    revoke: Callable[[], Collection[Partition] | None] = staticmethod(lambda: None)

    async def fetch(self) -> Sequence[Fetched]:
        partitions = self.revoke()
        if partitions is not None:
            await self.rebalance(partitions)
        return await super().fetch()


async def test_a_stop_does_not_cut_off_a_drain_that_runs_inside_a_fetch() -> None:
    world = World(partitions=2)
    zero, one = world.stream.partitions
    world.fill_numbers(1, partition=0)
    source = FetchingRevoker(world.stream, now=world.clock.now)
    mapping = world.mapping(slow(6), source=source)
    async with world.running(mapping):
        await world.pass_time(0.5)
        source.revoke = lambda: [one]
        await world.pass_time(2)
        mapping.stop()
    assert function_of(mapping).calls[0].outcome is SUCCEEDED
    assert world.stream.checkpoints[zero] == 1
    assert sorted(world.observer.repeated) == [(zero, 0), (one, 0)]
    assert world.budget.used == 0


async def test_when_the_source_fails_what_runs_may_end_but_nothing_more_is_started() -> None:
    world = World()
    world.fill_numbers(4)
    mapping = world.mapping(slow(3), batch_size=1)
    problem = Problem(Reason.EVENT_SOURCE_UNREACHABLE, "gone")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                with pytest.raises(SourceError) as raised:
                    await mapping.run()
                assert raised.value.problem is problem

            tasks.start_soon(run)
            await world.pass_time(1)
            source_of(mapping).fetch_faults.append(SourceError(problem))
            world.fill(b"wakes the fetch")
            await world.pass_time(1)
            assert (mapping.state, mapping.problem) == ("problem", problem)
    assert invoked(mapping) == [[b"0"]]
    assert world.checkpoint() == 1
    assert world.budget.used == 0


async def test_a_retry_is_not_made_for_a_source_that_failed() -> None:
    world = World()
    world.fill_numbers(4)
    mapping = world.mapping(in_turn(FAILED), batch_size=1, backoff=10)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                with pytest.raises(SourceError):
                    await mapping.run()

            tasks.start_soon(run)
            await world.pass_time(1)
            source_of(mapping).fetch_faults.append(SourceError(Problem(Reason.EVENT_SOURCE_UNREACHABLE, "gone")))
            world.fill(b"wakes the fetch")
    assert invoked(mapping) == [[b"0"]]
    assert world.observer.repeated == [(world.stream.partitions[0], 0)]


async def test_a_crash_cancels_everything_at_once() -> None:
    world = World()
    world.fill_numbers(4)
    mapping = world.mapping(slow(3))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mapping.run)
        await world.pass_time(1)
        tasks.cancel_scope.cancel()
    assert (world.checkpoint(), world.permits.in_use, world.budget.used) == (0, 0, 0)
    assert function_of(mapping).running == 0
