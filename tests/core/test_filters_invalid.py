"""A pattern that can mean nothing is refused with the place where it goes wrong."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from runner.core.filters import PatternInvalid, compile_filters

V = "value"


@pytest.mark.parametrize(
    ("pattern", "path", "message"),
    [
        ({}, (), "name at least one field"),
        ({V: {}}, (V,), "name at least one field"),
        ({V: {"a": []}}, (V, "a"), "empty list"),
        ({V: {"a": "x"}}, (V, "a"), r"write \['x'\]"),
        ({V: {"a": {"prefix": "x"}}}, (V, "a", "prefix"), r"write \{'a': \[\{'prefix': 'x'\}\]\}"),
        ({V: {"a": None}}, (V, "a"), r"write \[None\]"),
        ({V: {"a": [["x"]]}}, (V, "a", 0), "list inside a list"),
        ({V: {"a": ["x", datetime.date(2024, 1, 1)]}}, (V, "a", 1), "not a JSON value"),
        ({V: {"a": [float("nan")]}}, (V, "a", 0), "not a JSON value"),
        ({V: {1: ["x"]}}, (V, "1"), "not a string"),
        ({V: {"a": [{"prefxi": "x"}]}}, (V, "a", 0), "did you mean 'prefix'"),
        ({V: {"a": [{"prefix": "x", "suffix": "y"}]}}, (V, "a", 0), "one operator is expected here, not 2"),
        ({V: {"a": [{}]}}, (V, "a", 0), "not 0"),
        ({V: {"a": [{"prefix": 1}]}}, (V, "a", 0, "prefix"), "a string is expected"),
        ({V: {"a": [{"suffix": {"prefix": "x"}}]}}, (V, "a", 0, "suffix"), "known are equals-ignore-case"),
        ({V: {"a": [{"equals-ignore-case": None}]}}, (V, "a", 0, "equals-ignore-case"), "a string is expected"),
        ({V: {"a": [{"exists": "yes"}]}}, (V, "a", 0, "exists"), "true or false"),
        ({V: {"a": [{"wildcard": "a**"}]}}, (V, "a", 0, "wildcard"), "two '\\*' in a row"),
        ({V: {"a": [{"wildcard": "a\\b"}]}}, (V, "a", 0, "wildcard"), "a backslash escapes"),
        ({V: {"a": [{"wildcard": "a\\"}]}}, (V, "a", 0, "wildcard"), "a backslash escapes"),
        ({V: {"a": [{"cidr": "10.0.0.0/33"}]}}, (V, "a", 0, "cidr"), "not an IP network"),
        ({V: {"a": [{"anything-but": []}]}}, (V, "a", 0, "anything-but"), "empty list"),
        ({V: {"a": [{"anything-but": ["x", 1]}]}}, (V, "a", 0, "anything-but"), "strings only or numbers only"),
        ({V: {"a": [{"anything-but": None}]}}, (V, "a", 0, "anything-but"), "strings only or numbers only"),
        ({V: {"a": [{"anything-but": {"exists": True}}]}}, (V, "a", 0, "anything-but"), "unknown operator 'exists'"),
        (
            {V: {"a": [{"anything-but": {"prefix": ["x", ""]}}]}},
            (V, "a", 0, "anything-but", "prefix", 1),
            "an empty string",
        ),
        ({V: {"a": [{"numeric": ">"}]}}, (V, "a", 0, "numeric"), "takes"),
        ({V: {"a": [{"numeric": [">", 1, "<"]}]}}, (V, "a", 0, "numeric"), "takes"),
        ({V: {"a": [{"numeric": ["=>", 1]}]}}, (V, "a", 0, "numeric", 0), "'=>' is no comparison"),
        ({V: {"a": [{"numeric": [">", "1"]}]}}, (V, "a", 0, "numeric", 1), "'1' is not a number"),
        ({V: {"a": [{"numeric": [">", True]}]}}, (V, "a", 0, "numeric", 1), "True is not a number"),
        ({V: {"a": [{"numeric": ["<", 1, ">", 0]}]}}, (V, "a", 0, "numeric", 0), "a range begins with"),
        ({V: {"a": [{"numeric": [">", 1, "=", 2]}]}}, (V, "a", 0, "numeric", 2), "a range ends with"),
        ({V: {"a": [{"numeric": [">", 2, "<", 1]}]}}, (V, "a", 0, "numeric"), "empty"),
        ({"body": ["x"]}, ("body",), "no field 'body': known are"),
        ({"topics": ["x"]}, ("topics",), "did you mean 'topic'"),
        ({"$or": [{"topic": ["x"]}]}, ("$or",), "two or more objects"),
        ({"$or": [{"topic": ["x"]}, {}]}, ("$or", 1), "name at least one field"),
        ({V: {"$or": [{"a": ["x"]}, {"b": "y"}]}}, (V, "$or", 1, "b"), "a list of alternatives"),
        ({"topic": {"a": ["x"]}}, ("topic",), "holds a single value"),
        ({"headers": ["x"]}, ("headers",), "takes an object"),
        ({"headers": {"a": {"b": ["x"]}}}, ("headers", "a"), "holds a single value"),
        ({"headers": {"a": [1]}}, ("headers", "a", 0), "write the number as a string"),
        ({"key": [42]}, ("key", 0), "write the number as a string"),
        ({V: [True]}, (V, 0), "a boolean never equals it"),
        ({V: [{"numeric": [">", 1]}]}, (V, 0, "numeric"), "compared as text"),
        ({V: [{"exists": False}]}, (V,), "never absent"),
        ({"partition": ["3"]}, ("partition", 0), "a string never equals it"),
        ({"timestamp": [{"prefix": "17"}]}, ("timestamp", 0, "prefix"), "this field is a number"),
        ({"partition": [{"anything-but": {"prefix": "1"}}]}, ("partition", 0, "anything-but"), "is a number"),
        ({V: ["x"], "$or": [{V: {"a": [1]}}, {"topic": ["x"]}]}, ("$or", 0, V, "a"), "as a value and as an object"),
        ({V: {"a": {"b": [1]}}, "$or": [{V: {"a": [1]}}, {"topic": ["x"]}]}, ("$or", 0, V, "a"), "as a value and as"),
        (
            {V: ["x"], "$or": [{V: {"a": [{"exists": False}]}}, {"topic": ["x"]}]},
            ("$or", 0, V, "a"),
            "as text and as an object",
        ),
    ],
)
def test_an_invalid_pattern_names_its_place(pattern: Any, path: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(PatternInvalid, match=message) as raised:
        compile_filters([{"topic": ["orders"]}, pattern])
    assert raised.value.path == (1, *path)
    assert raised.value.message == str(raised.value)


def test_a_pattern_is_an_object() -> None:
    with pytest.raises(PatternInvalid) as raised:
        compile_filters([["topic"]])  # type: ignore[list-item]
    assert raised.value.path == (0,)


def test_patterns_nest_within_a_bound() -> None:
    pattern: dict[str, Any] = {"a": [1]}
    for _ in range(2_000):
        pattern = {"a": pattern}
    with pytest.raises(PatternInvalid, match="nest at most"):
        compile_filters([{V: pattern}])
    choices: dict[str, Any] = {"a": [1]}
    for _ in range(2_000):
        choices = {"$or": [choices, {"b": [1]}]}
    with pytest.raises(PatternInvalid, match="nest at most"):
        compile_filters([{V: choices}])


def test_or_multiplies_within_a_bound() -> None:
    branches = {f"f{index}": {"$or": [{"a": [1]}, {"b": [1]}]} for index in range(10)}
    with pytest.raises(PatternInvalid, match="more than 1000 combinations"):
        compile_filters([{V: branches}])
