"""What holds for every event and every pattern."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runner.core.filters import compile_filters
from runner.model import Partition, Record

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
events = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
)
small_text = st.text(alphabet="ab*\\", max_size=8)


def a_record(value: bytes | None) -> Record:
    return Record(Partition("orders", 0), 0, None, value, (), -1, 0, 0)


def leaf_matches(alternatives: list[Any], value: object) -> bool:
    return compile_filters([{"value": {"a": alternatives}}])(a_record(json.dumps({"a": value}).encode()))


@given(scalars)
def test_a_scalar_equals_itself_and_is_not_anything_but_itself(value: Any) -> None:
    assert leaf_matches([value], value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        assert not leaf_matches([{"anything-but": [value]}], value)


@given(scalars, scalars)
def test_equality_is_of_json_values(left: Any, right: Any) -> None:
    same = left == right and isinstance(left, bool) == isinstance(right, bool)
    assert leaf_matches([left], right) is same


@given(st.text(), st.text())
def test_prefix_and_suffix(part: str, rest: str) -> None:
    assert leaf_matches([{"prefix": part}], part + rest)
    assert leaf_matches([{"suffix": part}], rest + part)
    assert leaf_matches([{"prefix": part}], rest) is rest.startswith(part)
    assert leaf_matches([{"suffix": part}], rest) is rest.endswith(part)


@given(st.lists(small_text, min_size=1, max_size=4), small_text)
def test_a_wildcard_is_the_regular_expression_of_its_parts(parts: list[str], text: str) -> None:
    parts = [parts[0], *[part or "a" for part in parts[1:-1]], *parts[1:][-1:]]
    escaped = "*".join([part.replace("\\", "\\\\").replace("*", "\\*") for part in parts])
    if re.search(r"(?<!\\)(\\\\)*\*\*", escaped):
        return
    expression = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    assert leaf_matches([{"wildcard": escaped}], text) is (expression.fullmatch(text) is not None)


@given(st.integers(), st.integers(), st.integers())
def test_a_range_is_between_its_bounds(bottom: int, top: int, value: int) -> None:
    if bottom < top:
        assert leaf_matches([{"numeric": [">=", bottom, "<", top]}], value) is (bottom <= value < top)


@given(events)
def test_a_leaf_exists_or_is_absent(event: Any) -> None:
    assert leaf_matches([{"exists": True}], event) is not leaf_matches([{"exists": False}], event)


@given(st.binary())
def test_any_bytes_are_judged_without_an_error(value: bytes) -> None:
    wanted = compile_filters([{"value": {"a": [1]}}, {"value": ["x"], "key": [None]}])
    assert isinstance(wanted(a_record(value)), bool)


@given(events, st.sampled_from(["a", "b"]))
def test_a_pattern_or_its_field_says_the_same_for_one_field_as_an_or_of_it(event: Any, name: str) -> None:
    record = a_record(json.dumps({"a": event, "b": event}).encode())
    plain = compile_filters([{"value": {name: [{"exists": True}]}}])
    either = compile_filters([{"value": {"$or": [{name: [{"exists": True}]}, {"c": [1]}]}}])
    assert plain(record) is either(record)
