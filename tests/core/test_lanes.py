"""Records that must keep an order share a lane; the others are spread so that every lane has work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_strategies import keyed, records_of, sequences
from runner.core.lanes import OWN_LANE, Lanes, Ordering
from runner.model import Record

keys = st.none() | st.binary(max_size=3)
factors = st.integers(1, 20)


class WaitingRecords:
    """How many records each lane holds, as a partition's worker would tell."""

    def __init__(self) -> None:
        self.held: Counter[int] = Counter()
        self.asked = 0

    def load(self, lane: int) -> int:
        self.asked += 1
        return self.held[lane]

    def put(self, placed: Iterable[tuple[int, Sequence[Record]]]) -> list[tuple[int, list[int]]]:
        """Hand the records to their lanes while they are being placed."""
        result = []
        for lane, records in placed:
            self.held[lane] += len(records)
            result.append((lane, sequences(records)))
        return result


def unused_load(_lane: int) -> int:
    raise AssertionError("where an order is kept a lane's load says nothing")


def by_key(factor: int) -> Lanes:
    return Lanes(Ordering.KEY, factor, batch_records=10, load=unused_load)


def freely(waiting: WaitingRecords, factor: int, batch_records: int = 10) -> Lanes:
    return Lanes(Ordering.NONE, factor, batch_records=batch_records, load=waiting.load)


@given(st.sampled_from(Ordering), factors, st.lists(st.lists(keys, max_size=15), max_size=4))
def test_every_record_gets_one_lane_in_fetch_order(
    ordering: Ordering, factor: int, fetches: list[list[bytes | None]]
) -> None:
    lanes = Lanes(ordering, factor, batch_records=4, load=WaitingRecords().load)
    for fetch in fetches:
        records = keyed(fetch)
        by_lane: dict[int, list[Record]] = {}
        for lane, part in lanes.place(records):
            assert part
            assert 0 <= lane < factor
            by_lane.setdefault(lane, []).extend(part)
        for placed in by_lane.values():
            assert sequences(placed) == sorted(sequences(placed))
        together = [record for placed in by_lane.values() for record in placed]
        assert sorted(sequences(together)) == sequences(records)


@given(factors, st.lists(keys, max_size=30), st.lists(keys, max_size=30))
def test_a_key_always_has_the_same_lane(factor: int, first: list[bytes | None], second: list[bytes | None]) -> None:
    lanes = by_key(factor)
    lane_of: dict[bytes | None, int] = {}
    for fetch in (first, second):
        for lane, records in lanes.place(keyed(fetch)):
            for record in records:
                assert lane_of.setdefault(record.key, lane) == lane


@given(factors)
def test_a_record_without_a_key_has_the_partitions_own_lane(factor: int) -> None:
    assert [(lane, sequences(part)) for lane, part in by_key(factor).place(keyed([None, None]))] == [(OWN_LANE, [0, 1])]


def test_another_partition_places_a_key_alike() -> None:
    records = keyed([bytes([number]) for number in range(100)])
    assert _lanes_of(by_key(7), records) == _lanes_of(by_key(7), records)


def _lanes_of(lanes: Lanes, records: Sequence[Record]) -> dict[int, int]:
    return {record.sequence: lane for lane, part in lanes.place(records) for record in part}


@pytest.mark.parametrize(
    ("ordering", "factor"), [(Ordering.PARTITION, 1), (Ordering.PARTITION, 8), (Ordering.KEY, 1), (Ordering.NONE, 1)]
)
def test_the_order_of_a_partition_is_one_lane(ordering: Ordering, factor: int) -> None:
    lanes = Lanes(ordering, factor, batch_records=1, load=unused_load)
    records = keyed([b"a", None, b"b"])
    assert list(lanes.place(records)) == [(OWN_LANE, records)]
    assert list(lanes.place([])) == []


def test_a_trickle_without_order_fills_one_batch_after_another() -> None:
    waiting = WaitingRecords()
    lanes = freely(waiting, factor=4, batch_records=3)
    placed = [waiting.put(lanes.place([record]))[0][0] for record in records_of(9)]
    assert placed == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_batch_that_was_taken_is_not_added_to_while_another_lane_is_free() -> None:
    waiting = WaitingRecords()
    lanes = freely(waiting, factor=4, batch_records=3)
    waiting.put(lanes.place(records_of(1)))
    waiting.held[0] = 3  # its window closed: it is being invoked, which counts as a whole batch
    assert waiting.put(lanes.place(records_of(2))) == [(1, [0, 1])]


def test_under_load_every_lane_gets_whole_batches() -> None:
    waiting = WaitingRecords()
    lanes = freely(waiting, factor=4, batch_records=3)
    assert waiting.put(lanes.place(records_of(12))) == [
        (0, [0, 1, 2]),
        (1, [3, 4, 5]),
        (2, [6, 7, 8]),
        (3, [9, 10, 11]),
    ]
    assert [(lane, len(part)) for lane, part in waiting.put(lanes.place(records_of(7)))] == [(0, 3), (1, 3), (2, 1)]


@given(factors, st.integers(1, 10), st.lists(st.integers(0, 60), max_size=8))
def test_without_order_no_lane_is_more_than_a_batch_ahead(factor: int, batch_records: int, fetches: list[int]) -> None:
    waiting = WaitingRecords()
    lanes = freely(waiting, factor, batch_records)
    for count in fetches:
        waiting.put(lanes.place(records_of(count)))
        held = [waiting.held[lane] for lane in range(factor)]
        assert max(held) - min(held) <= batch_records
        if factor > 1:
            assert sum(bool(each % batch_records) for each in held) <= max(1, len(fetches))


@given(factors, st.integers(1, 10), st.dictionaries(st.integers(0, 19), st.integers(0, 40)), st.integers(0, 80))
def test_a_place_does_not_depend_on_when_the_lanes_take_their_records(
    factor: int, batch_records: int, held: dict[int, int], count: int
) -> None:
    """Whether the caller hands over as it goes, or only when all are placed."""
    waiting, later = WaitingRecords(), WaitingRecords()
    waiting.held.update(held)
    later.held.update(held)
    at_once = waiting.put(freely(waiting, factor, batch_records).place(records_of(count)))
    assert at_once == later.put(list(freely(later, factor, batch_records).place(records_of(count))))


def test_each_lane_is_asked_once_for_its_load() -> None:
    waiting = WaitingRecords()
    waiting.held.update(dict.fromkeys(range(1_000), 5))
    placed = waiting.put(freely(waiting, factor=1_000, batch_records=1).place(records_of(500)))
    assert len({lane for lane, _ in placed}) == 500
    assert waiting.asked <= 1_000
