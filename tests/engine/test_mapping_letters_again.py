"""Dead letters whose records come again after their partition was lost: each is stored once."""

from __future__ import annotations

import gc

import msgspec
import pytest

from engine_harness.scripts import failing
from engine_harness.world import World, invoked, source_of
from runner.engine import stored
from runner.engine.mapping import Mapping
from runner.model import Settlement
from runner.ports import CheckpointFenced, DestinationError
from runner.testing import MemoryDestination


async def test_a_letter_stored_before_its_checkpoint_was_refused_is_not_stored_again() -> None:
    world = World()
    world.fill(b"poison", b"good")
    destination = MemoryDestination()
    mapping = _dead_lettering(world, destination)
    async with world.running(mapping):
        await _lose_what_is_not_checkpointed(world, mapping)
        await world.pass_time(3)
        assert world.checkpoint() == 2
    assert _stored(destination) == [b"poison"]
    assert invoked(mapping).count([b"poison"]) == 2
    assert world.observer.values(Settlement.DEAD_LETTERED) == [b"poison", b"poison"]


async def test_another_record_at_the_place_of_a_stored_letter_is_not_taken_for_it() -> None:
    world = World()
    world.fill(b"poison")
    destination = MemoryDestination()
    mapping = _dead_lettering(world, destination)
    async with world.running(mapping):
        await world.pass_time(1)
        (worker,) = mapping.workers.values()
        record = destination.letters[0].record
        letters = stored.StoredLetters()
        letters.add(record, worker)
        assert record in letters
        assert msgspec.structs.replace(record, value=b"another") not in letters
        assert msgspec.structs.replace(record, key=b"another") not in letters


class ForgetfulDestination(MemoryDestination):
    """Holds each letter once, and may lose it, as a server does whose replica is promoted."""

    @property
    def stores_once(self) -> bool:
        return True


async def test_a_letter_that_its_destination_has_lost_is_stored_again_where_that_looks_itself() -> None:
    world = World()
    world.fill(b"poison", b"good")
    destination = ForgetfulDestination()
    mapping = _dead_lettering(world, destination)
    async with world.running(mapping):
        await _lose_what_is_not_checkpointed(world, mapping)
        destination.letters.clear()
        await world.pass_time(3)
        assert world.checkpoint() == 2
    assert _stored(destination) == [b"poison"]


async def test_a_letter_under_way_when_its_partition_is_lost_is_not_stored_again() -> None:
    world = World()
    world.fill(b"poison", b"good")
    destination = MemoryDestination()
    destination.hold()
    mapping = _dead_lettering(world, destination)
    async with world.running(mapping):
        await world.pass_time(0.5)
        await _lose_and_regain(mapping)
        await world.pass_time(0.5)
        assert invoked(mapping).count([b"poison"]) == 2
        destination.release()
        await world.pass_time(3)
        assert world.checkpoint() == 2
    assert _stored(destination) == [b"poison"]


async def test_of_a_batch_only_the_letters_that_are_not_stored_yet_are_stored() -> None:
    world = World()
    world.fill(b"first", b"second")
    destination = MemoryDestination()
    destination.faults.extend([None, *[DestinationError("no")] * 20])
    mapping = world.mapping(failing(b"first"), destination=destination, attempts=0, drain_timeout=0.1)
    async with world.running(mapping):
        await _lose_what_is_not_checkpointed(world, mapping)
        destination.faults.clear()
        await world.pass_time(3)
        assert world.checkpoint() == 2
    assert _stored(destination) == [b"first", b"second"]


async def test_a_letter_is_stored_again_when_its_record_is_replayed_from_before_the_checkpoint() -> None:
    world = World()
    world.fill(b"poison", b"good")
    destination = MemoryDestination()
    mapping = _dead_lettering(world, destination)
    async with world.running(mapping):
        await world.pass_time(1.5)
        assert world.checkpoint() == 2
        world.fill(b"poison")
        await world.pass_time(1.5)
        await source_of(mapping).rebalance([])
        gc.collect()
        world.stream.checkpoints[world.stream.partitions[0]] = 0
        await source_of(mapping).rebalance(world.stream.partitions)
        await world.pass_time(3)
    assert [letter.record.position for letter in destination.letters] == [0, 2, 0, 2]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MOST_REMEMBERED", 1)
    world = World()
    world.fill(b"first", b"second")
    destination = MemoryDestination()
    mapping = world.mapping(failing(b"first", b"second"), destination=destination, attempts=0, batch_size=1)
    async with world.running(mapping):
        await _lose_what_is_not_checkpointed(world, mapping)
        await world.pass_time(3)
        assert world.checkpoint() == 2
    assert _stored(destination) == [b"first", b"second", b"first", b"second"]


def _dead_lettering(world: World, destination: MemoryDestination) -> Mapping:
    return world.mapping(failing(b"poison"), destination=destination, attempts=0, batch_size=1, drain_timeout=0.1)


async def _lose_what_is_not_checkpointed(world: World, mapping: Mapping) -> None:
    """The first checkpoint is refused, since another owner had the partition meanwhile; then it is ours again."""
    source_of(mapping).checkpoint_faults.append(CheckpointFenced("another owner"))
    await world.pass_time(1.5)
    assert world.checkpoint() == 0
    await _lose_and_regain(mapping)


async def _lose_and_regain(mapping: Mapping) -> None:
    source = source_of(mapping)
    partitions = source.stream.partitions
    await source.rebalance([])
    await source.rebalance(partitions)


def _stored(destination: MemoryDestination) -> list[bytes | None]:
    return [letter.record.value for letter in destination.letters]
