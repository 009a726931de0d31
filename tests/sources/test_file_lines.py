"""What a line of a partition file holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.clients.lines import Content, decode_line, encode_line
from runner.model import NO_TIMESTAMP, Partition, Record

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
headers = st.lists(st.tuples(texts, st.none() | st.binary(max_size=20)), max_size=4).map(tuple)


@given(
    st.none() | st.binary(), st.none() | st.binary() | texts.map(str.encode), headers, st.integers(NO_TIMESTAMP, 2**62)
)
def test_every_record_survives_its_line(
    key: bytes | None, value: bytes | None, its_headers: tuple[tuple[str, bytes | None], ...], timestamp_ms: int
) -> None:
    line = encode_line(Record(Partition("orders", 0), 0, key, value, its_headers, timestamp_ms, 0, 0))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line[:-1]) == Content(key, value, its_headers, timestamp_ms)


@given(st.binary())
def test_every_line_is_some_record(line: bytes) -> None:
    content = decode_line(line)
    assert isinstance(content.value, bytes) or content.value is None
    assert content.size >= 0


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (b'{"value": "text"}', (None, b"text", (), -1)),
        ('{"key": "k\N{LATIN SMALL LETTER E WITH ACUTE}", "value": ""}'.encode(), (b"k\xc3\xa9", b"", (), -1)),
        (b'{"key": null, "value": null}', (None, None, (), -1)),
        (b' {"value" : { "a" : [1.50, "b c"] } } ', (None, b'{"a":[1.50,"b c"]}', (), -1)),
        (b'{"key": 7, "value": true, "timestamp": 1700000000000}', (b"7", b"true", (), 1_700_000_000_000)),
        (b'{"key_base64": "/w==", "value_base64": "AAE="}', (b"\xff", b"\x00\x01", (), -1)),
        (
            b'{"value": 1, "headers": [["a", "1"], ["a", null], ["b", {"base64": "/w=="}]]}',
            (None, b"1", (("a", b"1"), ("a", None), ("b", b"\xff")), -1),
        ),
        (b'{"value": 1, "headers": {"a": "1", "b": null}}', (None, b"1", (("a", b"1"), ("b", None)), -1)),
    ],
)
def test_an_envelope(line: bytes, content: tuple[object, ...]) -> None:
    assert decode_line(line) == content


@pytest.mark.parametrize(
    "line",
    [
        b"plain text",
        b"42",
        b'"text"',
        b"null",
        b'[{"value": 1}]',
        b"{}",
        b'{"key": "k"}',
        b'{"value": 1, "amount": 2}',
        b'{"value": 1, "value_base64": "AA=="}',
        b'{"value": 1, "key": "k", "key_base64": "AA=="}',
        b'{"value_base64": "not base64"}',
        b'{"value_base64": 5}',
        b'{"value": 1, "timestamp": "now"}',
        b'{"value": 1, "timestamp": -2}',
        b'{"value": 1, "headers": [["a"]]}',
        b'{"value": 1, "headers": {"a": 1}}',
        b'{"value": 1, "headers": {"a": {"base64": "AA==", "b": 1}}}',
        b'{"value": "\\ud800"}',
        b'{"value": "\xff"}',
        b'{"value": 1',
        b'{"value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_every_other_line_is_the_value(line: bytes) -> None:
    assert decode_line(line) == Content(None, line, (), NO_TIMESTAMP)


def test_the_size_is_of_bytes() -> None:
    content = decode_line('{"key": "\N{EURO SIGN}", "value": "ab", "headers": {"\N{EURO SIGN}": "c"}}'.encode())
    assert content.size == 3 + 2 + (1 + 3 + 1), "and one for the header"
