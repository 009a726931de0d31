"""Dead letters in a real Redis stream: whole, in order, with every byte of whatever source they come from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destination_harness.letters import letter_for, letter_of
from destination_harness.redis_letters import (
    HEADERS,
    content_of_letter,
    content_of_record,
    destination,
    fact,
    original_fields,
    plain,
    store,
    stored,
    values,
)
from kafka_harness import producing, topics
from kafka_harness.broker import Broker
from redis_harness import client
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis, NewRedisCluster
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.server import RedisServer
from runner.clients.kafka import KafkaConnection
from runner.clients.lines import decode_line
from runner.clients.redis import RedisConnection
from runner.clients.redis_entries import FieldNames, Fields, content_of
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.clients.tls import TlsSettings
from runner.destinations.forms import Form
from runner.destinations.headers import CONTEXT
from runner.destinations.redis_messages import letter_fields, marker_of
from runner.model import ErrorKind, FunctionError, Headers, Partition, Record
from runner.sources.kafka import KafkaSource, KafkaSourceSettings
from runner.testing.reader import Reader

LEAST_RIGHTS = "~dead ~{dead}:dead-letter:* +client|setname +evalsha +eval +get +set +xrange +xadd"

NASTY_NAMES = ["", "a", "é", "stream-runner-", "stream-runner-null:a", "stream-runner-header:a", *sorted(CONTEXT)[:3]]
NAMES = st.one_of(st.sampled_from(NASTY_NAMES), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
SOME_HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=5)), max_size=6).map(tuple)
PARTS = st.one_of(st.sampled_from([b"k", b"v", b"stream-runner-mapping", b"stream-runner-key"]), st.binary(max_size=5))
FIELDS = st.lists(st.tuples(PARTS, PARTS), max_size=6)
FIELD_NAMES = st.builds(FieldNames, st.none() | PARTS, st.none() | PARTS)


@given(
    st.none() | st.binary(max_size=5), st.none() | st.binary(max_size=5), SOME_HEADERS, st.sampled_from(list(Form)[:2])
)
def test_a_record_comes_back_from_its_letter(
    key: bytes | None, value: bytes | None, headers: Headers, form: Form
) -> None:
    letter = letter_of(key, value, headers=headers)
    assert content_of_letter(letter_fields(letter, form, None)) == content_of_record(letter.record)


@given(FIELDS, FIELD_NAMES)
def test_an_entrys_fields_stand_as_they_were(fields: Fields, names: FieldNames) -> None:
    key, value, headers = content_of(fields, names)
    letter = letter_of(key, value, headers=headers, position="5-0")
    kept = [field for field in fields if field[0].decode("latin-1") not in CONTEXT]
    assert list(original_fields(letter_fields(letter, Form.WHOLE, names))) == kept


@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, b"", b"a"]), st.sampled_from([None, b"", b"a"]))
def test_two_letters_share_a_marker_only_when_they_are_of_one_record(
    number: int, position: int, key: bytes | None, value: bytes | None
) -> None:
    letter = letter_of(key, value, number=number, position=position)
    again = letter_of(key, value, number=number, position=position, error=None)
    other = letter_of(b"a", None, number=1, position=1)
    assert marker_of(letter, b"dead") == marker_of(again, b"dead")
    same = (number, position, key, value) == (1, 1, b"a", None)
    assert (marker_of(letter, b"dead") == marker_of(other, b"dead")) is same


def test_two_letters_of_records_with_other_headers_have_two_markers() -> None:
    several: list[Headers] = [
        (),
        (("a", None),),
        (("a", b""),),
        (("a", b"b"),),
        (("a1:b", None),),
        (("", b"ab"),),
        (("a", b"b"), ("a", b"b")),
        (("a", b"b"), ("c", None)),
        (("c", None), ("a", b"b")),
        (("\udc80", None),),
        (("\\udc80", None),),
    ]
    letters = [letter_of(b"k", b"v", headers=headers) for headers in several]
    assert len({marker_of(letter, b"dead") for letter in letters}) == len(letters)


def test_the_error_is_left_out_with_all_that_can_be_long() -> None:
    letter = letter_of(error=FunctionError(ErrorKind.ERROR, "ValueError", "long", "longer", 500))
    whole, short = (dict(letter_fields(letter, form, None)) for form in (Form.WHOLE, Form.WITHOUT_ERROR_TEXT))
    assert set(whole) - set(short) == {b"stream-runner-error-text", b"stream-runner-error-stack"}


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_key_value_and_headers_are_kept_byte_for_byte(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    letters = [
        letter_of(key, value, headers=HEADERS)
        for key, value in ((b"k", None), (None, b"v"), (None, None), (b"", b""), (b"\xff", b"\x00\xfe"))
    ]
    async with destination(plain(redis_server.address), stream) as target:
        assert await store(target, letters) == [None] * 5
    async with client.connect(redis_server.url) as redis:
        found = await stored(redis, stream)
    assert [content_of_letter(fields) for fields in found] == [content_of_record(letter.record) for letter in letters]
    assert not [name for name, _ in found[0] if name.startswith(b"kafka_dlt-original-offset")]


@pytest.mark.redis
async def test_letters_say_where_they_come_from_and_why(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    async with destination(plain(redis_server.address), stream) as target:
        await store(target, [letter_of(number=3, position=17)])
    async with client.connect(redis_server.url) as redis:
        (fields,) = await stored(redis, stream)
    said = ("original-topic", "original-partition", "original-position", "mapping", "condition", "error-text")
    assert [fact(fields, name) for name in said] == [
        b"orders",
        b"3",
        b"17",
        b"orders-to-charge-card",
        b"RetryAttemptsExhausted",
        b"no amount",
    ]


@pytest.mark.redis
async def test_many_letters_keep_their_order(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    stream = new_stream()
    sizes = [0, 10, 300_000, 10, 100_000, 100_000, 100_000, *[1] * 300]
    letters = [letter_of(value=b"%d:" % n + b"x" * size, position=n) for n, size in enumerate(sizes)]
    async with destination(plain(redis_server.address), stream) as target:
        assert await store(target, letters) == [None] * len(sizes)
    async with client.connect(redis_server.url) as redis:
        assert await values(redis, stream) == [letter.record.value for letter in letters]


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_more_headers_than_a_script_can_add_are_kept(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    for count in (2_998, 2_999, 20_000):
        stream = new_stream()
        letter = letter_of(headers=tuple([(f"h{number}", b"\xff") for number in range(count)]))
        async with destination(plain(redis_server.address), stream) as target:
            assert await store(target, [letter]) == [None]
        async with client.connect(redis_server.url) as redis:
            (fields,) = await stored(redis, stream)
        assert content_of_letter(fields) == content_of_record(letter.record)


@pytest.mark.redis
async def test_a_stream_is_trimmed_to_about_its_maxlen(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    letters = [letter_of(value=b"%d" % number, position=number) for number in range(1_000)]
    async with destination(plain(redis_server.address), stream, maxlen=100) as target:
        assert await store(target, letters) == [None] * 1_000
    async with client.connect(redis_server.url) as redis:
        left = await values(redis, stream)
    assert 100 <= len(left) < 400
    assert left == [letter.record.value for letter in letters[-len(left) :]]


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_what_is_too_large_is_stored_smaller(redis_server: RedisServer, new_redis: NewRedis) -> None:
    server = new_redis(redis_server.flavour, RedisOptions(overrides={"proto-max-bulk-len": "1mb"}))
    megabytes = b"x" * 3_000_000
    error = FunctionError(ErrorKind.ERROR, "ValueError", "e" * 2_000_000)
    letters = [
        letter_of(b"k", b"before", position=0),
        letter_of(b"k", b"v", position=1, error=error),
        letter_of(b"k", megabytes, position=2, headers=HEADERS),
        letter_of(megabytes, b"v", position=3),
        letter_of(b"k", b"after", position=4),
    ]
    async with destination(plain(server.address), "dead") as target:
        assert await store(target, letters) == [None] * 5
        assert await store(target, letters) == [None] * 5
    async with client.connect(server.url) as redis:
        found = await stored(redis, "dead")
    assert [fact(fields, "original-position") for fields in found] == [b"0", b"1", b"2", b"3", b"4"]
    assert [fact(fields, "pointer") for fields in found] == [None, None, b"true", b"true", None]
    assert content_of_letter(found[1]) == content_of_record(letters[1].record)
    assert fact(found[1], "error-text") is None
    pointed = content_of_letter(found[2])
    assert pointed.key == b"k"
    pointer = json.loads(pointed.value or b"")
    assert (pointer["offset"], pointer["size"]) == (2, len(megabytes))
    assert pointer["sha256"] == hashlib.sha256(megabytes).hexdigest()
    assert content_of_letter(found[3]).key is None
    assert json.loads(content_of_letter(found[3]).value or b"")["key_left_out"] is True


@pytest.mark.redis
@ON_EVERY_FLAVOUR
async def test_a_user_with_the_least_rights_can_store(redis_server: RedisServer, new_redis: NewRedis) -> None:
    options = RedisOptions(users=(AclUser("writer", "pw", LEAST_RIGHTS),), tls=redis_server.flavour.has_tls)
    server = new_redis(redis_server.flavour, options)
    tls = TlsSettings(ca_file=server.authority.certificate) if options.tls else None
    address = f"rediss://127.0.0.1:{server.tls_port}" if options.tls else f"redis://{server.address}"
    connection = RedisConnection(
        url=parse_redis_url(address), client_name="test", username="writer", password=Secret(literal="pw"), tls=tls
    )
    for maxlen in (None, 1_000):
        async with destination(connection, "dead", maxlen=maxlen) as target:
            assert await store(target, [letter_of(position=maxlen or 0)]) == [None]
            assert await store(target, [letter_of(position=maxlen or 0)]) == [None]
    async with client.connect(server.url) as redis:
        assert len(await stored(redis, "dead")) == 2


@pytest.mark.redis
async def test_a_cluster_takes_letters_whatever_the_streams_name(new_redis_cluster: NewRedisCluster) -> None:
    cluster = await new_redis_cluster(Flavour.REDIS_7_0)
    url = parse_redis_url(f"redis+cluster://{cluster.nodes[0].address}")
    for stream in ("dead", "{tag}dead", "dead}letters", "{}dead", "{"):
        async with destination(RedisConnection(url=url, client_name="test"), stream) as target:
            letters = [letter_of(position=number) for number in range(5)]
            assert await store(target, letters) == [None] * 5
            assert await store(target, letters) == [None] * 5
        async with client.connect_cluster(cluster.url) as redis:
            assert await redis.execute_command("XLEN", stream) == 5


@pytest.mark.redis
@pytest.mark.parametrize(
    "names", [FieldNames(), FieldNames(b"k"), FieldNames(b"k", b"v"), FieldNames(None, b"v"), FieldNames(b"x", b"y")]
)
async def test_entries_of_a_stream_become_letters_that_are_entries(
    redis_server: RedisServer, new_stream: Callable[[], str], names: FieldNames
) -> None:
    fields = [(b"h", b"\xff"), (b"v", b"2"), (b"\x80", b""), (b"k", b"1"), (b"h", b"3"), (b"k", b"4")]
    key, value, headers = content_of(fields, names)
    letter = letter_of(key, value, headers=headers, position="1700000000000-0")
    stream = new_stream()
    async with destination(plain(redis_server.address), stream, source_fields=names) as target:
        assert await store(target, [letter]) == [None]
    async with client.connect(redis_server.url) as redis:
        (found,) = await stored(redis, stream)
    assert list(original_fields(found)) == fields


@pytest.mark.redis
async def test_lines_of_files_become_letters(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    lines = [b'{"key": "k", "value": null, "headers": [["a", null], ["a", {"base64": "/w=="}]]}', b"\xff no JSON", b""]
    records = []
    for position, line in enumerate(lines):
        content = decode_line(line)
        records.append(
            Record(Partition("orders", 0), position, content.key, content.value, content.headers, -1, position, 0)
        )
    stream = new_stream()
    async with destination(plain(redis_server.address), stream) as target:
        assert await store(target, [letter_for(record) for record in records]) == [None] * 3
    async with client.connect(redis_server.url) as redis:
        found = [content_of_letter(fields) for fields in await stored(redis, stream)]
    assert found == [content_of_record(record) for record in records]


@pytest.mark.redis
@pytest.mark.kafka
async def test_records_of_kafka_become_letters(
    kafka: Broker, redis_server: RedisServer, new_topic: Callable[[], str]
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    items = [
        producing.Item(b"v", b"k", HEADERS),
        producing.Item(None, b"\xff\x00", ()),
        producing.Item(b"", None, [("stream-runner-mapping", b"an earlier letter's")]),
    ]
    await producing.produce(kafka.bootstrap, topic, items)
    settings = KafkaSourceSettings(
        connection=KafkaConnection((kafka.bootstrap,), "test"),
        topics=(topic,),
        group=topic,
        drain_timeout=1.0,
        commit_timeout=5.0,
        session_timeout=6.0,
    )
    async with Reader.of(KafkaSource(settings, now=time.time)) as reader:
        await reader.read(3)
    letters = [letter_for(record) for record in reader.records[Partition(topic, 0)]]
    async with destination(plain(redis_server.address), topic) as target:
        assert await store(target, letters) == [None] * 3
    async with client.connect(redis_server.url) as redis:
        found = [content_of_letter(fields) for fields in await stored(redis, topic)]
    assert [(content.value, content.key, content.headers) for content in found] == [
        (b"v", b"k", HEADERS),
        (None, b"\xff\x00", ()),
        (b"", None, ()),
    ]
