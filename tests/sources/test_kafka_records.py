"""Records handed over many at once are those that aiokafka hands over one by one, and so is the position after them."""

from __future__ import annotations

import gc
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from runner.clients.kafka_records import FetchBuffer

_PLACE = TopicPartition("orders", 0)
_CONTROL = 0x20
_COMPRESSIONS = (0, 1)  # none, gzip
# In a batch's header.
_CRC_AT, _ATTRIBUTES_AT, _LAST_OFFSET_DELTA_AT = 17, 21, 23


@dataclass(frozen=True)
class _Batch:
    """``deltas`` are the offsets within; ``holes`` offsets are gone behind the last. ``ends``: None for records, else
    whether a transaction is committed by this batch, which then holds a marker."""

    deltas: Sequence[int]
    holes: int = 0
    producer: int | None = None
    ends: bool | None = None
    compression: int = 0

    @property
    def offsets(self) -> int:
        return (0 if self.ends is not None else self.deltas[-1]) + 1 + self.holes

    def bytes_at(self, base: int) -> bytes:
        is_transactional = self.producer is not None
        producer = (-1, -1, -1) if self.producer is None else (self.producer, 0, 0)
        builder = DefaultRecordBatchBuilder(2, self.compression, is_transactional, *producer, 1 << 20)
        if self.ends is None:
            for delta in self.deltas:
                headers = [("n", b"%d" % delta)] if delta % 3 == 0 else []
                builder.append(delta, 1_700_000_000_000 + delta, b"k" if delta % 2 else None, b"v%d" % delta, headers)
        else:
            builder.append(0, 1_700_000_000_000, struct.pack(">hh", 0, self.ends), struct.pack(">hi", 0, 0), [])
        data = builder.build()
        struct.pack_into(">q", data, 0, base)
        struct.pack_into(">i", data, _LAST_OFFSET_DELTA_AT, self.offsets - 1)
        if self.ends is not None:
            (attributes,) = struct.unpack_from(">h", data, _ATTRIBUTES_AT)
            struct.pack_into(">h", data, _ATTRIBUTES_AT, attributes | _CONTROL)
        struct.pack_into(">I", data, _CRC_AT, calc_crc32c(bytes(data[_ATTRIBUTES_AT:])))
        return bytes(data)


def _deltas(steps: Sequence[int]) -> list[int]:
    return [sum(steps[:number]) for number in range(1, len(steps) + 1)]


_producers = st.sampled_from([7, 8])
_records = st.builds(
    _Batch,
    deltas=st.lists(st.integers(1, 3), min_size=1, max_size=6).map(_deltas),
    holes=st.integers(0, 2),
    producer=st.none() | _producers,
    compression=st.sampled_from(_COMPRESSIONS),
)
_markers = st.builds(_Batch, deltas=st.just([0]), producer=_producers, ends=st.booleans())


@given(
    batches=st.lists(_records | _markers, min_size=1, max_size=8),
    start=st.integers(0, 100),
    portions=st.lists(st.integers(1, 9) | st.none(), min_size=1, max_size=40),
)
async def test_they_are_the_records_and_positions_of_aiokafka(
    batches: Sequence[_Batch], start: int, portions: Sequence[int | None]
) -> None:
    fetch, aborted = _fetch(batches)
    start %= batches[0].offsets  # a fetch begins with the batch that holds its position
    ours, theirs = _Reading(fetch, aborted, start, FetchBuffer()), _Reading(fetch, aborted, start, {})
    for most in portions:
        assert ours.read(most) == theirs.read(most)
        assert (ours.position, ours.has_more) == (theirs.position, theirs.has_more)
        if not theirs.has_more:  # the fetcher forgets it then
            break


@pytest.mark.parametrize("most", [None, 1, 2])
async def test_a_damaged_batch_costs_nothing_before_it_and_hides_nothing_behind(most: int | None) -> None:
    batches = [bytearray(_Batch([0, 1]).bytes_at(base)) for base in (0, 2, 4)]
    batches[1][-1] ^= 1
    reading = _Reading(b"".join(batches), [], 0, FetchBuffer())
    if most is not None:
        assert [offset for _ in range(2 // most) for offset, *_ in reading.read(most)] == [0, 1]
    with pytest.raises(CorruptRecordException, match="checksum"):
        reading.read(most)
    assert reading.position == (0 if most is None else 2)
    reading.seek(reading.position)
    assert reading.read(most) == []
    assert (reading.has_more, reading.position) == (False, 0 if most is None else 2)


@pytest.mark.parametrize("portions", [[], [1], [None]], ids=["unread", "read in part", "read"])
async def test_a_fetch_that_is_dropped_is_free_at_once(portions: Sequence[int | None]) -> None:
    reading = _Reading(_Batch([0, 1]).bytes_at(0), [], 0, FetchBuffer())
    dropped = weakref.ref(reading.result), weakref.ref(reading.result._partition_records)
    for most in portions:
        reading.read(most)
    gc.disable()
    try:
        del reading
        assert [each() for each in dropped] == [None, None]
    finally:
        gc.enable()


class _Reading:
    """One fetch of one partition, in ``buffer`` as aiokafka puts it there, read from ``start``."""

    def __init__(self, fetch: bytes, aborted: Sequence[tuple[int, int]], start: int, buffer: Any) -> None:
        subscriptions = SubscriptionState()
        subscriptions.assign_from_user([_PLACE])
        assignment = subscriptions.subscription.assignment
        self._state = assignment.state_value(_PLACE)
        self._state.seek(start)
        records = PartitionRecords(_PLACE, MemoryRecords(fetch), aborted, start, None, None, True, READ_COMMITTED)
        self.result = FetchResult(_PLACE, assignment=assignment, partition_records=records, backoff=0)
        buffer[_PLACE] = self.result

    def seek(self, position: int) -> None:
        self._state.seek(position)

    def read(self, most: int | None) -> list[tuple[Any, ...]]:
        return [
            (each.offset, each.timestamp, each.timestamp_type, each.key, each.value, tuple(each.headers))
            for each in self.result.getall(most)
        ]

    @property
    def position(self) -> int:
        return int(self._state.position)

    @property
    def has_more(self) -> bool:
        return bool(self.result.has_more())


def _fetch(batches: Sequence[_Batch]) -> tuple[bytes, list[tuple[int, int]]]:
    """The bytes of ``batches``, and the aborted transactions: producer and first offset of each."""
    data = b""
    base = 0
    begun: dict[int, int] = {}
    aborted: list[tuple[int, int]] = []
    for batch in batches:
        data += batch.bytes_at(base)
        if batch.producer is not None:
            if batch.ends is None:
                begun.setdefault(batch.producer, base)
            elif (first := begun.pop(batch.producer, None)) is not None and not batch.ends:
                aborted.append((batch.producer, first))
        base += batch.offsets
    return data, aborted
