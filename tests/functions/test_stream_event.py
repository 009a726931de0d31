"""The event of Redis streams: Kafka's properties, with a stream and an id for topic, partition and offset."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.functions.http import HttpFunction
from runner.functions.payloads.lambda_event import LambdaPayload
from runner.functions.payloads.shape import KAFKA_SHAPE, STREAM_SHAPE, shape_of
from runner.functions.python import PythonFunction
from runner.functions.responses import outcome_of
from runner.model import NO_TIMESTAMP, ErrorKind, Failed, Invocation, Partition, PartlyFailed, Record, TimestampType

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
NewResponse = Callable[..., bytes]
OpenHttp = Callable[..., Awaitable[HttpFunction]]
OpenPython = Callable[..., Awaitable[PythonFunction]]

ORDERS = Partition("orders.{0}", 0)
LARGEST_ID = "18446744073709551615-18446744073709551615"

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_fields = st.fixed_dictionaries(
    {
        "key": st.none() | st.binary(max_size=40),
        "value": st.none() | st.binary(max_size=400),
        "headers": st.lists(st.tuples(_text, st.none() | st.binary(max_size=300)), max_size=5).map(tuple),
        "timestamp_ms": st.integers(NO_TIMESTAMP, 2**45),
        "timestamp_type": st.sampled_from(TimestampType),
    }
)
_ids = st.from_regex(r"[0-9]{1,20}-[0-9]{1,20}", fullmatch=True)
_records = st.lists(st.tuples(_ids, _fields), min_size=1, max_size=4)
_streams = st.builds(Partition, _text, st.just(0))


def _content(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


@given(stream=_streams, records=_records)
def test_every_record_arrives_as_it_was(
    new_record: NewRecord, new_invocation: NewInvocation, stream: Partition, records: list[Any]
) -> None:
    given_records = [new_record(entry, partition=stream, **fields) for entry, fields in records]
    (group,) = json.loads(LambdaPayload("RedisStreams").encode(new_invocation(*given_records)))["records"].items()
    assert group[0] == stream.topic
    for encoded, record in zip(group[1], given_records, strict=True):
        assert (encoded["stream"], encoded["id"]) == (stream.topic, record.position)
        assert (_content(encoded["key"]), _content(encoded["value"])) == (record.key, record.value)
        assert (encoded["timestamp"], encoded["timestampType"]) == (record.timestamp_ms, record.timestamp_type.value)
        headers = [(name, values) for header in encoded["headers"] for name, values in header.items()]
        assert record.headers == tuple(
            (name, None if values is None else bytes(value % 256 for value in values)) for name, values in headers
        )


@given(stream=_streams, records=_records, described=st.booleans())
def test_sizes_and_the_plain_event_agree_with_the_encoded_event(
    new_record: NewRecord, new_invocation: NewInvocation, stream: Partition, records: list[Any], described: bool
) -> None:
    given_records = [new_record(entry, partition=stream, **fields) for entry, fields in records]
    invocation = new_invocation(*given_records)
    payload = LambdaPayload("RedisStreams", invocation.source if described else None)
    encoded = payload.encode(invocation)
    assert payload.exact_size(invocation) == len(encoded)
    assert payload.fixed_size + sum(map(payload.size_of, given_records)) >= len(encoded)
    assert payload.event(invocation) == json.loads(encoded)


@given(
    stream=st.builds(Partition, _text | st.just("\x01" * 255), st.just(0)),
    fields=_fields,
    headers=st.lists(
        st.tuples(st.text(st.characters(max_codepoint=127), min_size=1), st.none() | st.binary(max_size=9)), max_size=20
    ),
)
def test_nothing_exceeds_what_is_said_of_the_largest(
    new_record: NewRecord, new_invocation: NewInvocation, stream: Partition, fields: dict[str, Any], headers: list[Any]
) -> None:
    payload = LambdaPayload("RedisStreams")
    factor, constant = payload.largest_expansion
    record = new_record(LARGEST_ID, partition=stream, **(fields | {"headers": tuple(headers)}))
    assert payload.size_of(record) <= factor * record.size + constant
    assert payload.fixed_size + payload.size_of(record) >= len(payload.encode(new_invocation(record)))


def test_the_shape_is_the_documented_one(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    headers = (("unit", b"h\xc3"), ("unit", b""), ("nothing", None))
    record = new_record("1700-0", partition=ORDERS, key=None, value=b"Hello", headers=headers, timestamp_ms=1_700)
    event = json.loads(LambdaPayload("RedisStreams").encode(new_invocation(record)))
    assert event == {
        "eventSource": "RedisStreams",
        "servers": "kafka-1:9092,kafka-2:9092",
        "records": {
            "orders.{0}": [
                {
                    "stream": "orders.{0}",
                    "id": "1700-0",
                    "timestamp": 1_700,
                    "timestampType": "CREATE_TIME",
                    "key": None,
                    "value": "SGVsbG8=",
                    "headers": [{"unit": [104, -61]}, {"unit": []}, {"nothing": None}],
                }
            ]
        },
    }


def test_files_have_the_events_of_kafka_and_an_unknown_source_has_none() -> None:
    assert shape_of("SelfManagedKafka") is shape_of("File") is KAFKA_SHAPE
    assert shape_of("RedisStreams") is STREAM_SHAPE
    with pytest.raises(ValueError, match=r"'Redis'.*RedisStreams"):
        shape_of("Redis")
    with pytest.raises(ValueError, match="SelfManagedKafka"):
        LambdaPayload("Kafka")


def _failure(entry: Any, stream: Any = ORDERS.topic) -> dict[str, Any]:
    return {"itemIdentifier": {"stream": stream, "id": entry}}


def _answer(*failures: Any) -> bytes:
    return json.dumps({"batchItemFailures": failures}).encode()


@pytest.fixture(scope="module")
def batch(new_record: NewRecord, new_invocation: NewInvocation) -> Invocation:
    return new_invocation(*[new_record(entry, partition=ORDERS) for entry in ("1700-0", "1700-1", "1701-0")])


@pytest.mark.parametrize(
    ("entries", "positions"), [(["1700-1"], {"1700-1"}), (["1701-0", "1700-0", "1701-0"], {"1700-0", "1701-0"})]
)
def test_the_named_records_failed(batch: Invocation, entries: list[str], positions: set[str]) -> None:
    outcome = outcome_of(_answer(*[_failure(entry) for entry in entries]), batch, STREAM_SHAPE)
    assert isinstance(outcome, PartlyFailed)
    assert outcome.positions == positions


@pytest.mark.parametrize(
    "failure",
    [
        _failure("1700-2"),
        _failure("1700"),
        _failure(1700),
        _failure(None),
        _failure(["1700-0"]),
        _failure("1700-0", "orders.{1}"),
        _failure("1700-0", "orders.{0}-0"),
        _failure("1700-0", None),
        {"itemIdentifier": {"partition": "orders.{0}", "offset": "1700-0"}},
        {"itemIdentifier": {"partition": "orders.{0}-0", "offset": "1700-0"}},
        {"itemIdentifier": {"id": "1700-0"}},
        {"itemIdentifier": "1700-0"},
    ],
)
def test_an_identifier_that_names_no_record_fails_the_whole_batch(batch: Invocation, failure: Any) -> None:
    outcome = outcome_of(_answer(_failure("1700-1"), failure), batch, STREAM_SHAPE)
    assert isinstance(outcome, Failed)
    assert outcome.error.kind is ErrorKind.BAD_RESPONSE
    assert "names no record of this batch (orders.{0})" in outcome.error.text
    assert outcome.error.text.endswith('its first is {"itemIdentifier":{"stream":"orders.{0}","id":"1700-0"}}')


@pytest.mark.parametrize("event_source", ["SelfManagedKafka", "RedisStreams"])
def test_a_name_that_is_no_unicode_is_known_as_the_event_spells_it(
    new_record: NewRecord, new_invocation: NewInvocation, event_source: str
) -> None:
    invocation = new_invocation(new_record("5-0", partition=Partition("bad\udcff", 0)))
    shape, payload = shape_of(event_source), LambdaPayload(event_source)
    ((group, records),) = payload.event(invocation)["records"].items()
    assert payload.exact_size(invocation) == len(payload.encode(invocation))
    identifier = {shape.group: group, shape.position: records[0][shape.position]}
    outcome = outcome_of(_answer({"itemIdentifier": identifier}), invocation, shape)
    assert isinstance(outcome, PartlyFailed)


HANDLER = """
    {definition} handle(event, context):
        return {{"batchItemFailures": [
            {{"itemIdentifier": {{"stream": stream, "id": record["id"]}}}}
            for stream, records in event["records"].items() for record in records[1:]
        ]}}
"""


@pytest.mark.parametrize(("definition", "executor"), [("async def", "auto"), ("def", "auto"), ("def", "process")])
async def test_a_handler_names_records_as_its_event_does(
    open_python: OpenPython, batch: Invocation, definition: str, executor: str
) -> None:
    function = await open_python(
        HANDLER.format(definition=definition),
        payload="lambda",
        executor=executor,
        event_source="RedisStreams",
        report_batch_item_failures=True,
    )
    outcome = await function.invoke(batch)
    assert isinstance(outcome, PartlyFailed), outcome
    assert outcome.positions == {"1700-1", "1701-0"}


async def test_a_function_behind_http_names_records_as_its_event_does(
    open_http: OpenHttp, server: Any, batch: Invocation, new_response: NewResponse
) -> None:
    server.reply = server.answers(new_response("200 OK", _answer(_failure("1700-1"))))
    function = await open_http(server.url, event_source="RedisStreams", report_batch_item_failures=True)
    outcome = await function.invoke(batch)
    assert isinstance(outcome, PartlyFailed), outcome
    assert outcome.positions == {"1700-1"}
    (request,) = server.requests
    assert [record["id"] for record in json.loads(request.body)["records"]["orders.{0}"]] == [
        "1700-0",
        "1700-1",
        "1701-0",
    ]
