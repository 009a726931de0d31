"""What a source kept of earlier deliveries reaches the batches, and what they cost reaches the source."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core_strategies import records_of
from engine_harness.keeping import KeepingSource
from engine_harness.scripts import failing
from engine_harness.world import World
from runner.core.lanes import Ordering
from runner.engine.carried import Carried
from runner.model import Fetched, Invocation, Outcome, Partition, Position, Record, Settlement
from runner.testing import MemoryDestination

PLACE = Partition("stream", 0)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 5))
def test_a_suspect_is_in_a_batch_of_its_own(suspected: list[bool], size: int) -> None:
    records = records_of(len(suspected))
    carried = Carried()
    suspects = {record.sequence for record, is_suspect in zip(records, suspected, strict=True) if is_suspect}
    carried.note(Fetched(PLACE, records, 99, 0, dict.fromkeys(suspects, 7), suspects))
    batches: list[list[Record]] = []
    while records:
        end = carried.before(records[0].sequence, records[0].sequence + size)
        batch = [record for record in records if record.sequence < end]
        assert batch
        assert carried.take(batch) == {each.sequence: 7 for each in batch if each.sequence in suspects}
        batches.append(batch)
        records = records[len(batch) :]
    for batch in batches:
        assert len(batch) == 1 or not suspects & {record.sequence for record in batch}
        assert len(batch) <= size
    assert not carried


async def test_attempts_go_to_the_source_and_come_from_it() -> None:
    world = World()
    world.fill(b"good", b"poison", b"good")
    source = KeepingSource(world.stream, now=world.clock.now)
    source.carried, source.suspects = {1: 2}, [1]
    calls: list[tuple[list[Position], int]] = []

    def script(call: Invocation) -> Outcome:
        calls.append(([record.position for record in call.records], call.attempt))
        return failing(b"poison")(call)

    mapping = world.mapping(script, source=source, destination=MemoryDestination(), attempts=3, batch_size=3)
    async with world.running(mapping):
        await world.pass_time(60)
    positions = [position for call, _ in calls for position in call]
    assert calls[1:3] == [([positions[1]], 3), ([positions[1]], 4)], "alone, and two attempts were made before"
    assert source.kept == {positions[1]: 4}
    assert sorted(source.told_settled, key=positions.index) == list(dict.fromkeys(positions))
    assert len(world.observer.values(Settlement.DEAD_LETTERED)) == 1
    assert world.observer.repeated == [(world.stream.partitions[0], 0)]


async def test_what_is_acknowledged_by_itself_does_not_come_again() -> None:
    world = World()
    world.fill(b"poison", b"good", b"good")
    source = KeepingSource(world.stream, now=world.clock.now)
    mapping = world.mapping(
        failing(b"poison"),
        source=source,
        ordering=Ordering.NONE,
        factor=3,
        batch_size=1,
        backoff=100,
        maximum_backoff=100,
        drain_timeout=1,
    )
    async with world.running(mapping):
        await world.pass_time(5)
        assert len(source.told_settled) == 2
    assert world.observer.repeated == [(world.stream.partitions[0], 0)], "they are done with, though not the first"
