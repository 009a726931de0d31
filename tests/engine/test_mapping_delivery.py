"""What a mapping does with records: delivered, filtered, retried, given up; and what its checkpoint says of it."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

from engine_harness.scripts import THROTTLED, failing, in_turn, keys_in_lanes, naming, slow
from engine_harness.world import EPOCH, World, function_of, invoked, told_of
from runner.core.lanes import Ordering
from runner.model import Condition, MappingState, Reason, Settlement
from runner.ports import DestinationError
from runner.testing import MemoryDestination


async def test_what_is_delivered_is_checkpointed_within_the_commit_interval() -> None:
    world = World()
    world.fill_numbers(25)
    mapping = world.mapping(slow(0.1), commit_interval=1.0)
    async with world.running(mapping):
        await world.pass_time(1.0)
        assert world.checkpoint() == 25
        assert [len(batch) for batch in invoked(mapping)] == [10, 10, 5]
    assert world.stream.history[-1] == {world.stream.partitions[0]: 25}
    assert world.observer.repeated == [(world.stream.partitions[0], 0)]


async def test_the_checkpoint_passes_holes_at_the_end() -> None:
    world = World()
    world.fill_numbers(3)
    world.stream.append_hole(0, 4)
    async with world.running(world.mapping()):
        await world.pass_time(1.5)
        assert world.checkpoint() == 7


async def test_a_failing_lane_does_not_hold_up_the_others() -> None:
    world = World()
    stuck, free = keys_in_lanes([1, 2], factor=4)
    world.fill(b"poison", b"a", b"b", b"c", keys=[stuck, free, free, stuck])
    mapping = world.mapping(failing(b"poison"), ordering=Ordering.KEY, factor=4)
    async with world.running(mapping):
        await world.pass_time(5)
        assert set(world.observer.values(Settlement.DELIVERED)) == {b"a", b"b"}
        assert world.checkpoint() == 0, "the poison is the lowest unsettled record"


async def test_order_within_a_lane_is_kept_through_retries() -> None:
    world = World()
    world.fill(b"0", b"1", b"2")
    mapping = world.mapping(in_turn(*[THROTTLED] * 2), batch_size=1)
    async with world.running(mapping):
        await world.pass_time(10)
    assert [batch[0] for batch in invoked(mapping)] == [b"0", b"0", b"0", b"1", b"2"]
    starts = [call.started_at - EPOCH for call in function_of(mapping).calls]
    assert starts == pytest.approx([0, 1, 3, 3, 3], abs=1e-3)


async def test_a_lane_that_waits_for_its_retry_holds_no_permit() -> None:
    world = World(partitions=2, permits=1)
    world.fill(b"poison", partition=0)
    world.fill(b"good", partition=1)
    mapping = world.mapping(failing(b"poison"), backoff=100, maximum_backoff=100)
    async with world.running(mapping):
        await world.pass_time(1)
        assert world.permits.in_use == 0
        assert world.observer.values(Settlement.DELIVERED) == [b"good"]
        assert [at - EPOCH for _, at in world.observer.retries] == pytest.approx([50], abs=1e-3)


async def test_a_dead_letter_gates_the_checkpoint_and_only_its_lane() -> None:
    world = World()
    stuck, free = keys_in_lanes([1, 2], factor=4)
    world.fill(b"poison", b"a", b"after", keys=[stuck, free, stuck])
    destination = MemoryDestination()
    destination.hold()
    mapping = world.mapping(
        failing(b"poison"), destination=destination, ordering=Ordering.KEY, factor=4, attempts=0, batch_size=1
    )
    async with world.running(mapping):
        await world.pass_time(5)
        assert world.observer.values(Settlement.DELIVERED) == [b"a"]
        assert world.checkpoint() == 0
        assert world.permits.in_use == 0, "storing holds no permit"
        destination.release()
        await world.pass_time(2)
        assert world.checkpoint() == 3
    [letter] = destination.letters
    assert (letter.record.value, letter.condition, letter.attempts) == (
        b"poison",
        Condition.RETRY_ATTEMPTS_EXHAUSTED,
        1,
    )
    assert (letter.mapping, letter.source, letter.group) == ("orders-to-scripted", "memory://orders", "memory")
    assert world.observer.values(Settlement.DEAD_LETTERED) == [b"poison"]
    assert world.observer.values(Settlement.DELIVERED) == [b"a", b"after"]


async def test_a_destination_that_is_down_is_waited_for() -> None:
    world = World()
    world.fill(b"poison", b"good")
    destination = MemoryDestination()
    destination.available = False
    mapping = world.mapping(failing(b"poison"), destination=destination, attempts=0, batch_size=1)
    async with world.running(mapping):
        await world.pass_time(60)
        assert world.checkpoint() == 0
        assert told_of(mapping) == (MappingState.PROBLEM, Reason.DESTINATION_UNAVAILABLE)
        assert world.observer.calls["destination_failed"] > 3
        destination.available = True
        await world.pass_time(12)
        assert world.checkpoint() == 2
        assert told_of(mapping) == (MappingState.ENABLED, None)
    assert [letter.record.value for letter in destination.letters] == [b"poison"]


async def test_a_letter_that_is_stored_is_settled_while_others_of_its_batch_are_refused() -> None:
    world = World()
    world.fill(b"p0", b"p1", b"p2")
    destination = MemoryDestination()
    destination.faults.extend([None, DestinationError("no"), None])
    mapping = world.mapping(failing(b"p0"), destination=destination, attempts=0)
    async with world.running(mapping):
        await world.pass_time(0.1)
        assert world.observer.values(Settlement.DEAD_LETTERED) == [b"p0", b"p2"]
        await world.pass_time(2)
        assert world.checkpoint() == 3
    assert [letter.record.value for letter in destination.letters] == [b"p0", b"p2", b"p1"]


async def test_without_a_destination_what_is_given_up_is_dropped_and_counted() -> None:
    world = World()
    world.fill(b"poison", b"good")
    mapping = world.mapping(failing(b"poison"), attempts=1, batch_size=1)
    async with world.running(mapping):
        await world.pass_time(5)
        assert world.checkpoint() == 2
    [(letter, stored)] = world.observer.given_up_letters
    assert (letter.record.value, letter.attempts, stored) == (b"poison", 2, False)
    assert world.observer.values(Settlement.DROPPED) == [b"poison"]


async def test_bisecting_isolates_a_poison_and_delivers_the_rest() -> None:
    world = World()
    world.fill_numbers(64)
    destination = MemoryDestination()
    mapping = world.mapping(failing(b"37"), destination=destination, attempts=0, bisect=True, batch_size=64)
    async with world.running(mapping):
        await world.pass_time(5)
    assert [letter.record.value for letter in destination.letters] == [b"37"]
    assert len(world.observer.values(Settlement.DELIVERED)) == 63
    assert len(invoked(mapping)) <= 2 * 6 + 2
    assert world.checkpoint() == 64


async def test_only_the_named_records_of_an_unordered_batch_come_again() -> None:
    world = World()
    world.fill_numbers(4)
    mapping = world.mapping(naming(b"1"), ordering=Ordering.NONE, attempts=1, batch_size=4)
    async with world.running(mapping):
        await world.pass_time(5)
    assert invoked(mapping) == [[b"0", b"1", b"2", b"3"], [b"1"]]
    assert world.observer.values(Settlement.DROPPED) == [b"1"]


async def test_age_wins_over_throttling() -> None:
    world = World()
    world.fill(b"old", timestamp_ms=int(EPOCH * 1000))
    destination = MemoryDestination()
    mapping = world.mapping(lambda _: THROTTLED, destination=destination, age=10.0)
    async with world.running(mapping):
        await world.pass_time(9.9)
        assert destination.letters == []
        await world.pass_time(0.2)
        [letter] = destination.letters
        assert (letter.condition, letter.attempts) == (Condition.RECORD_AGE_EXCEEDED, 0)


async def test_refused_and_skipped_records_are_settled_at_once_and_never_invoked() -> None:
    world = World()
    world.fill(b"keep", b"refuse", None, b"keep")
    mapping = world.mapping(wants=lambda record: record.value == b"keep", skip_tombstones=True)
    async with world.running(mapping):
        await world.pass_time(1.5)
        assert world.checkpoint() == 4
    assert invoked(mapping) == [[b"keep", b"keep"]]
    counts = Counter({how: len(records) for how, records in world.observer.settled.items()})
    assert counts == {Settlement.DELIVERED: 2, Settlement.FILTERED: 1, Settlement.SKIPPED: 1}


async def test_tombstones_are_delivered_unless_skipped() -> None:
    world = World()
    world.fill(None, b"")
    mapping = world.mapping()
    async with world.running(mapping):
        await world.pass_time(0.1)
    assert invoked(mapping) == [[None, b""]]


async def test_a_window_closes_and_a_full_batch_does_not_wait_for_it() -> None:
    world = World()
    world.fill_numbers(13)
    mapping = world.mapping(window=5.0, batch_size=10)
    async with world.running(mapping):
        await world.pass_time(4.9)
        assert [len(batch) for batch in invoked(mapping)] == [10]
        await world.pass_time(0.2)
        assert [len(batch) for batch in invoked(mapping)] == [10, 3]


async def test_until_caught_up_it_ends_by_itself_and_waits_for_no_window() -> None:
    world = World(partitions=2)
    world.fill_numbers(13)
    mapping = world.mapping(
        slow(2), source=world.source(stop_at_end=True), until_caught_up=True, window=500.0, batch_size=10
    )
    with anyio.fail_after(20):
        await mapping.run()
    assert world.checkpoint() == 13
    assert len(world.observer.values(Settlement.DELIVERED)) == 13


async def test_the_last_result_is_told_in_words() -> None:
    world = World()
    world.fill(b"x")
    mapping = world.mapping(naming(b"x"), attempts=0)
    assert mapping.dispatcher.last_result == "No records processed"
    async with world.running(mapping):
        await world.pass_time(0.5)
        assert mapping.dispatcher.last_result == "PROBLEM: Function reported failed records"
        world.fill(b"y")
        await world.pass_time(0.5)
        assert mapping.dispatcher.last_result == "OK"
