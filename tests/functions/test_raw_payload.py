"""The raw payload: nothing of a record is lost unless a header says so."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.functions.payloads.raw import (
    MAXIMUM_HEADER_BYTES,
    MAXIMUM_HEADERS,
    MAXIMUM_KEY_BYTES,
    MAXIMUM_LIST_BYTES,
    RawPayload,
)
from runner.model import Invocation, Record

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]

PREFIX = "Stream-Runner-Header-"

_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    key=st.none() | st.binary(max_size=40),
    headers=st.lists(st.tuples(_names, st.binary(max_size=60)), max_size=8).map(tuple),
)
def test_key_and_headers_can_be_read_back(
    new_record: NewRecord,
    new_invocation: NewInvocation,
    key: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
) -> None:
    lines = RawPayload().headers(new_invocation(new_record(key=key, headers=headers)))
    keys = [unquote_to_bytes(value) for name, value in lines if name == "Stream-Runner-Key"]
    assert keys == ([] if key is None else [key])
    assert [
        (unquote_to_bytes(name.removeprefix(PREFIX)).decode(), unquote_to_bytes(value))
        for name, value in lines
        if name.startswith(PREFIX)
    ] == list(headers)


@given(headers=st.lists(st.tuples(_names, st.none() | st.binary(max_size=6_000)), max_size=120).map(tuple))
def test_headers_never_exceed_the_caps_and_those_left_out_are_counted(
    new_record: NewRecord, new_invocation: NewInvocation, headers: tuple[tuple[str, bytes | None], ...]
) -> None:
    lines = RawPayload().headers(new_invocation(new_record(headers=headers)))
    sent = [(name, value) for name, value in lines if name.startswith(PREFIX)]
    assert len(sent) <= MAXIMUM_HEADERS
    assert sum(len(name) + len(value) for name, value in sent) <= MAXIMUM_HEADER_BYTES
    listed = 0
    for name, value in lines:
        assert value.isascii()
        assert value.isprintable()
        if name in ("Stream-Runner-Null-Headers", "Stream-Runner-Omitted-Headers"):
            assert len(value) <= MAXIMUM_LIST_BYTES + 8
            entries = value.split(", ")
            more = int(entries.pop()[1:]) if entries[-1].startswith("+") else 0
            listed += len(entries) + more
    assert len(sent) + listed == len(headers)


def test_null_and_empty_values_are_told_apart(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    payload = RawPayload()
    null, empty = new_invocation(new_record(value=None)), new_invocation(new_record(value=b""))
    assert payload.encode(null) == payload.encode(empty) == b""
    assert ("Stream-Runner-Null-Value", "true") in payload.headers(null)
    assert "Stream-Runner-Null-Value" not in dict(payload.headers(empty))


def test_what_does_not_fit_is_named(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    record = new_record(
        key=b"\xff" * MAXIMUM_KEY_BYTES,
        headers=(("big one", b"x" * 9_000), ("small", b"1"), ("none", None), ("", b"y" * 9_000)),
    )
    headers = dict(RawPayload().headers(new_invocation(record)))
    assert "Stream-Runner-Key" not in headers
    assert headers["Stream-Runner-Omitted-Key-Bytes"] == str(MAXIMUM_KEY_BYTES)
    assert headers["Stream-Runner-Omitted-Headers"] == 'big%20one, ""'
    assert headers["Stream-Runner-Null-Headers"] == "none"
    assert headers["Stream-Runner-Header-small"] == "1"


def test_sizes_are_those_of_the_body(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    payload = RawPayload()
    record = new_record(value=b"four", headers=(("a", b"b"),))
    assert payload.size_of(record) == len(payload.encode(new_invocation(record))) == 4
    assert payload.size_of(new_record(value=None)) == payload.fixed_size == 0
    assert payload.largest_expansion == (1.0, 0)


def test_it_carries_one_record_only(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    with pytest.raises(ValueError, match="carries one record"):
        RawPayload().encode(new_invocation(new_record(0), new_record(1)))
