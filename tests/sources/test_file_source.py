"""What is particular to files: appended and half lines, replaced and broken files, new partitions, the lock."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.clients.lines import encode_line
from runner.model import Backlog, Partition, Reason, Record
from runner.ports import CheckpointFailed, CheckpointFenced, SourceError
from runner.sources import file_reader
from runner.sources.file import FileSource
from runner.sources.starting import StartingPosition
from runner.testing import RecordingListener
from runner.testing.reader import Reader

ZERO = Partition("orders", 0)
ONE = Partition("orders", 1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    orders = tmp_path / "orders"
    orders.mkdir()
    (orders / "0.jsonl").touch()
    return orders


@pytest.fixture
def source(directory: Path) -> Callable[..., FileSource]:
    def make(**options: Any) -> FileSource:
        return FileSource(
            **{"name": "m", "directory": directory, "poll_interval": 0.01, "now": lambda: 1000.0, **options}
        )

    return make


def append(directory: Path, content: bytes, number: int = 0) -> None:
    with (directory / f"{number}.jsonl").open("ab") as file:
        file.write(content)


def replace(directory: Path, content: bytes, number: int = 0) -> None:
    other = directory / "other"
    other.write_bytes(content)
    other.replace(directory / f"{number}.jsonl")


async def test_positions_are_byte_offsets(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b"one\n\n  \r\nthree\r\n")
    async with Reader.of(source()) as reader:
        await reader.read(2)
    assert [(record.position, record.value) for record in reader.records[ZERO]] == [(0, b"one"), (9, b"three\r")]
    assert reader.next_positions[ZERO] == 16


async def test_half_a_line_is_not_there_yet(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b'one\n{"value": "tw')
    async with Reader.of(source()) as reader:
        await reader.read(1)
        await reader.read_nothing()
        assert reader.source.backlog(ZERO) == Backlog(0, 1000.0)
        append(directory, b'o"}')
        await reader.read_nothing()
        append(directory, b"\n")
        await reader.read(1)
    assert reader.values(ZERO) == [b"one", b"two"]


async def test_stop_at_end_leaves_half_a_line(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b"one\nhalf")
    async with Reader.of(source(stop_at_end=True)) as reader:
        await reader.read_until_caught_up()
    assert reader.values(ZERO) == [b"one"]


async def test_files_that_are_no_partition_are_left_alone(directory: Path, source: Callable[..., FileSource]) -> None:
    for name in ("00.jsonl", "-1.jsonl", "1.json", "dead-letters.jsonl", "1.jsonl.gz"):
        (directory / name).write_bytes(b"not ours\n")
    async with Reader.of(source(stop_at_end=True)) as reader:
        await reader.read_until_caught_up()
    assert reader.listener.assignments == [[ZERO]]


async def test_a_new_partition_is_read_from_its_start(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b"old\n")
    async with Reader.of(source(starting_position=StartingPosition.LATEST)) as reader:
        await reader.read_nothing()
        append(directory, b"first\n", 1)
        await reader.read(1)
    append(directory, b"of two\n", 2)
    async with Reader.of(source(starting_position=StartingPosition.LATEST)) as again:
        await again.read(2)
    assert reader.listener.assignments == [[ZERO], [ONE]]
    assert reader.values(ONE) == [b"first"]
    assert again.values(Partition("orders", 2)) == [b"of two"]
    assert again.values(ZERO) == []


async def test_at_timestamp_takes_a_line_without_one_to_be_as_old_as_the_file(
    directory: Path, source: Callable[..., FileSource]
) -> None:
    append(directory, b'{"value": "old", "timestamp": 1000}\nunknown\n{"value": "new", "timestamp": 9000}\n')
    append(directory, b"long ago\n", 1)
    os.utime(directory / "0.jsonl", (5, 5))
    os.utime(directory / "1.jsonl", (2, 2))
    options = {"starting_position": StartingPosition.AT_TIMESTAMP, "starting_timestamp": 4.0}
    async with Reader.of(source(**options, stop_at_end=True)) as reader:
        await reader.read_until_caught_up()
    assert reader.values(ZERO) == [b"unknown", b"new"]
    assert reader.values(ONE) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda directory: replace(directory, b"short\n"), id="truncated"),
        pytest.param(lambda directory: replace(directory, b"anew-one\nanew-two\nanew-three\n"), id="another beginning"),
        pytest.param(lambda directory: replace(directory, b"one\ntwo-longer\n"), id="no line begins there"),
        pytest.param(lambda directory: (directory / "0.jsonl").unlink(), id="gone"),
    ],
)
async def test_a_changed_file_is_data_loss_until_it_is_back(
    directory: Path, source: Callable[..., FileSource], change: Callable[[Path], object]
) -> None:
    append(directory, b"one\ntwo\n")
    async with Reader.of(source()) as reader:
        await reader.read(2)
        change(directory)
        await reader.until(lambda: bool(reader.listener.problems))
        [(_, problem)] = reader.listener.problems
        assert problem is not None
        assert problem.reason == Reason.DATA_LOSS
        assert "position 8 of orders-0" in problem.text
        replace(directory, b"one\ntwo\nthree\n")
        await reader.read(1)
        assert reader.listener.problems[1:] == [(ZERO, None)]
    assert reader.values(ZERO) == [b"one", b"two", b"three"]


async def test_under_continue_a_replaced_file_is_a_new_assignment(
    directory: Path, source: Callable[..., FileSource]
) -> None:
    append(directory, b"one\ntwo\n")
    async with Reader.of(source(on_data_loss="continue")) as reader:
        await reader.read(2)
        replace(directory, b"anew\n")
        await reader.read(1)
        await reader.source.checkpoint({ZERO: reader.next_positions[ZERO]})
    assert [(record.sequence, record.value) for record in reader.records[ZERO]] == [
        (0, b"one"),
        (1, b"two"),
        (0, b"anew"),
    ]
    assert reader.listener.revocations == [[ZERO]]
    assert reader.listener.assignments == [[ZERO], [ZERO]]
    assert reader.listener.losses == [(ZERO, 8, 0, None)]
    async with Reader.of(source(stop_at_end=True)) as again:
        await again.read_until_caught_up()
    assert again.values(ZERO) == []


async def test_a_copy_of_the_file_is_the_file(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b"one\ntwo\n")
    async with Reader.of(source()) as reader:
        await reader.read(2)
        await reader.source.checkpoint({ZERO: 8})
    replace(directory, b"one\ntwo\nthree\n")
    async with Reader.of(source()) as again:
        await again.read(1)
    assert again.values(ZERO) == [b"three"]


async def test_the_head_grows_with_the_checkpoint(directory: Path, source: Callable[..., FileSource]) -> None:
    line = b"x" * 600 + b"\n"
    for count in (0, 1, 2, 3):
        async with Reader.of(source()) as reader:
            await reader.read(count)
            await reader.source.checkpoint(dict(reader.next_positions))
        append(directory, line * (count + 1))
    stored = json.loads((directory / ".stream-runner" / "m.json").read_bytes())["partitions"]["0"]
    assert (stored["position"], stored["head"]["length"]) == (601 * 6, 1024)


async def test_a_line_too_long_stops_its_partition_only(
    directory: Path, source: Callable[..., FileSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_reader, "MAXIMUM_LINE_BYTES", 100)
    append(directory, b"fits\n" + b"x" * 100 + b"\n" + b"y" * 101 + b"\nafter\n")
    append(directory, b"other\n", 1)
    async with Reader.of(source(maximum_fetch_bytes=16)) as reader:
        await reader.read(3)
        await reader.until(lambda: bool(reader.listener.problems))
    [(partition, problem)] = reader.listener.problems
    assert problem is not None
    assert (partition, problem.reason) == (ZERO, Reason.EVENT_SOURCE_UNREADABLE)
    assert "position 106" in problem.text
    assert reader.values(ZERO) == [b"fits", b"x" * 100]
    assert reader.values(ONE) == [b"other"]


async def test_a_long_line_is_read_whole(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b"x" * 3_000_000 + b"\nshort\n")
    async with Reader.of(source(maximum_fetch_bytes=1000)) as reader:
        await reader.read(2)
    assert reader.values(ZERO) == [b"x" * 3_000_000, b"short"]


async def test_a_file_that_cannot_be_read_stops_its_partition_only(
    directory: Path, source: Callable[..., FileSource]
) -> None:
    append(directory, b"other\n", 1)
    async with Reader.of(source()) as reader:
        await reader.read(1)
        (directory / "0.jsonl").unlink()
        (directory / "0.jsonl").mkdir()
        await reader.until(lambda: bool(reader.listener.problems))
        (directory / "0.jsonl").rmdir()
        append(directory, b"back\n")
        append(directory, b"more\n", 1)
        await reader.read(2)
    reasons = [problem and problem.reason for _, problem in reader.listener.problems]
    assert reasons == [Reason.EVENT_SOURCE_UNREADABLE, None]
    assert (reader.values(ZERO), reader.values(ONE)) == ([b"back"], [b"other", b"more"])


async def test_a_fetch_is_bounded_and_the_partitions_take_turns(
    directory: Path, source: Callable[..., FileSource]
) -> None:
    for number in range(3):
        append(directory, b"".join([b"%d\n" % index for index in range(100)]), number)
    async with Reader.of(source(maximum_fetch_records=10)) as reader:
        await reader.read(300)
    assert all(len(fetched.records) <= 10 for fetched in reader.fetches)
    assert len({fetched.partition for fetched in reader.fetches[:3]}) == 3
    for number in range(3):
        assert reader.values(Partition("orders", number)) == [b"%d" % index for index in range(100)]


async def test_the_backlog_counts_lines(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b"line\n" * 25 + b"half")
    async with Reader.of(source(maximum_fetch_records=10)) as reader:
        assert reader.source.backlog(ZERO) is None
        await reader.read(10)
        assert reader.source.backlog(ZERO) == Backlog(15, 1000.0)
        append(directory, b" no more\nline\n")
        await reader.read(10)
        assert reader.source.backlog(ZERO) == Backlog(7, 1000.0)


async def test_a_long_backlog_is_unknown_until_it_is_counted(
    directory: Path, source: Callable[..., FileSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_reader, "COUNT_BYTES", 100)
    monkeypatch.setattr(file_reader, "_BLOCK_BYTES", 50)
    append(directory, b"line\n" * 50)
    async with Reader.of(source(maximum_fetch_records=10)) as reader:
        await reader.read(10)
        assert reader.source.backlog(ZERO) == Backlog(None, 1000.0)
        await reader.read(10)
        assert reader.source.backlog(ZERO) == Backlog(30, 1000.0)


async def test_a_second_runner_is_refused(source: Callable[..., FileSource]) -> None:
    async with Reader.of(source()):
        second = source()
        with pytest.raises(SourceError) as raised:
            await second.open(RecordingListener())
        await second.close()
    assert raised.value.problem.reason == Reason.DUPLICATE_MEMBER
    assert f"process {os.getpid()}" in raised.value.problem.text
    assert raised.value.problem.hint
    async with Reader.of(source()) as third:
        assert third.source.joined


async def test_mappings_of_one_directory_are_apart(directory: Path, source: Callable[..., FileSource]) -> None:
    append(directory, b"one\n")
    async with Reader.of(source(name="a")) as first, Reader.of(source(name="b/../../c")) as second:
        await first.read(1)
        await second.read(1)
    assert {path.name for path in (directory / ".stream-runner").glob("*.json")} == {"a.json", "b%2F..%2F..%2Fc.json"}


async def test_a_missing_directory_is_named_with_a_guess(tmp_path: Path, directory: Path) -> None:
    source = FileSource(name="m", directory=tmp_path / "order", now=time.time)
    with pytest.raises(SourceError) as raised:
        await source.open(RecordingListener())
    assert raised.value.problem.reason == Reason.EVENT_SOURCE_NOT_FOUND
    assert f"did you mean {directory}?" in raised.value.problem.hint
    source = FileSource(name="m", directory=tmp_path / "nowhere" / "at-all", now=time.time)
    with pytest.raises(SourceError, match="create it"):
        await source.open(RecordingListener())


async def test_a_directory_whose_only_lines_are_misnamed_is_refused(
    directory: Path, source: Callable[..., FileSource]
) -> None:
    (directory / "0.jsonl").rename(directory / "orders.jsonl")
    with pytest.raises(SourceError, match=r"but orders\.jsonl"):
        await source().open(RecordingListener())


async def test_a_directory_that_goes_away_closes_the_mapping(
    tmp_path: Path, directory: Path, source: Callable[..., FileSource]
) -> None:
    async with Reader.of(source(checkpoint_file=tmp_path / "c.json")) as reader:
        shutil.move(directory, tmp_path / "elsewhere")
        with pytest.raises(SourceError, match="there is no directory"):
            await reader.read(1)


async def test_unreadable_checkpoints_are_a_problem_and_are_kept(
    tmp_path: Path, source: Callable[..., FileSource]
) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(b'{"partitions": {"0": 5')
    for _ in range(2):
        with pytest.raises(SourceError) as raised:
            await source(checkpoint_file=path).open(RecordingListener())
        assert raised.value.problem.reason == Reason.EVENT_SOURCE_UNREADABLE
    assert path.read_bytes() == b'{"partitions": {"0": 5'


async def test_checkpoints_that_cannot_be_kept_are_a_problem(tmp_path: Path, source: Callable[..., FileSource]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError) as raised:
        await source(checkpoint_file=tmp_path / "file" / "c.json").open(RecordingListener())
    assert "checkpoint_file" in raised.value.problem.hint


async def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, directory: Path, source: Callable[..., FileSource]
) -> None:
    path = tmp_path / "c.json"
    append(directory, b"one\ntwo\n")
    async with Reader.of(source(checkpoint_file=path)) as reader:
        await reader.read(2)
        await reader.source.checkpoint({ZERO: 4})
        (tmp_path / "c.json.tmp").mkdir()
        with pytest.raises(CheckpointFailed):
            await reader.source.checkpoint({ZERO: 8})
        assert json.loads(path.read_bytes())["partitions"]["0"]["position"] == 4
        (tmp_path / "c.json.tmp").rmdir()
        await reader.source.checkpoint({ZERO: 8})
    assert json.loads(path.read_bytes())["partitions"]["0"]["position"] == 8


async def test_a_checkpoint_of_what_is_not_ours_is_fenced(source: Callable[..., FileSource]) -> None:
    async with Reader.of(source()) as reader:
        with pytest.raises(CheckpointFenced):
            await reader.source.checkpoint({ONE: 0})
    with pytest.raises(CheckpointFenced):
        await reader.source.checkpoint({ZERO: 0})


async def test_the_envelope_of_a_record_comes_back(directory: Path, source: Callable[..., FileSource]) -> None:
    record = Record(ZERO, 0, b"\xff", None, (("a", b"\xfe"), ("a", None)), 5, 0, 0)
    append(directory, encode_line(record))
    async with Reader.of(source()) as reader:
        await reader.read(1)
    [seen] = reader.records[ZERO]
    assert (seen.key, seen.value, seen.headers, seen.timestamp_ms) == (b"\xff", None, record.headers, 5)
