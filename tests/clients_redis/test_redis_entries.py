"""Entries keep every byte, repeated names and their order, from a reply to a record's content and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_harness import client
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.server import RedisServer
from runner.clients.redis_entries import (
    FIELD_ORDER,
    LARGEST_ID,
    Content,
    ContentReader,
    Entry,
    FieldNames,
    Fields,
    MalformedReply,
    compare_ids,
    content_of,
    decode_entries,
    decode_fields,
    decode_streams,
    encode_fields,
    field_name,
    fields_of,
    following_id,
    header_name,
    parse_id,
    previous_id,
    timestamp_ms_of,
)
from runner.model import NO_TIMESTAMP

LARGEST = (1 << 64) - 1
NOW_MS = 1_700_000_000_000
NASTY = [b"", b"k", b"v", b"a", b"\xff\x00", FIELD_ORDER.encode(), b"stream-runner-name-base64:eA==", "é".encode()]
PARTS = st.one_of(st.sampled_from(NASTY), st.binary(max_size=8))
FIELDS = st.lists(st.tuples(PARTS, PARTS), max_size=8)
NAMES = st.builds(FieldNames, st.none() | st.sampled_from(NASTY), st.none() | st.sampled_from(NASTY))
IDS = st.tuples(st.integers(0, LARGEST), st.integers(0, LARGEST)).map(lambda pair: f"{pair[0]}-{pair[1]}")


def parts_of(fields: Fields) -> list[bytes]:
    """As a reply has them."""
    return [part for field in fields for part in field]


@given(FIELDS)
def test_all_fields_survive_as_one_value(fields: Fields) -> None:
    assert list(decode_fields(encode_fields(fields))) == list(fields)


def test_a_value_of_all_fields_is_json_that_people_would_write() -> None:
    assert json.loads(encode_fields([(b"b", b"1"), (b"a", b"2")])) == {"b": "1", "a": "2"}
    assert json.loads(encode_fields([(b"a", b"1"), (b"a", b"2")])) == [["a", "1"], ["a", "2"]]
    assert json.loads(encode_fields([(b"a", b"\xff")])) == [["a", {"base64": "/w=="}]]


@pytest.mark.parametrize("data", [b"", b"1", b'{"a": 1}', b'[["a"]]', b'[["a", {"base64": "?"}]]'])
def test_what_is_no_value_of_all_fields_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_fields(data)


@given(FIELDS, NAMES)
def test_an_entry_comes_back_from_its_content_field_by_field(fields: Fields, names: FieldNames) -> None:
    assert list(fields_of(content_of(fields, names), names)) == list(fields)


@given(PARTS, PARTS)
def test_no_two_fields_share_a_header_name(one: bytes, other: bytes) -> None:
    assert (header_name(one) == header_name(other)) is (one == other)
    assert field_name(header_name(one)) == one
    header_name(one).encode()  # a header's name is text that everybody can write


def test_key_and_value_are_the_first_of_their_names_and_the_others_are_headers() -> None:
    names = FieldNames(b"k", b"v")
    fields = [(b"k", b"1"), (b"v", b"2"), (b"h", b"3"), (b"k", b"4"), (b"h", b""), (b"v", b"5")]
    headers = (("h", b"3"), ("k", b"4"), ("h", b""), ("v", b"5"))
    assert content_of(fields, names) == Content(b"1", b"2", headers)
    assert content_of([(b"h", b"3")], names) == Content(None, None, (("h", b"3"),))
    assert content_of([(b"v", b"2")], names) == Content(None, b"2", ())


def test_a_header_tells_where_key_and_value_stood_when_not_first() -> None:
    fields = [(b"h", b"3"), (b"v", b"2"), (b"k", b"1")]
    assert content_of(fields, FieldNames(b"k", b"v")).headers == (("h", b"3"), (FIELD_ORDER, b"2,1"))
    assert content_of(fields, FieldNames(None, b"v")).headers == (("h", b"3"), ("k", b"1"), (FIELD_ORDER, b"-,1"))


def test_without_a_field_for_the_value_it_holds_all_fields() -> None:
    content = content_of([(b"k", b"1"), (b"h", b"2")], FieldNames(b"k"))
    assert content == Content(b"1", b'{"k":"1","h":"2"}', ())


@given(FIELDS, NAMES)
def test_the_size_of_a_content_is_its_bytes(fields: Fields, names: FieldNames) -> None:
    content = content_of(fields, names)
    headers = sum(1 + len(name.encode()) + len(data or b"") for name, data in content.headers)
    assert content.size == len(content.key or b"") + len(content.value or b"") + headers


@given(IDS, IDS)
def test_ids_are_compared_as_numbers(one: str, other: str) -> None:
    assert compare_ids(one, other) == (parse_id(one) > parse_id(other)) - (parse_id(one) < parse_id(other))
    assert compare_ids(one, one) == 0


@given(IDS)
def test_the_previous_and_the_following_id_leave_no_room(entry_id: str) -> None:
    if entry_id != "0-0":
        assert following_id(previous_id(entry_id)) == entry_id
        assert compare_ids(previous_id(entry_id), entry_id) < 0
    if entry_id != f"{LARGEST}-{LARGEST}":
        assert previous_id(following_id(entry_id)) == entry_id


def test_ids_at_the_edges() -> None:
    assert previous_id("5-0") == f"4-{LARGEST}"
    assert following_id(f"5-{LARGEST}") == "6-0"
    with pytest.raises(ValueError, match="before"):
        previous_id("0-0")
    assert following_id(f"{LARGEST}-{LARGEST}") == LARGEST_ID == f"{LARGEST}-{LARGEST}"


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "a-b", "1-*", f"{LARGEST + 1}-0", "\u0663-\u0661"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="id"):
        parse_id(text)


@pytest.mark.parametrize(
    ("milliseconds", "timestamp_ms"),
    [
        (NOW_MS, NOW_MS),
        (NOW_MS + 24 * 3_600_000, NOW_MS + 24 * 3_600_000),
        (NOW_MS + 24 * 3_600_000 + 1, NO_TIMESTAMP),
        (946_684_800_000, 946_684_800_000),
        (946_684_799_999, NO_TIMESTAMP),
        (0, NO_TIMESTAMP),
        (1, NO_TIMESTAMP),
    ],
)
def test_only_a_plausible_time_is_one(milliseconds: int, timestamp_ms: int) -> None:
    assert timestamp_ms_of(f"{milliseconds}-7", NOW_MS) == timestamp_ms


@given(st.lists(st.tuples(IDS, st.none() | FIELDS.map(parts_of))))
def test_a_raw_reply_is_decoded_without_losing_anything(entries: list[Entry]) -> None:
    reply = [[entry_id.encode(), parts] for entry_id, parts in entries]
    assert decode_entries(reply) == entries
    assert decode_streams([[b"s", reply]]) == [(b"s", decode_entries(reply))]


def test_nothing_is_no_entries() -> None:
    assert decode_entries(None) == decode_entries([]) == decode_entries([None]) == []
    assert decode_streams(None) == decode_streams([]) == []


@pytest.mark.parametrize("reply", [1, b"text", [1], [[b"1-1"]], [[1, []]], [[b"\xff", []]]])
def test_a_reply_of_another_shape_is_refused(reply: Any) -> None:
    with pytest.raises(MalformedReply):
        decode_entries(reply)


@pytest.mark.parametrize("names", [FieldNames(), FieldNames(b"k"), FieldNames(b"k", b"v"), FieldNames(b"h", b"k")])
@pytest.mark.parametrize("parts", [[b"k"], [b"k", b"1", b"v"], [b"h", b"1", b"k", b"2", b"v"]])
def test_a_name_without_a_value_is_refused(parts: list[bytes], names: FieldNames) -> None:
    reader = ContentReader(names)
    for _ in range(2):
        with pytest.raises(MalformedReply):
            reader.read(parts)
    reader.read([*parts, b"last"])
    with pytest.raises(MalformedReply):
        reader.read(parts)


@pytest.mark.parametrize("reply", [1, [1], [[b"s"]], [[b"s", [1]]]])
def test_a_reply_of_another_shape_is_no_streams(reply: Any) -> None:
    with pytest.raises(MalformedReply):
        decode_streams(reply)


READ_IN_SCRIPT = "return redis.pcall('XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', '10', 'STREAMS', KEYS[1], ARGV[1])"


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_what_servers_answer_is_decoded(redis_server: RedisServer, new_stream: Any) -> None:
    stream = new_stream()
    fields = [(b"a", b"1"), (b"a", b"\xff\x00"), (b"", b""), (b"\x80", b"2")]
    async with client.connect(redis_server.url) as redis:
        await client.raw(redis, "XGROUP", "CREATE", stream, "g", "0", "MKSTREAM")
        assert decode_streams(await client.raw(redis, "XREAD", "STREAMS", stream, "0")) == []
        assert decode_streams(await client.raw(redis, "EVAL", READ_IN_SCRIPT, 1, stream, ">")) == []
        first = (await client.add(redis, stream, fields)).decode()
        second = (await client.add(redis, stream, fields)).decode()
        both: list[Entry] = [(first, parts_of(fields)), (second, parts_of(fields))]
        assert decode_entries(await client.raw(redis, "XRANGE", stream, "-", "+")) == both
        assert decode_streams(await client.raw(redis, "XREAD", "STREAMS", stream, "0")) == [(stream.encode(), both)]
        read = await client.raw(redis, "XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", stream, ">")
        assert decode_streams(read) == [(stream.encode(), both[:1])]
        assert decode_streams(await client.raw(redis, "EVAL", READ_IN_SCRIPT, 1, stream, ">")) == [
            (stream.encode(), both[1:])
        ]
        claimed = await client.raw(redis, "XCLAIM", stream, "g", "d", 0, first, second)
        assert decode_entries(claimed) == both
        await client.raw(redis, "XCLAIM", stream, "g", "c", 0, first, second)
        await client.raw(redis, "XDEL", stream, first)
        left = [(first, None), both[1]]
        history = await client.raw(redis, "XREADGROUP", "GROUP", "g", "c", "STREAMS", stream, "0")
        assert decode_streams(history) == [(stream.encode(), left)]
        assert decode_streams(await client.raw(redis, "EVAL", READ_IN_SCRIPT, 1, stream, "0")) == [
            (stream.encode(), left)
        ]
        claimed = await client.raw(redis, "XCLAIM", stream, "g", "d", 0, first, second)
        assert decode_entries(claimed) == both[1:]


def test_of_long_field_names_nothing_is_remembered() -> None:
    short, long = b"customer", b"x" * 100_000
    assert header_name(short) is header_name(short)
    assert header_name(long) == header_name(long) == long.decode()
    assert header_name(long) is not header_name(long)
