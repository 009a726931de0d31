"""Answers of functions that report batch item failures: AWS's table, row by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.functions.payloads.shape import KAFKA_SHAPE
from runner.functions.responses import outcome_of
from runner.model import ErrorKind, Failed, Invocation, PartlyFailed, Record, Succeeded

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]


def _failure(offset: Any, partition: Any = "orders-0") -> dict[str, Any]:
    return {"itemIdentifier": {"partition": partition, "offset": offset}}


@pytest.fixture(scope="module")
def batch(new_record: NewRecord, new_invocation: NewInvocation) -> Invocation:
    return new_invocation(new_record(5), new_record(6), new_record(9))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"null",
        b"{}",
        b"[]",
        b'""',
        b'{"batchItemFailures": []}',
        b'{"batchItemFailures": null}',
        b'{"statusCode": 200}',
    ],
)
def test_success(batch: Invocation, body: bytes) -> None:
    assert isinstance(outcome_of(body, batch, KAFKA_SHAPE), Succeeded)


@pytest.mark.parametrize(
    "failures",
    [
        [{"itemIdentifier": ""}],
        [{"itemIdentifier": None}],
        [{"itemIdentifier": {}}],
        [{"itemIdentifier": "5"}],
        [{"itemIdentifier": 5}],
        [{"foo": {"partition": "orders-0", "offset": 5}}],
        [{"foo": None}],
        [{}],
        [None],
        ["5"],
        [_failure(7)],
        [_failure("5")],
        [_failure(5.0)],
        [_failure(True)],
        [_failure(None)],
        [_failure(-1)],
        [_failure([5])],
        [_failure(5, "orders-1")],
        [_failure(5, "")],
        [_failure(5, None)],
        [_failure(5), _failure(7)],
        {"itemIdentifier": {"partition": "orders-0", "offset": 5}},
        "5",
        5,
        False,
    ],
)
def test_an_identifier_that_names_no_record_fails_the_whole_batch(batch: Invocation, failures: Any) -> None:
    outcome = outcome_of(json.dumps({"batchItemFailures": failures}).encode(), batch, KAFKA_SHAPE)
    assert isinstance(outcome, Failed)
    assert outcome.error.kind is ErrorKind.BAD_RESPONSE
    assert "batchItemFailures" in outcome.error.text


@pytest.mark.parametrize(
    "body", [b"<html>", b"{", b"\xff\xfe", b'"done"', b"7", b"true", b"[1]", b"[" * 100_000, b"NaN"]
)
def test_an_answer_that_is_no_json_object_fails_the_batch(batch: Invocation, body: bytes) -> None:
    outcome = outcome_of(body, batch, KAFKA_SHAPE)
    assert isinstance(outcome, Failed)
    assert outcome.error.kind is ErrorKind.BAD_RESPONSE


@pytest.mark.parametrize(
    ("offsets", "positions"), [([6], {6}), ([9, 5], {5, 9}), ([5, 5], {5}), ([5, 6, 9], {5, 6, 9})]
)
def test_the_named_records_failed(batch: Invocation, offsets: list[int], positions: set[int]) -> None:
    body = json.dumps({"batchItemFailures": [_failure(offset) for offset in offsets], "other": 1}).encode()
    outcome = outcome_of(body, batch, KAFKA_SHAPE)
    assert isinstance(outcome, PartlyFailed)
    assert outcome.positions == positions
    assert outcome.error.kind is ErrorKind.PARTIAL
    assert outcome.error.text == f"{len(positions)} of 3 records were reported as failed"


def test_positions_may_be_texts(new_record: NewRecord, new_invocation: NewInvocation) -> None:
    batch = new_invocation(new_record("5-0"), new_record("5-1"))
    outcome = outcome_of(json.dumps({"batchItemFailures": [_failure("5-1")]}).encode(), batch, KAFKA_SHAPE)
    assert isinstance(outcome, PartlyFailed)
    assert outcome.positions == {"5-1"}


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from([5, 6, "orders-0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["batchItemFailures", "itemIdentifier", "partition", "offset", "x"]), inner, max_size=4
        )
    ),
)


@given(answer=_json, failures=st.none() | st.lists(_json, max_size=3))
def test_no_json_makes_it_raise(batch: Invocation, answer: Any, failures: list[Any] | None) -> None:
    body = json.dumps(answer if failures is None else {"batchItemFailures": failures}).encode()
    outcome = outcome_of(body, batch, KAFKA_SHAPE)
    if isinstance(outcome, PartlyFailed):
        assert outcome.positions
        assert outcome.positions <= {5, 6, 9}


@given(body=st.binary(max_size=60))
def test_no_bytes_make_it_raise(batch: Invocation, body: bytes) -> None:
    assert isinstance(outcome_of(body, batch, KAFKA_SHAPE), Succeeded | Failed)
