"""What tests command of the memory source, destination and function beyond the promises that all adapters keep."""

from __future__ import annotations

import time
from collections.abc import Collection

import anyio
import pytest

from runner.model import (
    SUCCEEDED,
    ErrorKind,
    FunctionError,
    Invocation,
    Outcome,
    Partition,
    Problem,
    Reason,
    Throttled,
)
from runner.ports import CheckpointFailed, CheckpointFenced, DestinationError, SourceError
from runner.testing import MemoryDestination, MemorySource, MemoryStream, RecordingListener, ScriptedFunction
from runner.testing.destination_suite import a_letter
from runner.testing.reader import Reader


async def test_a_rebalance_revokes_then_assigns_anew() -> None:
    stream = MemoryStream(2)
    zero, one = stream.partitions
    for index in range(3):
        stream.append(0, b"k", b"%d" % index)
    source = MemorySource(stream, now=time.time, assign=[zero])

    async def checkpoint_the_first(partitions: Collection[Partition]) -> None:
        assert list(partitions) == [zero]
        assert zero not in {fetched.partition for fetched in await source.fetch()}
        await source.checkpoint({zero: 1})

    listener = RecordingListener(checkpoint_the_first)
    await source.open(listener)
    [fetched] = await source.fetch()
    assert [record.sequence for record in fetched.records] == [0, 1, 2]
    await source.rebalance([one])
    assert (listener.revocations, listener.assignments, set(source.assigned)) == ([[zero]], [[zero], [one]], {one})
    with pytest.raises(CheckpointFenced):
        await source.checkpoint({zero: 3})
    await source.rebalance([zero, one])
    [fetched] = await source.fetch()
    assert [(record.position, record.sequence) for record in fetched.records] == [(1, 0), (2, 1)]
    assert stream.history == [{zero: 0, one: 0}, {zero: 1}]


async def test_a_partition_taken_by_another_source_is_fenced() -> None:
    stream = MemoryStream()
    zombie, owner = MemorySource(stream, now=time.time), MemorySource(stream, now=time.time)
    await zombie.open(RecordingListener())
    await owner.open(RecordingListener())
    with pytest.raises(CheckpointFenced):
        await zombie.checkpoint({stream.partitions[0]: 0})
    await owner.checkpoint({stream.partitions[0]: 0})


async def test_faults_are_raised_once() -> None:
    stream = MemoryStream()
    stream.append(0, b"k", b"v")
    source = MemorySource(stream, now=time.time)
    source.fetch_faults.append(SourceError(Problem(Reason.EVENT_SOURCE_UNREACHABLE, "gone")))
    source.checkpoint_faults.append(CheckpointFailed("not now"))
    await source.open(RecordingListener())
    with pytest.raises(SourceError):
        await source.fetch()
    assert len(await source.fetch()) == 1
    with pytest.raises(CheckpointFailed):
        await source.checkpoint({stream.partitions[0]: 1})
    await source.checkpoint({stream.partitions[0]: 1})


async def test_an_outage_brings_nothing_and_stores_nothing() -> None:
    stream = MemoryStream()
    stream.append(0, b"k", b"v")
    async with Reader.of(MemorySource(stream, now=time.time)) as reader:
        stream.available = False
        await reader.read_nothing()
        with pytest.raises(CheckpointFailed):
            await reader.source.checkpoint({stream.partitions[0]: 0})
        stream.available = True
        await reader.read(1)


async def test_held_checkpoints_wait() -> None:
    stream = MemoryStream()
    source = MemorySource(stream, now=time.time)
    await source.open(RecordingListener())
    source.hold_checkpoints()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.checkpoint, {stream.partitions[0]: 5})
        await anyio.wait_all_tasks_blocked()
        assert stream.checkpoints == {stream.partitions[0]: 0}
        source.release_checkpoints()
    assert stream.checkpoints == {stream.partitions[0]: 5}


async def test_an_unreadable_record_stops_its_partition_only() -> None:
    stream = MemoryStream(2)
    zero, one = stream.partitions
    for index in range(3):
        stream.append(0, b"k", b"%d" % index)
        stream.append(1, b"k", b"%d" % index)
    stream.corrupt(0, 1)
    async with Reader.of(MemorySource(stream, now=time.time)) as reader:
        await reader.read(4)
        await reader.read_nothing()
        assert (len(reader.records[zero]), len(reader.records[one])) == (1, 3)
        stream.repair(0)
        await reader.read(2)
    assert [problem and problem.reason for _, problem in reader.listener.problems] == [
        Reason.EVENT_SOURCE_UNREADABLE,
        None,
    ]


async def test_an_append_wakes_a_waiting_fetch() -> None:
    stream = MemoryStream()
    source = MemorySource(stream, now=time.time)
    await source.open(RecordingListener())
    async with anyio.create_task_group() as tasks:

        async def fetch() -> None:
            assert [record.value for fetched in await source.fetch() for record in fetched.records] == [b"v"]

        tasks.start_soon(fetch)
        await anyio.wait_all_tasks_blocked()
        source.append(0, b"k", b"v")


async def test_a_function_answers_by_its_script_and_keeps_a_journal() -> None:
    times = iter(range(100))
    throttled = Throttled(FunctionError(ErrorKind.THROTTLED, "429", "later"))
    release = anyio.Event()

    async def wait() -> Outcome:
        await release.wait()
        return SUCCEEDED

    function = ScriptedFunction(
        lambda invocation: throttled if invocation.attempt == 1 else wait(),
        now=lambda: float(next(times)),
        overhead_bytes=5,
    )
    record = a_letter(0, b"k", b"v").record

    def invocation(attempt: int) -> Invocation:
        return Invocation(
            mapping="m", function="f", partition=record.partition, records=[record], attempt=attempt, source="s"
        )

    assert await function.invoke(invocation(1)) is throttled
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function.invoke, invocation(2))
        tasks.start_soon(function.invoke, invocation(3))
        await anyio.wait_all_tasks_blocked()
        assert function.running == 2
        release.set()
    assert [(call.started_at, call.ended_at) for call in function.calls] == [(0.0, 1.0), (2.0, 4.0), (3.0, 5.0)]
    assert [call.outcome for call in function.calls] == [throttled, SUCCEEDED, SUCCEEDED]
    assert (function.running, function.most_running) == (0, 2)
    factor, constant = function.largest_expansion
    assert function.size_of(record) <= factor * record.size + constant


async def test_a_destination_fails_letter_by_letter_and_hangs() -> None:
    destination = MemoryDestination()
    error = DestinationError("no")
    destination.faults.extend([None, error])
    letters = [a_letter(position, b"k", b"v") for position in range(3)]
    assert list(await destination.store(letters)) == [None, error, None]
    assert [letter.record.position for letter in destination.letters] == [0, 2]
    destination.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(destination.store, letters[1:2])
        await anyio.wait_all_tasks_blocked()
        assert len(destination.letters) == 2
        destination.release()
    assert len(destination.letters) == 3
