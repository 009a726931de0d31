"""What the conformance suite needs of Redis, and what a Redis source promises beyond it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Literal

import pytest
from redis.asyncio import Redis

from kafka_harness.naming import NewStream
from redis_harness.client import Pending, add, connect, pending, raw
from redis_harness.flavour import Flavour
from redis_harness.replica import now
from redis_harness.server import RedisServer
from runner.clients.redis import RedisConnection
from runner.clients.redis_entries import FieldNames
from runner.clients.redis_slots import companion_key
from runner.clients.redis_url import parse_redis_url
from runner.core.lease import LeaseTimes
from runner.model import NO_TIMESTAMP, Headers, Partition, Position
from runner.ports import AcknowledgesRecords
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_source import RedisStreamsSettings
from runner.sources.redis_streams import RedisStreamsSource
from runner.sources.starting import StartingPosition
from runner.testing import SourceConformance
from runner.testing.reader import Reader
from runner.testing.source_suite import SourceHarness

KEY, VALUE = b"key", b"value"


class RedisSourceHarness:
    """Entries have ids that are no times, but for those that are given a time."""

    has_null_headers = False

    def __init__(
        self,
        kind: type[RedisStreamsSource | SharedStreamsSource],
        server: RedisServer,
        client: Redis,
        streams: Sequence[str],
        group: str,
    ) -> None:
        self.counts_entries = server.flavour is not Flavour.REDIS_6_2
        self._kind = kind
        self._url = server.url
        self._client = client
        self._streams = streams
        self._group = group
        self._last: defaultdict[Partition, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._ids: defaultdict[Partition, list[bytes]] = defaultdict(list)

    @property
    def partitions(self) -> Sequence[Partition]:
        return [Partition(stream, 0) for stream in self._streams]

    def make_source(
        self,
        *,
        starting_position: StartingPosition = StartingPosition.TRIM_HORIZON,
        starting_timestamp: float | None = None,
        on_data_loss: Literal["fail", "continue"] = "fail",
        stop_at_end: bool = False,
    ) -> RedisStreamsSource | SharedStreamsSource:
        settings = RedisStreamsSettings(
            connection=RedisConnection(url=parse_redis_url(self._url), client_name="conformance"),
            streams=tuple(self._streams),
            group=self._group,
            lease=LeaseTimes(2.0, 0.4),
            starting=starting_position,
            starting_timestamp=starting_timestamp,
            continue_after_loss=on_data_loss == "continue",
            names=FieldNames(KEY, VALUE),
            stop_at_end=stop_at_end,
        )
        return self._kind(settings, now=now)

    async def append(
        self,
        partition: Partition,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> None:
        fields = [(name, content) for name, content in ((KEY, key), (VALUE, value)) if content is not None]
        fields += [(name.encode(), content) for name, content in headers if content is not None]
        milliseconds = 1 if timestamp_ms == NO_TIMESTAMP else timestamp_ms
        last = self._last[partition]
        entry_id = self._last[partition] = max((milliseconds, 0), (last[0], last[1] + 1))
        text = f"{entry_id[0]}-{entry_id[1]}"
        self._ids[partition].append(await add(self._client, partition.topic, fields, entry_id=text))

    async def append_hole(self, partition: Partition) -> None:
        await self.append(partition, b"k", b"deleted")
        await raw(self._client, "XDEL", partition.topic, self._ids[partition].pop())

    async def committed(self, partition: Partition) -> Position | None:
        lease = companion_key(partition.topic.encode(), b":stream-runner:" + self._group.encode())
        stored = await raw(self._client, "HGET", lease, "checkpoint")
        return None if stored is None else str(stored, "ascii")

    async def pending(self, partition: Partition) -> list[Pending]:
        return await pending(self._client, partition.topic, self._group)

    async def lose_prefix(self, partition: Partition, records: int) -> None:
        await raw(self._client, "XTRIM", partition.topic, "MINID", self._ids[partition][records])


class RedisSourceConformance(SourceConformance):
    """As SourceConformance, of two streams that a source of ``kind`` reads."""

    kind: ClassVar[type[RedisStreamsSource | SharedStreamsSource]]

    @pytest.fixture
    async def harness(self, redis_server: RedisServer, new_stream: NewStream) -> AsyncIterator[RedisSourceHarness]:
        streams = [new_stream(), new_stream()]
        async with connect(redis_server.url) as client:
            for stream in streams:  # empty, but there
                await raw(client, "XGROUP", "CREATE", stream, "another", "$", "MKSTREAM")
            yield RedisSourceHarness(self.kind, redis_server, client, streams, new_stream())

    async def test_it_is_told_of_each_record(self, harness: SourceHarness) -> None:
        assert isinstance(harness.make_source(), AcknowledgesRecords)

    async def test_data_loss_stops_that_partition_under_fail(self, harness: SourceHarness) -> None:
        if harness_of(harness).counts_entries:
            await super().test_data_loss_stops_that_partition_under_fail(harness)
        else:
            await self._assert_it_goes_on_unknowing(harness)

    async def test_data_loss_is_told_and_passed_over_under_continue(self, harness: SourceHarness) -> None:
        if harness_of(harness).counts_entries:
            await super().test_data_loss_is_told_and_passed_over_under_continue(harness)
        else:
            await self._assert_it_goes_on_unknowing(harness)

    async def _assert_it_goes_on_unknowing(self, harness: SourceHarness) -> None:
        """A server that does not count its entries shows nothing of those that went before they were read."""
        first, second, _ = await self._lose_records(harness)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(5)
        assert reader.values(second) == [b"intact"]
        assert reader.values(first) == [b"%d" % index for index in range(6, 10)]

    async def _lose_records(self, harness: SourceHarness) -> tuple[Partition, Partition, Position]:
        """Here only what nobody has read is lost: what is pending is known, and let go one by one."""
        first, second = harness.partitions[:2]
        for index in range(2):
            await harness.append(first, b"k", b"%d" % index)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(2)
            position = reader.next_positions[first]
            await reader.checkpoint({first: position})
        for index in range(2, 10):
            await harness.append(first, b"k", b"%d" % index)
        await harness.lose_prefix(first, 6)
        await harness.append(second, b"k", b"intact")
        return first, second, position

    async def test_pending_records_that_were_trimmed_are_let_go_and_told(self, harness: SourceHarness) -> None:
        partition = harness.partitions[0]
        for index in range(10):
            await harness.append(partition, b"k", b"%d" % index)
        async with Reader.of(harness.make_source()) as reader:
            await reader.read(10)
            await reader.checkpoint({partition: reader.records[partition][2].position})
        await harness.lose_prefix(partition, 6)
        async with Reader.of(harness.make_source()) as again:
            await again.read(4)
            await again.read_nothing()
            await again.checkpoint({partition: again.next_positions[partition]})
        assert again.values(partition) == [b"6", b"7", b"8", b"9"]
        assert [(lost, records) for lost, _, _, records in again.listener.losses] == [(partition, 4)]
        assert await harness_of(harness).pending(partition) == []


def harness_of(harness: SourceHarness) -> RedisSourceHarness:
    assert isinstance(harness, RedisSourceHarness)
    return harness
