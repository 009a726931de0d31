"""What every source promises, as tests: subclass ``SourceConformance`` and give it a ``harness`` fixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import anyio

from runner.model import NO_TIMESTAMP, Headers, Partition, Position, Reason
from runner.ports import Source
from runner.sources.starting import StartingPosition
from runner.testing.reader import Reader

EMPTY_FETCH_LIMIT = 3.0
"""Seconds within which a fetch must come back with nothing: "about a second", on a busy machine."""


class SourceHarness(Protocol):
    """What the suite needs of one adapter. Every test gets a new one, whose stream is empty and without checkpoints."""

    @property
    def partitions(self) -> Sequence[Partition]:
        """The stream's partitions, at least two."""
        ...

    @property
    def has_null_headers(self) -> bool:
        """Whether a header may have no value at all."""
        ...

    def make_source(
        self,
        *,
        starting_position: StartingPosition = StartingPosition.TRIM_HORIZON,
        starting_timestamp: float | None = None,
        on_data_loss: Literal["fail", "continue"] = "fail",
        stop_at_end: bool = False,
    ) -> Source:
        """A source of the same mapping, unopened. The suite closes one before it opens the next."""
        ...

    async def append(
        self,
        partition: Partition,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> None:
        """Append a record durably at the partition's end; readable when this returns."""
        ...

    async def append_hole(self, partition: Partition) -> None:
        """Append what holds no record and has positions all the same: a transaction marker, a blank line."""
        ...

    async def committed(self, partition: Partition) -> Position | None:
        """The stored checkpoint as seen from outside; None when there is none."""
        ...

    async def lose_prefix(self, partition: Partition, records: int) -> None:
        """Take away the partition's first ``records`` records; those behind them stay."""
        ...


class SourceConformance:
    """The port's promises. Methods are tests of pytest with anyio's plugin."""

    async def test_records_come_in_order_with_a_dense_sequence(self, harness: SourceHarness) -> None:
        first, second = harness.partitions[:2]
        for index in range(25):
            await harness.append(first, b"k", b"first-%d" % index)
            await harness.append(second, b"k", b"second-%d" % index)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(50)
        assert reader.values(first) == [b"first-%d" % index for index in range(25)]
        assert reader.values(second) == [b"second-%d" % index for index in range(25)]
        for partition in (first, second):
            records = reader.records[partition]
            assert [record.sequence for record in records] == list(range(25))
            assert len({record.position for record in records}) == 25
            assert reader.next_positions[partition] not in {record.position for record in records}
            assert all(record.partition == partition for record in records)
        for fetched in reader.fetches:
            assert fetched.size == sum(record.size for record in fetched.records)

    async def test_bytes_come_unchanged(self, harness: SourceHarness) -> None:
        partition = harness.partitions[0]
        contents: list[tuple[bytes | None, bytes | None, Headers]] = [
            (b"key", b"value", ()),
            (None, b"null key", ()),
            (b"tombstone", None, ()),
            (b"", b"", ()),
            (b"\xff\x00\n", b"\x80\r\nsecond line\n", ()),
            (b"json", b'{"value": "not an envelope of ours", "key": null}', ()),
            (b"headers", b"v", (("a", b"1"), ("b", b"\xff\x00\n"), ("a", b"2"), ("empty", b""), ("null", None))),
        ]
        if not harness.has_null_headers:
            contents = [
                (key, value, tuple([h for h in headers if h[1] is not None])) for key, value, headers in contents
            ]
        for key, value, headers in contents:
            await harness.append(partition, key, value, headers, 1_700_000_000_123)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(len(contents))
        records = reader.records[partition]
        assert [(record.key, record.value, record.headers) for record in records] == contents
        assert [record.timestamp_ms for record in records] == [1_700_000_000_123] * len(contents)
        for record in records:
            parts = [record.key or b"", record.value or b""]
            parts += [part for name, value in record.headers for part in (name.encode(), value or b"")]
            assert record.size == sum(map(len, parts)) + len(record.headers)

    async def test_a_reopened_source_begins_at_the_checkpoint(self, harness: SourceHarness) -> None:
        first, second = harness.partitions[:2]
        for index in range(10):
            await harness.append(first, b"k", b"first-%d" % index)
            await harness.append(second, b"k", b"second-%d" % index)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(20)
            positions = {
                first: reader.records[first][4].position,
                second: reader.next_positions[second],
            }
            await reader.checkpoint(positions)
            assert await harness.committed(first) == positions[first]
            assert await harness.committed(second) == positions[second]
        await harness.append(second, b"k", b"second-10")
        async with Reader.of(harness.make_source()) as again:
            await again.read(7)
        assert again.values(first) == [b"first-%d" % index for index in range(4, 10)]
        assert again.values(second) == [b"second-10"]
        assert [record.sequence for record in again.records[first]] == list(range(6))
        assert again.records[first][0].position == positions[first]

    async def test_what_was_not_checkpointed_comes_again(self, harness: SourceHarness) -> None:
        partition = harness.partitions[0]
        for index in range(3):
            await harness.append(partition, b"k", b"%d" % index)
        for _ in range(2):
            async with Reader.of(harness.make_source()) as reader:
                await reader.read(3)
            assert reader.values(partition) == [b"0", b"1", b"2"]

    async def test_a_long_backlog_is_neither_lost_nor_repeated(self, harness: SourceHarness) -> None:
        partition = harness.partitions[0]
        expected = [b"%d" % index for index in range(1_700)]
        for value in expected:
            await harness.append(partition, value, value)
        seen: list[bytes | None] = []
        while len(seen) < len(expected):
            async with Reader.of(harness.make_source()) as reader:
                await reader.read(min(600, len(expected) - len(seen)))
                await reader.checkpoint(dict(reader.next_positions))
            seen += reader.values(partition)
        assert seen == expected

    async def test_the_starting_position_is_stored_before_the_first_record(self, harness: SourceHarness) -> None:
        await harness.append(harness.partitions[0], b"k", b"v")
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(1)
            for partition in harness.partitions:
                assert await harness.committed(partition) is not None

    async def test_latest_begins_at_the_end_and_forgets_nothing_after_it(self, harness: SourceHarness) -> None:
        first, second = harness.partitions[:2]
        for index in range(3):
            await harness.append(first, b"k", b"old-%d" % index)
        latest = StartingPosition.LATEST
        async with Reader.of(harness.make_source(starting_position=latest)) as reader:
            await reader.read_nothing()
        await harness.append(first, b"k", b"new-0")
        await harness.append(second, b"k", b"new-1")
        async with Reader.of(harness.make_source(starting_position=latest)) as again:
            await again.read(2)
            await harness.append(first, b"k", b"new-2")
            await again.read(1)
        assert again.values(first) == [b"new-0", b"new-2"]
        assert again.values(second) == [b"new-1"]

    async def test_at_timestamp_begins_at_the_first_record_from_then_on(self, harness: SourceHarness) -> None:
        first, second = harness.partitions[:2]
        for index in range(5):
            await harness.append(first, b"k", b"%d" % index, (), 1_700_000_000_000 + index * 1000)
        await harness.append(second, b"k", b"old", (), 1_600_000_000_000)
        source = harness.make_source(
            starting_position=StartingPosition.AT_TIMESTAMP, starting_timestamp=1_700_000_002.5
        )
        async with Reader.of(source) as reader:
            await reader.read(2)
            await harness.append(second, b"k", b"new", (), 1_700_000_009_000)
            await reader.read(1)
        assert reader.values(first) == [b"3", b"4"]
        assert reader.values(second) == [b"new"]

    async def test_a_fetch_of_nothing_comes_back(self, harness: SourceHarness) -> None:
        async with Reader.of(harness.make_source()) as reader:
            with anyio.fail_after(EMPTY_FETCH_LIMIT):
                fetched = await reader.source.fetch()
        assert [record for each in fetched for record in each.records] == []

    async def test_a_paused_partition_rests_and_loses_nothing(self, harness: SourceHarness) -> None:
        first, second = harness.partitions[:2]
        await harness.append(first, b"k", b"0")
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(1)
            reader.source.pause(first)
            for index in (1, 2, 3):
                await harness.append(first, b"k", b"%d" % index)
            await harness.append(second, b"k", b"other")
            await reader.read(1)
            await reader.read_nothing()
            assert reader.values(first) == [b"0"]
            assert reader.values(second) == [b"other"]
            reader.source.resume(first)
            await reader.read(3)
        assert reader.values(first) == [b"0", b"1", b"2", b"3"]
        assert [record.sequence for record in reader.records[first]] == [0, 1, 2, 3]

    async def test_pausing_what_is_not_ours_is_ignored(self, harness: SourceHarness) -> None:
        stranger = Partition("stranger", 7)
        async with Reader.of(harness.make_source()) as reader:
            reader.source.pause(stranger)
            reader.source.resume(stranger)
            assert reader.source.backlog(stranger) is None

    async def test_the_backlog_goes_to_zero_at_the_end(self, harness: SourceHarness) -> None:
        partition = harness.partitions[0]
        for index in range(5):
            await harness.append(partition, b"k", b"%d" % index)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(5)
            await reader.read_to_the_end()
            backlog = reader.source.backlog(partition)
        assert backlog is not None
        assert backlog.records == 0

    async def test_a_checkpoint_behind_a_hole_at_the_end_is_the_end(self, harness: SourceHarness) -> None:
        partition = harness.partitions[0]
        await harness.append(partition, b"k", b"0")
        await harness.append_hole(partition)
        await harness.append(partition, b"k", b"1")
        await harness.append_hole(partition)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(2)
            await reader.read_to_the_end()
            assert reader.values(partition) == [b"0", b"1"]
            assert [record.sequence for record in reader.records[partition]] == [0, 1]
            await reader.checkpoint(dict(reader.next_positions))
        async with Reader.of(harness.make_source(stop_at_end=True)) as again:
            await again.read_until_caught_up()
            await harness.append(partition, b"k", b"2")
        assert again.values(partition) == []
        async with Reader.of(harness.make_source()) as third:
            await third.read(1)
        assert third.values(partition) == [b"2"]

    async def test_stop_at_end_catches_up_with_the_end_as_it_was(self, harness: SourceHarness) -> None:
        first, second = harness.partitions[:2]
        for index in range(10):
            await harness.append(first, b"k", b"%d" % index)
        async with Reader.of(harness.make_source(stop_at_end=True)) as reader:
            await reader.read_until_caught_up()
            await harness.append(second, b"k", b"later")
            assert reader.source.caught_up
        assert reader.values(first) == [b"%d" % index for index in range(10)]

    async def test_without_stop_at_end_it_is_never_caught_up(self, harness: SourceHarness) -> None:
        await harness.append(harness.partitions[0], b"k", b"v")
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(1)
            await reader.read_to_the_end()
            assert not reader.source.caught_up

    async def test_data_loss_stops_that_partition_under_fail(self, harness: SourceHarness) -> None:
        first, second, position = await self._lose_records(harness)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(1)
            await reader.until(lambda: bool(reader.listener.problems))
            await reader.read_nothing()
        assert reader.values(second) == [b"intact"]
        assert reader.values(first) == []
        [(partition, problem)] = reader.listener.problems
        assert partition == first
        assert problem is not None
        assert problem.reason == Reason.DATA_LOSS
        assert str(position) in problem.text
        assert problem.hint
        assert await harness.committed(first) == position

    async def test_data_loss_is_told_and_passed_over_under_continue(self, harness: SourceHarness) -> None:
        first, second, position = await self._lose_records(harness)
        async with Reader.of(harness.make_source(on_data_loss="continue")) as reader:
            await reader.read(5)
        assert reader.values(second) == [b"intact"]
        assert reader.values(first) == [b"%d" % index for index in range(6, 10)]
        [(partition, lost_from, next_available, records)] = reader.listener.losses
        assert (partition, lost_from) == (first, position)
        assert next_available == reader.records[first][0].position
        assert records in (None, 4)
        assert reader.listener.problems == []

    async def _lose_records(self, harness: SourceHarness) -> tuple[Partition, Partition, Position]:
        """Checkpoint after two of ten records, then lose six; the second partition is as it was."""
        first, second = harness.partitions[:2]
        for index in range(10):
            await harness.append(first, b"k", b"%d" % index)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(10)
            position = reader.records[first][2].position
            await reader.checkpoint({first: position})
        await harness.lose_prefix(first, 6)
        await harness.append(second, b"k", b"intact")
        return first, second, position

    async def test_close_may_be_called_unopened_and_twice(self, harness: SourceHarness) -> None:
        source = harness.make_source()
        await source.close()
        async with Reader.of(harness.make_source()) as reader:
            await reader.source.close()
            await reader.source.close()

    async def test_it_says_where_it_reads(self, harness: SourceHarness) -> None:
        source = harness.make_source()
        assert source.description
        assert source.group
        assert not source.joined
        assert not source.caught_up
