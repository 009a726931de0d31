"""The Lambda event carries every record whole, and its size is known before it is encoded."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.functions.payloads.lambda_event import LambdaPayload
from runner.model import Invocation, Partition, Record, TimestampType

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_header_values = st.none() | st.binary(max_size=300)
_fields = st.fixed_dictionaries(
    {
        "key": st.none() | st.binary(max_size=40),
        "value": st.none() | st.binary(max_size=400),
        "headers": st.lists(st.tuples(_text, _header_values), max_size=5).map(tuple),
        "timestamp_ms": st.integers(-1, 2**45),
        "timestamp_type": st.sampled_from(TimestampType),
    }
)
_positions = st.integers(0, 2**62) | st.from_regex(r"[0-9]{1,13}-[0-9]{1,4}", fullmatch=True)
_partitions = st.builds(Partition, _text, st.integers(0, 99_999))


def _decoded(encoded: dict[str, Any]) -> tuple[Any, ...]:
    """What a function reads out of a record of the event."""

    def content(text: str | None) -> bytes | None:
        return None if text is None else base64.b64decode(text, validate=True)

    headers = []
    for header in encoded["headers"]:
        ((name, values),) = header.items()
        headers.append((name, None if values is None else bytes(value % 256 for value in values)))
    return (
        (encoded["topic"], encoded["partition"]),
        encoded["offset"],
        content(encoded["key"]),
        content(encoded["value"]),
        tuple(headers),
        encoded["timestamp"],
        encoded["timestampType"],
    )


@given(partition=_partitions, records=st.lists(st.tuples(_positions, _fields), min_size=1, max_size=4))
def test_every_record_arrives_as_it_was(
    new_record: NewRecord, new_invocation: NewInvocation, partition: Partition, records: list[Any]
) -> None:
    given_records = [new_record(position, partition=partition, **fields) for position, fields in records]
    invocation = new_invocation(*given_records)
    event = json.loads(LambdaPayload("SelfManagedKafka").encode(invocation))
    assert event["eventSource"] == "SelfManagedKafka"
    assert event["bootstrapServers"] == invocation.source
    assert list(event["records"]) == [str(partition)]
    assert [_decoded(record) for record in event["records"][str(partition)]] == [
        (
            record.partition,
            record.position,
            record.key,
            record.value,
            record.headers,
            record.timestamp_ms,
            record.timestamp_type.value,
        )
        for record in given_records
    ]


@given(partition=_partitions, records=st.lists(st.tuples(_positions, _fields), min_size=1, max_size=4))
def test_sizes_and_the_plain_event_agree_with_the_encoded_event(
    new_record: NewRecord, new_invocation: NewInvocation, partition: Partition, records: list[Any]
) -> None:
    given_records = [new_record(position, partition=partition, **fields) for position, fields in records]
    invocation = new_invocation(*given_records)
    payload = LambdaPayload("File", invocation.source)
    encoded = payload.encode(invocation)
    assert payload.exact_size(invocation) == len(encoded)
    assert payload.fixed_size + sum(map(payload.size_of, given_records)) >= len(encoded)
    assert payload.event(invocation) == json.loads(encoded)


@given(
    partition=_partitions,
    fields=_fields,
    names=st.lists(st.tuples(st.text(st.characters(max_codepoint=127), min_size=1), _header_values), max_size=20),
)
def test_no_record_grows_beyond_the_largest_expansion(
    new_record: NewRecord, partition: Partition, fields: dict[str, Any], names: list[Any]
) -> None:
    payload = LambdaPayload("SelfManagedKafka")
    factor, constant = payload.largest_expansion
    record = new_record(2**63 - 1, partition=partition, **(fields | {"headers": tuple(names)}))
    assert payload.size_of(record) <= factor * record.size + constant


def test_the_shape_is_that_of_aws(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    record = new_record(
        15, key=None, value=b"Hello", headers=(("headerKey", b"h\xc3"), ("headerKey", b""), ("nothing", None))
    )
    assert json.loads(LambdaPayload("SelfManagedKafka").encode(new_invocation(record))) == {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": "kafka-1:9092,kafka-2:9092",
        "records": {
            "orders-0": [
                {
                    "topic": "orders",
                    "partition": 0,
                    "offset": 15,
                    "timestamp": 1_700_000_000_000,
                    "timestampType": "CREATE_TIME",
                    "key": None,
                    "value": "SGVsbG8=",
                    "headers": [{"headerKey": [104, -61]}, {"headerKey": []}, {"nothing": None}],
                }
            ]
        },
    }


@pytest.mark.parametrize("description", ["a:1", "x" * 4_000])
def test_without_a_description_the_fixed_size_keeps_room_for_one(
    new_record: NewRecord, new_invocation: NewInvocation, description: str
) -> None:
    record = new_record()
    invocation = Invocation(
        mapping="m", function="f", partition=record.partition, records=[record], attempt=1, source=description
    )
    payload = LambdaPayload("SelfManagedKafka")
    assert payload.fixed_size + payload.size_of(record) >= len(payload.encode(invocation))


def test_a_name_that_is_no_unicode_is_still_encoded(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    payload = LambdaPayload("SelfManagedKafka")
    invocation = new_invocation(new_record(headers=(("bad\udcff", b"1"),)))
    encoded = payload.encode(invocation)
    assert json.loads(encoded)["records"]["orders-0"][0]["headers"] == [{"bad?": [49]}]
    assert payload.exact_size(invocation) == len(encoded)
