"""A stream's entries as records, whatever fields the entry before had."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.clients.redis_entries import FIELD_ORDER, Entry, FieldNames, Fields, content_of
from runner.model import NO_TIMESTAMP, Partition
from runner.sources.redis_records import RecordMaker

NOW_MS = 1_700_000_000_000
PARTITION = Partition("orders", 0)
NAMES = [b"", b"k", b"v", b"a", b"\xff", FIELD_ORDER.encode(), "é".encode()]
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=4)), max_size=4)
WANTED = st.builds(FieldNames, st.none() | st.sampled_from(NAMES), st.none() | st.sampled_from(NAMES))


@given(st.lists(FIELDS, max_size=6), WANTED)
def test_each_record_has_the_content_of_its_own_entry(stream: list[Fields], names: FieldNames) -> None:
    entries: list[Entry] = [
        (f"{NOW_MS}-{index}", [part for field in fields for part in field]) for index, fields in enumerate(stream)
    ]
    records = RecordMaker(PARTITION, names, lambda: NOW_MS / 1000).make(entries, 7)
    contents = [content_of(fields, names) for fields in stream]
    assert [(each.key, each.value, each.headers) for each in records] == contents
    assert [each.size for each in records] == [content.size for content in contents]
    assert [(each.position, each.sequence) for each in records] == [
        (entry_id, number) for number, (entry_id, _) in enumerate(entries, 7)
    ]


def test_only_an_id_that_can_be_a_time_gives_one() -> None:
    entries: list[Entry] = [("1-1", []), (f"{NOW_MS}-0", [])]
    records = RecordMaker(PARTITION, FieldNames(), lambda: NOW_MS / 1000).make(entries, 0)
    assert [each.timestamp_ms for each in records] == [NO_TIMESTAMP, NOW_MS]


def test_a_field_that_no_entry_of_the_first_page_has_is_told_once_with_those_that_are_there() -> None:
    told: list[tuple[bytes, str]] = []
    maker = RecordMaker(PARTITION, FieldNames(b"id", b"bdy"), lambda: NOW_MS / 1000)
    maker.on_absent_field = lambda field, warning: told.append((field, warning))
    maker.make([], 0)
    maker.make([(f"{NOW_MS}-0", [b"body", b"1", b"\xff", b"2"]), (f"{NOW_MS}-1", [b"id", b"1", b"body", b"1"])], 0)
    maker.make([(f"{NOW_MS}-2", [b"body", b"1"])], 2)
    [(field, warning)] = told
    assert field == b"bdy"
    begin, _, there = warning.partition("; they have: ")
    assert begin == "none of the first 2 entries of 'orders' has the field 'bdy' (value_field)"
    assert there == r"'body', '\\xff', 'id'"
