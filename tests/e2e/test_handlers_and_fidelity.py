"""What a function and a dead letter are given of a record: all of it, byte for byte, wherever the function runs."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from e2e_support import configuration, registering_function
from e2e_support.process_fixtures import NewRunner
from e2e_support.registering_function import HostedFunction, Received
from kafka_harness import producing, topics
from kafka_harness.broker import Broker
from kafka_harness.naming import NewTopic
from kafka_harness.producing import Item, Placed
from kafka_harness.topics import Consumed
from runner.clients.lines import decode_line

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

STAMP = 1_700_000_000_123
FOR_EVER = {"retention.ms": "-1"}  # a record with an old timestamp would be gone before it is read
REJECT = ("reject", b"")
SHAPES = {
    "plain": Item(b"value", b"key"),
    "tombstone": Item(None, b"key"),
    "null-key": Item(b"value", None),
    "tombstone-without-key": Item(None, None),
    "empty-value": Item(b"", b"key"),
    "empty-key": Item(b"value", b""),
    "binary": Item(bytes(range(256)), b"\xff\x00\xfe"),
    "duplicate-headers": Item(b"value", b"key", [("twice", b"1"), ("other", b"-"), ("twice", b"2"), ("twice", b"1")]),
    "binary-headers": Item(b"value", b"key", [("bytes", bytes(range(256))), ("empty", b""), ("null", None)]),
    "odd-header-names": Item(b"value", b"key", [("", b"no name"), ("größe", "ü".encode()), ("a b", b"c")]),
}
OWN_PREFIXES = ("stream-runner-", "kafka_dlt-")


@pytest.fixture
def hosted(tmp_path: Path, failed: Callable[[], bool]) -> Iterator[HostedFunction]:
    function = HostedFunction(tmp_path, "hosted", tmp_path / "hosted.register")
    yield function
    function.process.kill()
    if failed():
        print(function.process.output())


async def test_an_aws_handler_gets_every_byte_in_process_and_behind_http(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, hosted: HostedFunction, tmp_path: Path
) -> None:
    topic, dead = new_topic(), [f"{new_topic()}.dead", f"{new_topic()}.dead"]
    for name in (topic, *dead):
        await topics.create_topic(kafka.bootstrap, name, configs=FOR_EVER)
    accepted = [item._replace(timestamp_ms=STAMP + place) for place, item in enumerate(SHAPES.values())]
    rejected = [item._replace(headers=[*item.headers, REJECT]) for item in accepted]
    items = [item for pair in zip(accepted, rejected, strict=True) for item in pair]
    placed = await producing.produce(kafka.bootstrap, topic, items)
    await hosted.start()
    functions = {
        "in-process": configuration.python(registering_function.HANDLER),
        "hosted": configuration.http(hosted.url),
    }
    mappings = {
        function: configuration.from_kafka(
            kafka.bootstrap,
            topic,
            function,
            ordering="none",
            maximum_retry_attempts=0,
            function_response_types=["ReportBatchItemFailures"],
            destination_config=configuration.dead_letters_to(letters),
        )
        for function, letters in zip(functions, dead, strict=True)
    }
    registers = [tmp_path / "in-process.register", tmp_path / "hosted.register"]
    await _run(new_runner, configuration.process(functions, mappings), registers[0])

    expected = [_as_received(item, where) for item, where in zip(items, placed, strict=True)]
    for function, register, letters in zip(functions, registers, dead, strict=True):
        assert list(registering_function.received(register)) == expected
        stored = await topics.read_topic(kafka.bootstrap, letters)
        assert [_content(letter) for letter in stored] == [_item_content(item) for item in rejected]
        assert [letter.timestamp_ms for letter in stored] == [STAMP + place for place in range(len(stored))]
        (call,) = registering_function.registered(register)
        assert call["function_name"] == function
        assert call["arn"].endswith(f":function:{function}")
        assert 0 < call["remaining_ms"] <= 30_000
    events = [registering_function.registered(register)[0]["event"] for register in registers]
    assert events[0] == events[1], "the same module sees the same event"
    assert events[0]["eventSource"] == "SelfManagedKafka"
    assert events[0]["bootstrapServers"] == kafka.bootstrap


async def test_an_aws_handler_that_raises_is_reported_alike_in_process_and_behind_http(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, hosted: HostedFunction, tmp_path: Path
) -> None:
    topic, dead = new_topic(), f"{new_topic()}.dead"
    for name in (topic, dead):
        await topics.create_topic(kafka.bootstrap, name)
    await producing.produce(kafka.bootstrap, topic, [Item(b"bad", b"key", [("fail", b"3")])])
    await hosted.start()
    functions = {
        "in-process": configuration.python(registering_function.HANDLER),
        "hosted": configuration.http(hosted.url),
    }
    keys: dict[str, Any] = {"maximum_retry_attempts": 0, "destination_config": configuration.dead_letters_to(dead)}
    mappings = {name: configuration.from_kafka(kafka.bootstrap, topic, name, **keys) for name in functions}
    await _run(new_runner, configuration.process(functions, mappings), tmp_path / "register")
    letters = {letter.header("stream-runner-function"): letter for letter in await _read(kafka, dead)}
    assert set(letters) == {b"in-process", b"hosted"}
    for letter in letters.values():
        assert letter.header("stream-runner-error-type") == b"ValueError"
        assert letter.header("stream-runner-error-text") == b"xxx"
        assert b"registering.py" in (letter.header("stream-runner-error-stack") or b"")


async def test_a_dead_letter_over_the_brokers_limit_shrinks_in_three_steps(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, tmp_path: Path
) -> None:
    topic, dead = new_topic(), f"{new_topic()}.dead"
    await topics.create_topic(kafka.bootstrap, topic)
    await topics.create_topic(kafka.bootstrap, dead, configs={"max.message.bytes": "4000"})
    mark = ("mark", b"\x00kept")
    items = [
        Item(b"small", b"whole", [mark, ("fail", b"10")]),
        Item(b"m" * 1_500, b"without-error-text", [mark, ("fail", b"2000")]),
        Item(b"l" * 10_000, b"pointer", [mark, ("fail", b"10")]),
        Item(b"l" * 10_000, b"k" * 5_000, [mark, ("fail", b"10")]),
        Item(b"small", b"whole again", [mark, ("fail", b"10")]),
    ]
    placed = await producing.produce(kafka.bootstrap, topic, items)
    mapping = configuration.from_kafka(
        kafka.bootstrap,
        topic,
        "f",
        batch_size=1,
        maximum_retry_attempts=0,
        destination_config=configuration.dead_letters_to(dead),
    )
    functions = {"f": configuration.python(registering_function.HANDLER)}
    await _run(new_runner, configuration.process(functions, {topic: mapping}), tmp_path / "register")

    whole, without_text, pointer, without_key, again = await _read(kafka, dead)
    for letter, item in ((whole, items[0]), (without_text, items[1]), (again, items[4])):
        assert _content(letter) == _item_content(item)
    for letter in (whole, again):
        assert letter.header("stream-runner-error-text") == b"x" * 10
        assert b"ValueError" in (letter.header("kafka_dlt-exception-stacktrace") or b"")
    assert _names(without_text).isdisjoint(
        {
            "stream-runner-error-text",
            "stream-runner-error-stack",
            "kafka_dlt-exception-message",
            "kafka_dlt-exception-stacktrace",
        }
    )
    assert without_text.header("stream-runner-error-type") == b"ValueError"
    assert pointer.key == items[2].key
    assert without_key.key is None
    for letter, where in ((pointer, placed[2]), (without_key, placed[3])):
        _assert_points_to(letter, where)
    assert json.loads(without_key.value or b"")["key_sha256"] == hashlib.sha256(placed[3].key or b"").hexdigest()
    for letter, where in zip((whole, without_text, pointer, without_key, again), placed, strict=True):
        assert letter.header("stream-runner-original-position") == str(where.offset).encode()
        assert letter.header("kafka_dlt-original-offset") == struct.pack(">q", where.offset)
        assert letter.header("stream-runner-condition") == b"RetryAttemptsExhausted"
    assert await topics.committed_offsets(kafka.bootstrap, topic) == {(topic, 0): len(items)}


def _assert_points_to(letter: Consumed, where: Placed) -> None:
    value = where.value or b""
    assert letter.header("stream-runner-pointer") == b"true"
    told = json.loads(letter.value or b"")
    expected = {
        "topic": where.topic,
        "partition": where.partition,
        "offset": where.offset,
        "size": len(value),
        "sha256": hashlib.sha256(value).hexdigest(),
    }
    assert {name: told[name] for name in expected} == expected


async def test_files_can_be_given_up_to_a_topic(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, tmp_path: Path
) -> None:
    dead = f"{new_topic()}.dead"
    await topics.create_topic(kafka.bootstrap, dead)
    directory = tmp_path / "orders"
    directory.mkdir()
    lines = [
        b'{"key": "good", "value": "1"}',
        b'{"key": "bad", "value_base64": "AP8=", "headers": [["reject", ""], ["a", "1"], ["a", {"base64": "/w=="}]]}',
        b'{"value": null, "headers": {"reject": null}, "timestamp": 1700000000123}',
        b"just text",
    ]
    (directory / "3.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    register = tmp_path / "register"
    mapping = configuration.from_files(
        directory,
        "f",
        ordering="none",
        maximum_retry_attempts=0,
        function_response_types=["report_batch_item_failures"],
        destination_config=configuration.dead_letters_to(dead, bootstrap_servers=kafka.bootstrap),
    )
    functions = {"f": configuration.python(registering_function.HANDLER)}
    await _run(new_runner, configuration.process(functions, {"orders": mapping}), register)
    positions = [0, len(lines[0]) + 1, len(lines[0]) + len(lines[1]) + 2]
    received = list(registering_function.received(register))
    assert [(record.key, record.value) for record in received] == [
        (b"good", b"1"),
        (b"bad", b"\x00\xff"),
        (None, None),
        (None, b"just text"),
    ]
    assert [record.offset for record in received[:3]] == positions
    (call,) = registering_function.registered(register)
    assert call["event"]["eventSource"] == "File"
    binary, tombstone = await _read(kafka, dead)
    assert _content(binary) == (b"bad", b"\x00\xff", (("reject", b""), ("a", b"1"), ("a", b"\xff")))
    assert _content(tombstone) == (None, None, (("reject", None),))
    for letter, position in zip((binary, tombstone), positions[1:], strict=True):
        assert letter.header("stream-runner-original-topic") == b"orders"
        assert letter.header("stream-runner-original-partition") == b"3"
        assert letter.header("stream-runner-original-position") == str(position).encode()
        assert letter.header("stream-runner-original-source") == str(directory).encode()


async def test_a_topic_can_be_given_up_to_a_file(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, tmp_path: Path
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, configs=FOR_EVER)
    items = [item._replace(headers=[*item.headers, REJECT], timestamp_ms=STAMP) for item in SHAPES.values()]
    placed = await producing.produce(kafka.bootstrap, topic, items)
    letters_file = tmp_path / "letters" / "dead.jsonl"
    mapping = configuration.from_kafka(
        kafka.bootstrap,
        topic,
        "f",
        maximum_retry_attempts=0,
        function_response_types=["report_batch_item_failures"],
        destination_config={"on_failure": {"file": {"path": str(letters_file)}}},
    )
    functions = {"f": configuration.python(registering_function.HANDLER)}
    await _run(new_runner, configuration.process(functions, {topic: mapping}), tmp_path / "register")
    lines = letters_file.read_bytes().splitlines()
    assert len(lines) == len(items)
    for line, item, where in zip(lines, items, placed, strict=True):
        letter = json.loads(line)
        expected = {
            "topic": topic,
            "partition": 0,
            "position": where.offset,
            "mapping": topic,
            "function": "f",
            "group": topic,
            "source": kafka.bootstrap,
            "condition": "RetryAttemptsExhausted",
            "attempts": 1,
        }
        assert {name: letter[name] for name in expected} == expected
        assert letter["error"]["kind"] == "partial"
        members = ("key", "key_base64", "value", "value_base64", "headers", "timestamp")
        content = decode_line(json.dumps({name: letter[name] for name in members if name in letter}).encode())
        assert (content.key, content.value, content.headers) == _item_content(item)
        assert content.timestamp_ms == STAMP
    assert await topics.committed_offsets(kafka.bootstrap, topic) == {(topic, 0): len(items)}


async def _run(new_runner: NewRunner, config: dict[str, Any], register: Path) -> None:
    """Settle everything; the functions in the runner's process write to ``register``."""
    runner = new_runner(
        config,
        arguments=["--until-caught-up", "--app-dir", str(registering_function.DIRECTORY)],
        environment=registering_function.environment(register),
    )
    runner.launch()
    assert await runner.stopped(60) == 0


async def _read(kafka: Broker, topic: str) -> Sequence[Consumed]:
    return await topics.read_topic(kafka.bootstrap, topic)


def _content(letter: Consumed) -> tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]:
    """Key, value and headers as the record had them: those that the destination added come after them."""
    own = [not name.startswith(OWN_PREFIXES) for name, _ in letter.headers]
    originals = sum(own)
    assert all(own[:originals]), "nothing stands between the record's own headers"
    return letter.key, letter.value, letter.headers[:originals]


def _item_content(item: Item) -> tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]:
    return item.key, item.value, tuple(item.headers)


def _as_received(item: Item, where: Placed) -> Received:
    assert item.timestamp_ms is not None
    headers = tuple(item.headers)
    return Received(where.topic, where.partition, where.offset, item.timestamp_ms, item.key, item.value, headers)


def _names(letter: Consumed) -> set[str]:
    return {name for name, _ in letter.headers}
