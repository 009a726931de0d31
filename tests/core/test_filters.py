"""Each rule of Lambda's event patterns as an example, for records as a source holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from runner.core.filters import MAXIMUM_EVENT_DEPTH, compile_filters
from runner.model import Headers, Partition, Record, TimestampType


def a_record(
    value: bytes | None = b"", *, key: bytes | None = None, headers: Headers = (), position: int | str = 7
) -> Record:
    return Record(Partition("orders", 3), position, key, value, headers, 1_700_000_000_000, 0, 0)


def matches(pattern: Mapping[str, object], record: Record) -> bool:
    return compile_filters([pattern])(record)


def event_matches(pattern: Mapping[str, object], event: Any) -> bool:
    return matches({"value": pattern}, a_record(json.dumps(event).encode()))


def test_no_patterns_match_everything() -> None:
    assert compile_filters([])(a_record(None))


def test_one_of_several_patterns_is_enough() -> None:
    wanted = compile_filters([{"topic": ["payments"]}, {"partition": [3]}])
    assert wanted(a_record())
    assert not compile_filters([{"topic": ["payments"]}, {"partition": [4]}])(a_record())


def test_all_fields_of_a_pattern_must_match() -> None:
    assert matches({"topic": ["orders"], "partition": [3]}, a_record())
    assert not matches({"topic": ["orders"], "partition": [4]}, a_record())


@pytest.mark.parametrize(
    ("alternatives", "wanted", "unwanted"),
    [
        pytest.param(["Alice"], ["Alice"], ["alice", "Alice ", None, 1, {}, []], id="equals a string, exactly"),
        pytest.param([300], [300, 300.0, 3.0e2], ["300", 301, True], id="equals a number, however written"),
        pytest.param([10**30], [10**30], [10**30 + 1], id="equals a large integer, exactly"),
        pytest.param([1], [1], [True], id="a boolean is no number"),
        pytest.param([True], [True], [1, "true", False, None], id="equals a boolean"),
        pytest.param([None], [None], ["", "null", 0, False, {}, []], id="null"),
        pytest.param([""], [""], [None, " ", 0], id="empty"),
        pytest.param(["a", "b"], ["a", "b"], ["c"], id="or between alternatives"),
        pytest.param([{"prefix": "eu-"}], ["eu-", "eu-west"], ["EU-west", "us-eu-", 5, None], id="prefix"),
        pytest.param([{"prefix": {"equals-ignore-case": "Eu-"}}], ["EU-west"], ["us"], id="prefix, any case"),
        pytest.param([{"suffix": ".png"}], [".png", "a.png"], ["a.PNG", ".png.txt", 5], id="suffix"),
        pytest.param([{"suffix": {"equals-ignore-case": ".Png"}}], ["a.PNG"], ["a.jpg"], id="suffix, any case"),
        pytest.param([{"equals-ignore-case": "Alice"}], ["aLICE"], ["alic", None, 1], id="equals-ignore-case"),
        pytest.param([{"anything-but": ["a", "b"]}], ["c", "", None, 1, True], ["a", "b", {}, []], id="anything-but"),
        pytest.param([{"anything-but": "a"}], ["b"], ["a"], id="anything-but a single string"),
        pytest.param([{"anything-but": 100}], [101, "100"], [100, 100.0], id="anything-but a single number"),
        pytest.param([{"anything-but": [1, 2]}], [3], [1, 2.0], id="anything-but numbers"),
        pytest.param([{"anything-but": {"prefix": "a"}}], ["b", 1], ["a", "ab"], id="anything-but prefix"),
        pytest.param([{"anything-but": {"suffix": ["a", "b"]}}], ["c"], ["xa", "xb"], id="anything-but suffixes"),
        pytest.param([{"anything-but": {"wildcard": "*x*"}}], ["y"], ["axb"], id="anything-but wildcard"),
        pytest.param([{"anything-but": {"equals-ignore-case": ["a"]}}], ["b"], ["A", "a"], id="anything-but, any case"),
        pytest.param([{"numeric": ["=", 5]}], [5, 5.0], ["5", 6, True, None], id="numeric ="),
        pytest.param([{"numeric": ["<", 5]}], [4.9, -1], [5], id="numeric <"),
        pytest.param([{"numeric": ["<=", 5]}], [5], [5.1], id="numeric <="),
        pytest.param([{"numeric": [">", 5]}], [5.1], [5, True], id="numeric >"),
        pytest.param([{"numeric": [">=", 5]}], [5], [4.9], id="numeric >="),
        pytest.param([{"numeric": [">", 0, "<=", 5]}], [0.1, 5], [0, 5.1], id="numeric range"),
        pytest.param([{"exists": True}], [None, "", 0, [0]], [{}, {"c": 1}, []], id="exists, for leaves only"),
        pytest.param([{"exists": False}], [{"c": 1}, []], [None, "", 0, [0]], id="absent, where there is no leaf"),
        pytest.param([{"exists": False}, "x"], [{}, "x"], ["y"], id="absent or a value"),
        pytest.param([{"wildcard": "a*c"}], ["ac", "abc", "abcc"], ["ab", "bac", 1], id="wildcard"),
        pytest.param([{"wildcard": "*ab*ab"}], ["abab", "xabyab"], ["ab", "aab"], id="wildcard, parts do not overlap"),
        pytest.param([{"wildcard": "*"}], ["", "x"], [1, None], id="wildcard for any string"),
        pytest.param([{"wildcard": r"a\*\\c*"}], ["a*\\c", "a*\\cd"], ["ab\\c"], id="wildcard, escaped"),
        pytest.param([{"wildcard": "plain"}], ["plain"], ["plainer"], id="wildcard without a star"),
        pytest.param([{"cidr": "10.0.0.0/24"}], ["10.0.0.255"], ["10.0.1.0", "x", "::1", 10], id="cidr"),
        pytest.param([{"cidr": "2001:db8::/32"}], ["2001:db8::1"], ["2001:db9::1"], id="cidr of IPv6"),
        pytest.param([{"cidr": "10.0.0.7"}], ["10.0.0.7"], ["10.0.0.8"], id="cidr of one address"),
    ],
)
def test_a_leaf_matches(alternatives: list[object], wanted: list[object], unwanted: list[object]) -> None:
    for value in wanted:
        assert event_matches({"a": {"b": alternatives}}, {"a": {"b": value}}), value
    for value in unwanted:
        assert not event_matches({"a": {"b": alternatives}}, {"a": {"b": value}}), value


def test_an_absent_field_matches_nothing_but_exists_false() -> None:
    for alternatives in (["x"], [None], [{"anything-but": "x"}], [{"exists": True}]):
        assert not event_matches({"a": {"b": alternatives}}, {"a": {}})
    assert event_matches({"a": {"b": [{"exists": False}]}}, {})
    assert event_matches({"a": {"b": [{"exists": False}], "c": [1]}}, {"a": {"c": 1}})
    assert not event_matches({"a": {"b": [{"exists": False}], "c": [1]}}, {"a": {"c": 2}})


def test_any_element_of_an_array_may_match() -> None:
    assert event_matches({"tags": ["b"]}, {"tags": ["a", "b"]})
    assert event_matches({"tags": ["b"]}, {"tags": [["a"], [["b"]]]})
    assert event_matches({"tags": [{"anything-but": "a"}]}, {"tags": ["a", "b"]})
    assert not event_matches({"tags": ["c"]}, {"tags": ["a", "b"]})
    assert event_matches({"items": {"id": [2]}}, {"items": [{"id": 1}, {"id": 2}]})
    assert event_matches({"id": [2]}, [{"id": 1}, {"id": 2}])


def test_two_fields_must_not_match_in_different_elements_of_one_array() -> None:
    event = {"items": [{"id": 1, "colour": "red"}, {"id": 2, "colour": "blue"}]}
    assert event_matches({"items": {"id": [1], "colour": ["red"]}}, event)
    assert not event_matches({"items": {"id": [1], "colour": ["blue"]}}, event)
    assert event_matches({"items": {"id": [1]}, "$or": [{"items": {"colour": ["red"]}}, {"x": [1]}]}, event)
    assert not event_matches({"items": {"id": [1]}, "$or": [{"items": {"colour": ["blue"]}}, {"x": [1]}]}, event)


def test_a_field_is_absent_only_if_no_element_of_an_array_has_it() -> None:
    assert not event_matches({"items": {"id": [{"exists": False}]}}, {"items": [{"id": 1}, {"x": 1}]})
    assert event_matches({"items": {"id": [{"exists": False}]}}, {"items": [{"x": 1}]})


def test_or_between_fields() -> None:
    pattern = {"kind": ["order"], "$or": [{"amount": [{"numeric": [">", 9]}]}, {"vip": [True], "region": ["eu"]}]}
    assert event_matches(pattern, {"kind": "order", "amount": 10})
    assert event_matches(pattern, {"kind": "order", "vip": True, "region": "eu"})
    assert not event_matches(pattern, {"kind": "order", "vip": True, "region": "us"})
    assert not event_matches(pattern, {"kind": "refund", "amount": 10})


def test_or_nests_and_multiplies() -> None:
    pattern = {"$or": [{"a": [1], "$or": [{"b": [1]}, {"c": [1]}]}, {"d": [1]}], "e": {"$or": [{"f": [1]}, {"g": [1]}]}}
    assert event_matches(pattern, {"a": 1, "c": 1, "e": {"g": 1}})
    assert event_matches(pattern, {"d": 1, "e": {"f": 1}})
    assert not event_matches(pattern, {"a": 1, "e": {"f": 1}})
    assert not event_matches(pattern, {"d": 1})


def test_or_at_the_top_joins_metadata_and_data() -> None:
    pattern = {"$or": [{"partition": [4]}, {"value": {"vip": [True]}}]}
    assert matches(pattern, a_record(b'{"vip": true}'))
    assert not matches(pattern, a_record(b'{"vip": false}'))


@pytest.mark.parametrize(
    ("pattern", "event"),
    [
        ({"$or": ["x"]}, {"$or": "x"}),
        ({"$or": {"a": [1]}}, {"$or": {"a": 1}}),
        ({"$or": [{"prefix": "x"}, {"suffix": "y"}]}, {"$or": "zy"}),
    ],
    ids=["a list of literals", "an object", "objects of operators"],
)
def test_or_is_a_plain_field_where_it_cannot_be_an_or(pattern: Mapping[str, object], event: object) -> None:
    assert event_matches(pattern, event)
    assert not event_matches(pattern, {"a": 1})


def test_a_field_named_twice_must_match_both_times_in_one_element() -> None:
    pattern = {"a": [{"prefix": "x"}], "$or": [{"a": [{"suffix": "y"}]}, {"b": [1]}]}
    assert event_matches(pattern, {"a": ["xy"]})
    assert not event_matches(pattern, {"a": ["x", "y"]})


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        ({"topic": [{"prefix": "ord"}]}, True),
        ({"partition": [{"numeric": [">=", 4]}]}, False),
        ({"offset": [7]}, True),
        ({"offset": ["7"]}, False),
        ({"timestamp": [{"numeric": [">", 1_600_000_000_000]}]}, True),
        ({"timestampType": ["CREATE_TIME"]}, True),
        ({"headers": {"type": ["b"]}}, True),
        ({"headers": {"type": ["c"]}}, False),
        ({"headers": {"none": [None]}}, True),
        ({"headers": {"binary": [{"prefix": "\N{REPLACEMENT CHARACTER}"}]}}, True),
        ({"headers": {"other": [{"exists": False}]}}, True),
        ({"headers": {"type": [{"exists": False}]}}, False),
    ],
)
def test_metadata(pattern: Mapping[str, object], is_match: bool) -> None:
    headers = (("type", b"a"), ("type", b"b"), ("none", None), ("binary", b"\xff\x00"))
    assert matches(pattern, a_record(headers=headers)) is is_match


def test_positions_may_be_strings_and_the_log_may_set_the_time() -> None:
    assert matches({"offset": [{"prefix": "1526919030474-"}]}, a_record(position="1526919030474-55"))
    record = Record(Partition("orders", 3), 7, None, b"", (), -1, 0, 0, TimestampType.LOG_APPEND_TIME)
    assert matches({"timestampType": ["LOG_APPEND_TIME"], "timestamp": [-1]}, record)


def test_data_under_a_list_is_compared_as_text() -> None:
    assert matches({"key": ["42"]}, a_record(key=b"42"))
    assert not matches({"key": ["42"]}, a_record(key=b"43"))
    assert matches({"value": [{"prefix": "{nearly"}]}, a_record(b"{nearly json"))
    assert matches({"value": [""]}, a_record(b""))


def test_data_in_another_form_than_the_patterns_leaves_only_the_other_fields() -> None:
    for value in (
        b"plain",
        b"12",
        b'"text"',
        b"\xff\xfe",
        b"",
        b'{"a": 1} trailing',
        b'{"a": "\xff"}',
        b'{"a": 1e999}',
    ):
        assert matches({"value": {"a": [1]}}, a_record(value)), value
        assert not matches({"value": {"a": [1]}, "topic": ["payments"]}, a_record(value)), value
    for value in (b'{"a": 1}', b" [1]", b"\xff\xfe"):
        assert matches({"value": ["text"]}, a_record(value)), value
        assert not matches({"value": ["text"], "topic": ["payments"]}, a_record(value)), value


def test_key_and_value_are_judged_on_their_own() -> None:
    assert matches({"key": ["k"], "value": {"a": [1]}}, a_record(b"plain", key=b"k"))
    assert not matches({"key": ["k"], "value": {"a": [1]}}, a_record(b"plain", key=b"other"))


def test_a_missing_value_is_json_null() -> None:
    assert matches({"value": [None]}, a_record(None))
    assert not matches({"value": [None]}, a_record(b""))
    assert not matches({"value": {"a": [1]}}, a_record(None))
    assert matches({"value": {"a": [{"exists": False}]}}, a_record(None))
    assert matches({"key": [None]}, a_record(key=None))


def test_an_event_nested_too_deeply_counts_as_not_json() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a": ' + b"[" * (depth - 1) + b"2" + b"]" * (depth - 1) + b"}"

    assert not matches({"value": {"a": [1]}}, a_record(nested(MAXIMUM_EVENT_DEPTH)))
    assert matches({"value": {"a": [1]}}, a_record(nested(MAXIMUM_EVENT_DEPTH + 1)))
    assert matches({"value": {"a": [1]}}, a_record(nested(200_000)))


def test_a_broad_event_is_still_json() -> None:
    event = [{"a": [index]} for index in range(MAXIMUM_EVENT_DEPTH * 3)]
    assert event_matches({"a": [200]}, event)
    assert not event_matches({"a": [-1]}, event)
