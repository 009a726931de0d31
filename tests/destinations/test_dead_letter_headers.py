"""What a dead letter's headers say, and that they do not pile up."""

from __future__ import annotations

import struct
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from destination_harness.letters import letter_of
from runner.destinations.forms import Form
from runner.destinations.headers import dead_letter_headers, original_headers
from runner.destinations.kafka_messages import message_of, timestamp_of
from runner.model import NO_TIMESTAMP, ErrorKind, FunctionError, Headers, TimestampType

ERROR = FunctionError(kind=ErrorKind.ERROR, type="ValueError", text="no amount", stack="line 3", status_code=500)
GIVEN_UP_AT_MS = 1_800_000_000_000


a_letter = partial(
    letter_of,
    number=7,
    position=42,
    timestamp_ms=GIVEN_UP_AT_MS - 1000,
    error=ERROR,
    given_up_at_ms=GIVEN_UP_AT_MS,
)


def test_our_own_names_hold_text() -> None:
    headers = dict(dead_letter_headers(a_letter()))
    assert headers["stream-runner-original-topic"] == b"orders"
    assert headers["stream-runner-original-partition"] == b"7"
    assert headers["stream-runner-original-position"] == b"42"
    assert headers["stream-runner-original-timestamp-ms"] == str(GIVEN_UP_AT_MS - 1000).encode()
    assert headers["stream-runner-original-timestamp-type"] == b"CREATE_TIME"
    assert headers["stream-runner-original-consumer-group"] == b"charge-card"
    assert headers["stream-runner-original-source"] == b"kafka.example:9092"
    assert headers["stream-runner-mapping"] == b"orders-to-charge-card"
    assert headers["stream-runner-function"] == b"charge-card"
    assert headers["stream-runner-condition"] == b"RetryAttemptsExhausted"
    assert headers["stream-runner-attempts"] == b"3"
    assert headers["stream-runner-given-up-at-ms"] == str(GIVEN_UP_AT_MS).encode()
    assert headers["stream-runner-error-kind"] == b"error"
    assert headers["stream-runner-error-type"] == b"ValueError"
    assert headers["stream-runner-error-text"] == b"no amount"
    assert headers["stream-runner-error-stack"] == b"line 3"
    assert headers["stream-runner-error-status-code"] == b"500"


def test_springs_names_hold_what_spring_writes() -> None:
    headers = dict(dead_letter_headers(a_letter(timestamp_type=TimestampType.LOG_APPEND_TIME)))
    assert headers["kafka_dlt-original-topic"] == b"orders"
    assert headers["kafka_dlt-original-partition"] == struct.pack(">i", 7)
    assert headers["kafka_dlt-original-offset"] == struct.pack(">q", 42)
    assert headers["kafka_dlt-original-timestamp"] == struct.pack(">q", GIVEN_UP_AT_MS - 1000)
    assert headers["kafka_dlt-original-timestamp-type"] == b"LogAppendTime"
    assert headers["kafka_dlt-original-consumer-group"] == b"charge-card"
    assert headers["kafka_dlt-exception-fqcn"] == b"ValueError"
    assert headers["kafka_dlt-exception-message"] == b"no amount"
    assert headers["kafka_dlt-exception-stacktrace"] == b"line 3"


def test_without_error_only_what_is_short_is_left() -> None:
    names = {name for name, _ in dead_letter_headers(a_letter(), with_error=False)}
    assert "stream-runner-error-type" in names
    assert "kafka_dlt-exception-fqcn" in names
    assert not names & {
        "stream-runner-error-text",
        "stream-runner-error-stack",
        "kafka_dlt-exception-message",
        "kafka_dlt-exception-stacktrace",
    }


def test_a_letter_without_an_error_names_none() -> None:
    names = [name for name, _ in dead_letter_headers(a_letter(error=None))]
    assert not [name for name in names if "error" in name or "exception" in name]


def test_a_position_that_is_no_number_has_no_spring_offset() -> None:
    headers = dict(dead_letter_headers(a_letter(position="1-0")))
    assert headers["stream-runner-original-position"] == b"1-0"
    assert "kafka_dlt-original-offset" not in headers


def test_a_record_without_timestamp_has_springs_type_for_it() -> None:
    headers = dict(dead_letter_headers(a_letter(timestamp_ms=NO_TIMESTAMP)))
    assert headers["kafka_dlt-original-timestamp-type"] == b"NoTimestampType"


def test_error_text_that_is_not_unicode_is_escaped() -> None:
    error = FunctionError(kind=ErrorKind.ERROR, type="E", text="a\udcffb")
    assert dict(dead_letter_headers(a_letter(error=error)))["stream-runner-error-text"] == b"a\\udcffb"


HEADERS = st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=8)), max_size=6).map(tuple)


@given(HEADERS)
def test_a_dead_letter_of_a_dead_letter_has_the_originals_and_ours_once(headers: Headers) -> None:
    first = message_of(a_letter(headers=headers), Form.WHOLE, GIVEN_UP_AT_MS)
    again = message_of(a_letter(headers=tuple(first.headers), error=None), Form.WHOLE, GIVEN_UP_AT_MS)
    assert again.headers[: len(headers)] == list(headers)
    assert again.headers[len(headers) :] == dead_letter_headers(a_letter(error=None))
    assert original_headers(a_letter(headers=headers).record) == list(headers)


def test_the_timestamp_is_kept_while_the_topic_keeps_the_record() -> None:
    young = a_letter(timestamp_ms=GIVEN_UP_AT_MS - 400)
    old = a_letter(timestamp_ms=GIVEN_UP_AT_MS - 600)
    assert timestamp_of(young, 1000) == GIVEN_UP_AT_MS - 400
    assert timestamp_of(old, None) == GIVEN_UP_AT_MS - 600
    assert timestamp_of(old, 1000) == GIVEN_UP_AT_MS
    assert timestamp_of(a_letter(timestamp_ms=NO_TIMESTAMP), None) == GIVEN_UP_AT_MS
