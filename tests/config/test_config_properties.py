"""What holds for every text and every value."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import ConfigInvalid, load, loads
from runner.config.mappings import MappingConfig
from runner.config.sections import keys_of
from runner.config.units import format_duration, format_size, parse_duration, parse_size

EXAMPLE = (Path(__file__).parents[2] / "config" / "kafka-to-http.yaml").read_text(encoding="utf-8")
WORDS = ["functions", "mappings", "limits", "m", "f", "source", "kafka", "http", *keys_of(MappingConfig)]

plain = st.recursive(
    st.sampled_from(
        ["1", "-1", "true", "~", "''", "5s", "6MB", "f", "'a:1'", "${X}", "'${X:-1}'", "1e400", "*a", "&a 1"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(WORDS), inner), max_size=4).map(
            lambda items: "{" + ", ".join([f"{name}: {value}" for name, value in items]) + "}"
        )
    ),
    max_leaves=12,
)


def _load(text: str) -> None:
    with contextlib.suppress(ConfigInvalid):
        loads(text, name="config.yaml", environ={"X": "x"})


@given(st.text())
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    _load(text)


@given(st.lists(st.tuples(st.sampled_from(WORDS), plain), max_size=5))
def test_no_yaml_does_worse_than_being_refused(entries: list[tuple[str, str]]) -> None:
    _load("\n".join([f"{name}: {value}" for name, value in entries]))


@given(content=st.binary(max_size=200))
def test_no_bytes_do_worse_than_being_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid):
        load(path, {})


@given(st.integers(0, len(EXAMPLE)), st.integers(0, 40), st.text(alphabet=" \n:-[]{}&*!'\"#$x\t", max_size=3))
def test_no_damaged_example_does_worse_than_being_refused(start: int, length: int, put_in: str) -> None:
    _load(EXAMPLE[:start] + put_in + EXAMPLE[start + length :])


@given(st.text(alphabet="\n\r\x85\u2028ab: '[{,", max_size=60))
def test_places_are_within_the_text(text: str) -> None:
    # Without its two keys no text is a configuration.
    with pytest.raises(ConfigInvalid) as raised:
        loads(text, name="config.yaml", environ={})
    errors = raised.value.errors
    assert all(0 <= error.line <= len(text.splitlines()) + 1 for error in errors)
    assert list(errors) == sorted(errors, key=lambda error: (error.line, error.column))
    assert raised.value.render()


@given(st.integers(0, 10**12))
def test_durations_round_trip(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**15))
def test_sizes_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=12))
def test_only_numbers_with_units_are_quantities(text: str) -> None:
    for parse, units in ((parse_duration, ("ms", "s", "m", "h", "d")), (parse_size, ("B",))):
        if parse(text) is not None:
            assert text[0].isdigit()
            assert text.endswith(units)
