"""Records that may have ended the processes that tried them, and records that became another consumer's."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest

from engine_harness.keeping import KeepingSource
from engine_harness.scripts import THROTTLED, failing, in_turn, slow
from engine_harness.world import World
from runner.core.lanes import Ordering
from runner.model import SUCCEEDED, Invocation, Outcome, Partition, Position, Settlement
from runner.ports import CheckpointFailed, CheckpointFenced
from runner.testing import MemoryDestination


async def test_only_what_is_tried_is_charged_and_before_it_is_tried() -> None:
    world = World()
    world.fill(b"killer", b"good", b"good")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.suspects = [0, 1, 2]
    begun = anyio.Event()

    async def never_returns(_: Invocation) -> Outcome:
        begun.set()
        await anyio.sleep_forever()
        return SUCCEEDED

    mapping = world.mapping(never_returns, source=source, batch_size=3, drain_timeout=1)
    async with world.running(mapping):
        await begun.wait()
        assert source.charges == [(0, 1)]


async def test_suspects_are_tried_one_at_a_time_whatever_their_lanes() -> None:
    world = World()
    world.fill(*[b"%d" % number for number in range(6)])
    source = KeepingSource(world.stream, now=world.clock.now)
    source.suspects = [0, 2, 3, 5]
    running: set[bytes | None] = set()
    together: list[set[bytes | None]] = []

    async def note(call: Invocation) -> Outcome:
        value = call.records[0].value
        running.add(value)
        together.append(set(running))
        await anyio.sleep(1)
        running.discard(value)
        return SUCCEEDED

    mapping = world.mapping(note, source=source, batch_size=1, ordering=Ordering.NONE, factor=6)
    async with world.running(mapping):
        await world.pass_time(10)
    assert len(together) == 6
    assert all(len(values & {b"0", b"2", b"3", b"5"}) <= 1 for values in together)
    assert any(len(values) > 1 for values in together), "others are not held up"


async def test_a_suspect_that_was_not_tried_is_not_charged() -> None:
    world = World()
    world.fill(b"suspect")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.suspects, source.carried = [0], {0: 2}
    mapping = world.mapping(in_turn(THROTTLED, THROTTLED), source=source, attempts=9)
    kept: list[int] = []
    async with world.running(mapping):
        with anyio.fail_after(100):
            while not source.told_settled:
                kept += source.kept.values()
                await world.pass_time(0.1)
    assert [attempt for _, attempt in source.charges] == [3, 3, 3]
    assert 2 in kept, "set back while it waits"


async def test_a_suspect_that_is_cancelled_is_not_charged() -> None:
    world = World()
    world.fill(b"suspect")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.suspects = [0]
    mapping = world.mapping(slow(1_000), source=source, drain_timeout=1)
    async with world.running(mapping):
        await world.pass_time(2)
        assert list(source.kept.values()) == [1]
    assert list(source.kept.values()) == [0]


async def test_an_attempt_that_may_have_been_kept_is_taken_back_when_it_is_not_made() -> None:
    world = World()
    world.fill(b"suspect")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.suspects, source.carried = [0], {0: 1}
    source.failure = CheckpointFailed("no answer")
    mapping = world.mapping(slow(1_000), source=source, attempts=9, maximum_backoff=1)
    async with world.running(mapping):
        await world.pass_time(2)
        assert source.kept == {0: 1}


async def test_an_attempt_is_taken_back_when_it_is_cut_off_while_it_is_kept() -> None:
    world = World()
    world.fill(b"suspect")
    source = SlowToKeep(world.stream, now=world.clock.now)
    source.suspects = [0]
    mapping = world.mapping(slow(1_000), source=source, drain_timeout=1)
    async with world.running(mapping):
        await world.pass_time(2)
        assert source.kept == {}
    assert source.kept == {0: 0}


class SlowToKeep(KeepingSource):
    async def charge(self, partition: Partition, attempts: Mapping[Position, int]) -> None:
        await anyio.sleep_forever()


@pytest.mark.parametrize("failure", [CheckpointFailed("full"), CheckpointFenced("another's")])
async def test_a_suspect_whose_attempt_cannot_be_kept_is_not_tried(failure: Exception) -> None:
    world = World()
    world.fill(b"suspect", b"good")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.suspects = [0]
    source.failure = failure
    calls: list[bytes | None] = []

    def note(call: Invocation) -> Outcome:
        calls.extend(record.value for record in call.records)
        return SUCCEEDED

    mapping = world.mapping(note, source=source, batch_size=1, maximum_backoff=1)
    async with world.running(mapping):
        await world.pass_time(20)
        assert calls == []
        source.failure = None
        await world.pass_time(20)
        assert calls == [b"suspect", b"good"]


async def test_a_dead_letter_is_stored_only_of_what_is_still_ours() -> None:
    world = World()
    world.fill(b"first", b"second", b"third")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.taken = [1]
    destination = MemoryDestination()
    mapping = world.mapping(
        failing(b"first", b"second", b"third"), source=source, destination=destination, attempts=0, batch_size=3
    )
    async with world.running(mapping):
        await world.pass_time(5)
        assert world.checkpoint() == 3, "what is another's holds nothing up"
    assert [letter.record.value for letter in destination.letters] == [b"first", b"third"]
    assert source.told_settled == [0, 2]
    assert world.observer.values(Settlement.DEAD_LETTERED) == [b"first", b"third"]
    assert world.observer.stale == 1


async def test_a_dead_letter_waits_while_nobody_knows_whose_its_record_is() -> None:
    world = World()
    world.fill(b"poison")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.failure = CheckpointFailed("no answer")
    destination = MemoryDestination()
    mapping = world.mapping(failing(b"poison"), source=source, destination=destination, attempts=0)
    async with world.running(mapping):
        await world.pass_time(20)
        assert destination.letters == []
        assert mapping.problem is not None
        assert "no answer" in mapping.problem.text
        source.failure = None
        await world.pass_time(20)
        assert len(destination.letters) == 1
        assert mapping.problem is None


async def test_suspects_of_all_mappings_of_a_process_are_tried_one_at_a_time() -> None:
    world = World(partitions=1)
    world.fill(b"one")
    alone = anyio.Lock()
    running, most = 0, 0

    async def note(call: Invocation) -> Outcome:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1
        return SUCCEEDED

    mappings = []
    for _ in range(2):
        source = KeepingSource(world.stream, now=world.clock.now)
        source.suspects = [0]
        mappings.append((source, world.mapping(note, source=source, alone=alone)))
    async with world.running(mappings[0][1]), world.running(mappings[1][1]):
        await world.pass_time(5)
        assert all(source.told_settled for source, _ in mappings)
    assert most == 1
