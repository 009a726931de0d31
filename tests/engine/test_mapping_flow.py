"""A partition pauses at its marks, says why, and goes on."""

from __future__ import annotations

import anyio
import pytest

from engine_harness.observing import RecordingObserver
from engine_harness.scripts import FAILED, THROTTLED, failing, hanging_on, keys_in_lanes, slow
from engine_harness.world import EPOCH, World, function_of, invoked, source_of, told_of
from runner.core.lanes import Ordering
from runner.model import SUCCEEDED, Invocation, MappingState, Outcome, Reason, Settlement
from runner.ports import DestinationError
from runner.testing import MemoryDestination


async def test_it_pauses_at_the_records_mark_and_resumes_at_half() -> None:
    world = World()
    world.fill_numbers(40)
    source = world.source(maximum_fetch_records=10)
    mapping = world.mapping(slow(1), source=source, batch_size=5, records=20)
    async with world.running(mapping):
        await world.pass_time(0.1)
        assert list(source.paused) == world.stream.partitions
        assert world.observer.pauses == [("buffer_records", "lane 0 waits for the function")]
        await world.pass_time(1)
        assert source.paused, "15 are left"
        assert world.observer.calls["resumed"] == 0
        await world.pass_time(1)
        assert world.observer.calls["resumed"] == 1, "10 were left, and 10 more have come since"
        await world.pass_time(10)
        assert world.checkpoint() == 40


async def test_it_pauses_at_the_bytes_mark() -> None:
    world = World()
    world.fill(*[b"x" * 99] * 10)
    mapping = world.mapping(slow(1), size=1_000)
    async with world.running(mapping):
        await world.pass_time(0.1)
        assert world.observer.pauses == [("buffer_bytes", "lane 0 waits for a permit")]
        await world.pass_time(1)
        assert world.observer.calls["resumed"] == 1


async def test_a_poison_delays_only_its_lane_until_too_much_is_settled_beyond_it() -> None:
    world = World()
    stuck, free = keys_in_lanes([1, 3], factor=4)
    world.fill(b"poison", key=stuck)
    source = world.source(maximum_fetch_records=10)
    mapping = world.mapping(
        failing(b"poison"),
        source=source,
        ordering=Ordering.KEY,
        factor=4,
        records=20,
        ahead=30,
        backoff=100,
        maximum_backoff=100,
    )
    async with world.running(mapping):
        world.fill_numbers(100, key=free)
        await world.pass_time(5)
        assert world.observer.pauses[-1] == ("maximum_ahead", "lane 1 waits for its next attempt")
        [worker] = mapping.workers.values()
        assert worker.tracker.ahead_records == 30, "and not one more"
        assert worker.tracker.unsettled_records <= 20 + 10
        assert source.paused


async def test_the_records_of_the_blocked_lane_do_not_hide_that_it_is_the_limit() -> None:
    world = World()
    stuck, free = keys_in_lanes([1, 3], factor=4)
    for _ in range(25):
        world.fill(b"poison", key=stuck)
        world.fill_numbers(1, key=free)
    mapping = world.mapping(
        failing(b"poison"),
        source=world.source(maximum_fetch_records=10),
        ordering=Ordering.KEY,
        factor=4,
        records=30,
        ahead=20,
        backoff=100,
        maximum_backoff=100,
    )
    async with world.running(mapping):
        await world.pass_time(5)
        assert world.observer.pauses[-1] == ("maximum_ahead", "lane 1 waits for its next attempt")
        [worker] = mapping.workers.values()
        assert worker.tracker.ahead_records == 10, "the other half of what may be ahead is its own"


async def test_what_was_held_back_goes_on_when_the_poison_is_gone() -> None:
    world = World()
    stuck, free = keys_in_lanes([1, 3], factor=4)
    world.fill(b"poison", key=stuck)
    world.fill_numbers(100, key=free)
    heals_at = EPOCH + 50
    mapping = world.mapping(
        lambda call: FAILED if world.clock.now() < heals_at and call.records[0].value == b"poison" else SUCCEEDED,
        ordering=Ordering.KEY,
        factor=4,
        ahead=30,
        backoff=10,
        maximum_backoff=10,
    )
    async with world.running(mapping):
        await world.pass_time(40)
        assert len(world.observer.values(Settlement.DELIVERED)) == 30
        await world.pass_time(30)
        assert len(world.observer.values(Settlement.DELIVERED)) == 101


async def test_what_is_held_back_is_left_to_the_next_owner() -> None:
    world = World()
    stuck, free = keys_in_lanes([1, 3], factor=4)
    world.fill(b"poison", key=stuck)
    world.fill_numbers(100, key=free)
    mapping = world.mapping(
        failing(b"poison"), ordering=Ordering.KEY, factor=4, ahead=30, backoff=100, maximum_backoff=100, drain_timeout=5
    )
    async with world.running(mapping):
        await world.pass_time(5)
        started = world.clock.now()
    assert world.clock.now() - started < 1, "there is nothing to wait for"
    assert world.observer.repeated == [(world.stream.partitions[0], 30)]


async def test_a_pause_makes_every_waiting_batch_due() -> None:
    world = World()
    world.fill_numbers(20)
    mapping = world.mapping(window=300, batch_size=100, records=20)
    async with world.running(mapping):
        await world.pass_time(0.1)
        assert [len(batch) for batch in invoked(mapping)] == [20]
        assert world.observer.calls["resumed"] == 1


async def test_a_lane_that_stores_a_dead_letter_is_named_as_the_one_that_blocks() -> None:
    world = World()
    stuck, free = keys_in_lanes([2, 3], factor=4)
    world.fill(b"poison", key=stuck)
    destination = MemoryDestination()
    destination.hold()
    mapping = world.mapping(
        failing(b"poison"), destination=destination, ordering=Ordering.KEY, factor=4, ahead=10, attempts=0
    )
    async with world.running(mapping):
        world.fill_numbers(10, key=free)
        await world.pass_time(0.1)
        assert world.observer.pauses == [("maximum_ahead", "lane 2 waits for the destination")]
        destination.release()
        await world.pass_time(0.1)
        assert world.observer.calls["resumed"] == 1


@pytest.mark.parametrize("outcome", [FAILED, THROTTLED])
async def test_it_resumes_when_what_it_waited_for_expires_and_is_dropped(outcome: Outcome) -> None:
    """No invocation comes back then that would say so."""
    world = World()
    world.fill(*[b"x"] * 20, timestamp_ms=int(EPOCH * 1000))
    mapping = world.mapping(lambda _: outcome, batch_size=20, records=20, age=10, backoff=100, maximum_backoff=100)
    async with world.running(mapping):
        await world.pass_time(0.5)
        assert source_of(mapping).paused
        await world.pass_time(10)
        assert len(world.observer.settled[Settlement.DROPPED]) == 20
        assert not source_of(mapping).paused
        world.fill(b"next", timestamp_ms=int(EPOCH * 1000) + 10_000)
        await world.pass_time(1)
        assert invoked(mapping)[-1] == [b"next"]


async def test_it_resumes_when_batches_expire_before_they_get_a_permit() -> None:
    world = World(permits=1)
    world.permits.join("hog")
    assert world.permits.try_take("hog", lambda: None)
    world.fill(*[b"x"] * 20, timestamp_ms=int(EPOCH * 1000))
    mapping = world.mapping(batch_size=20, records=20, age=10)
    async with world.running(mapping):
        await world.pass_time(12)
        assert source_of(mapping).paused
        world.permits.give_back("hog")
        world.permits.wake()
        await world.pass_time(0.1)
        assert len(world.observer.settled[Settlement.DROPPED]) == 20
        assert not source_of(mapping).paused
        assert invoked(mapping) == []


async def test_the_byte_budget_of_the_process_is_shared_and_starves_nobody() -> None:
    world = World(partitions=2, budget=3_000)
    world.fill(*[b"stuck" * 30] * 20, partition=0)
    source = world.source(maximum_fetch_records=5)
    mapping = world.mapping(hanging_on(b"stuck" * 30), source=source, batch_size=5, drain_timeout=1)
    async with world.running(mapping):
        await world.pass_time(0.5)
        assert world.observer.pauses == [("process_buffer", "lane 0 waits for the function")]
        assert 3_000 <= world.budget.used <= 6_000
        for _ in range(3):
            world.fill(b"goes on", partition=1)
            await world.pass_time(1.1)
        assert world.observer.values(Settlement.DELIVERED) == [b"goes on"] * 3
    assert world.budget.used == 0


@pytest.mark.parametrize("stuck_with", ["the function", "the destination"])
async def test_it_resumes_when_another_mapping_frees_the_byte_budget(stuck_with: str) -> None:
    """With a lane that stays stuck, so that nothing more happens in the partition that could say so."""
    world = World(budget=6_000)
    stuck, free = keys_in_lanes([1, 3], factor=4)
    world.fill(b"poison", key=stuck)
    destination = MemoryDestination()
    destination.available = False
    waiting = world.mapping(
        hanging_on(b"poison") if stuck_with == "the function" else failing(b"poison"),
        destination=destination,
        ordering=Ordering.KEY,
        factor=4,
        attempts=0,
        drain_timeout=1,
    )
    source, recovers = world.another_source(*[b"x" * 300] * 10), anyio.Event()

    async def answer(_invocation: Invocation) -> Outcome:
        await recovers.wait()
        return SUCCEEDED

    filling = world.mapping(answer, name="filling", source=source, observer=RecordingObserver())
    async with world.running(waiting, filling):
        world.fill(b"fetched into the full budget", key=free)
        await world.pass_time(1.5)
        assert world.observer.pauses == [("process_buffer", f"lane 1 waits for {stuck_with}")]
        world.fill_numbers(3, key=free)
        await world.pass_time(5)
        assert world.observer.calls["resumed"] == 0, "the budget is full"
        recovers.set()
        await world.pass_time(2)
        assert not filling.workers[source.stream.partitions[0]].tracker.unsettled_records
        assert world.observer.calls["resumed"] == 1
        assert world.observer.values(Settlement.DELIVERED)[-3:] == [b"0", b"1", b"2"]
        [worker] = waiting.workers.values()
        assert worker.tracker.unsettled_records == 1


async def test_it_resumes_when_a_reload_raises_the_byte_budget() -> None:
    world = World(budget=100)
    world.fill(b"poison")
    mapping = world.mapping(hanging_on(b"poison"), drain_timeout=1)
    async with world.running(mapping):
        await world.pass_time(5)
        assert source_of(mapping).paused
        world.budget.limit = 10_000
        await world.pass_time(1)
        assert not source_of(mapping).paused


async def test_throttling_pauses_at_full_buffers_and_uses_up_nothing() -> None:
    world = World()
    until = 60.0
    mapping = world.mapping(
        lambda _: THROTTLED if world.clock.now() < EPOCH + until else SUCCEEDED,
        attempts=0,
        records=10,
        maximum_backoff=5,
        source=world.source(maximum_fetch_records=10),
    )
    async with world.running(mapping):
        world.fill_numbers(50)
        await world.pass_time(until - 1)
        [worker] = mapping.workers.values()
        assert worker.tracker.fetched_records == 10
        await world.pass_time(20)
        assert world.checkpoint() == 50
    assert world.observer.given_up_letters == []
    assert all(call.invocation.attempt == 1 for call in function_of(mapping).calls)


async def test_memory_stays_flat_under_a_hung_function() -> None:
    world = World()
    source = world.source(maximum_fetch_records=50)
    mapping = world.mapping(hanging_on(b"0"), source=source, records=100, drain_timeout=1)
    async with world.running(mapping):
        world.fill_numbers(5_000)
        await world.pass_time(100)
        [worker] = mapping.workers.values()
        assert worker.tracker.unsettled_records == 100


async def test_a_partition_that_cannot_be_read_is_a_problem_and_the_others_go_on() -> None:
    world = World(partitions=2)
    zero, one = world.stream.partitions
    world.fill_numbers(2, partition=0)
    world.fill_numbers(2, partition=1)
    world.stream.corrupt(0, 1)
    mapping = world.mapping()
    async with world.running(mapping):
        await world.pass_time(2.5)
        assert world.stream.checkpoints == {zero: 1, one: 2}
        assert told_of(mapping) == (MappingState.PROBLEM, Reason.EVENT_SOURCE_UNREADABLE)
        world.stream.repair(0)
        await world.pass_time(2.5)
        assert world.stream.checkpoints == {zero: 2, one: 2}
        assert told_of(mapping) == (MappingState.ENABLED, None)
    assert [state for state, _ in world.observer.states] == [MappingState.PROBLEM, MappingState.ENABLED]


async def test_a_mapping_without_a_partition_is_idle() -> None:
    world = World()
    mapping = world.mapping(source=world.source(assign=()))
    assert told_of(mapping) == (MappingState.CREATING, None)
    async with world.running(mapping):
        await world.pass_time(1)
        assert told_of(mapping) == (MappingState.IDLE, None)
        mapping.stop()
        assert told_of(mapping) == (MappingState.DISABLING, None)


async def test_the_lag_is_the_age_of_the_oldest_unsettled_record_in_every_state() -> None:
    world = World()
    world.fill(b"poison", timestamp_ms=int(EPOCH * 1000))
    destination = MemoryDestination()
    destination.hold()

    async def script(_invocation: Invocation) -> Outcome:
        await anyio.sleep(10)
        return FAILED

    mapping = world.mapping(script, destination=destination, attempts=1, window=5)
    async with world.running(mapping):
        [worker] = mapping.workers.values()
        for seconds in (3, 8, 15, 30):  # gathering, running, waiting, storing
            await world.pass_time(EPOCH + seconds - world.clock.now())
            lag = worker.lag_seconds(world.clock.now(), source_of(mapping).backlog(worker.partition))
            assert lag == pytest.approx(seconds, abs=0.01)
        assert {lane.state.value for lane in worker.lanes.values()} <= {"the destination", "more records"}
        destination.release()
        await world.pass_time(3)
        assert worker.lag_seconds(world.clock.now(), source_of(mapping).backlog(worker.partition)) == 0


async def test_a_lane_whose_dead_letters_are_stored_in_part_is_still_named() -> None:
    world = World()
    stuck, free = keys_in_lanes([2, 3], factor=4)
    world.fill(b"p0", b"p1", key=stuck)
    destination = MemoryDestination()
    destination.faults.extend([None, *[DestinationError("no")] * 20])
    mapping = world.mapping(
        failing(b"p0"), destination=destination, ordering=Ordering.KEY, factor=4, ahead=10, attempts=0
    )
    async with world.running(mapping):
        world.fill_numbers(10, key=free)
        await world.pass_time(1)
        assert world.observer.pauses == [("maximum_ahead", "lane 2 waits for the destination")]
        [worker] = mapping.workers.values()
        assert worker.tracker.checkpoint == 1
        destination.faults.clear()
