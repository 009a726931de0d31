"""What a function's answer says about its batch: AWS's table for ReportBatchItemFailures.

Empty, ``null``, ``{}``, ``[]``, ``""``, and ``batchItemFailures`` that is missing, null or empty are success. An
identifier that is no object of ``partition`` and ``offset`` (or the members that the event's shape has for them), or
names no record of the batch, fails the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from runner.functions.errors import bad_response, excerpt, printable
from runner.functions.payloads.shape import EventShape
from runner.model import SUCCEEDED, ErrorKind, Failed, FunctionError, Invocation, Outcome, PartlyFailed, Position

_IDENTIFIER_CHARACTERS: Final = 128


def outcome_of(body: bytes, invocation: Invocation, shape: EventShape, redact: Callable[[str], str] = str) -> Outcome:
    """Judge an answer, given as JSON, of a function that reports batch item failures. Never raises.

    ``shape`` is that of the source's events, whatever the payload. ``redact`` takes secrets out of what an error
    quotes.
    """
    if not body or body.isspace():
        return SUCCEEDED
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Failed(bad_response(f"the response is not JSON ({error}): {excerpt(body, redact)}"))
    if answer is None or answer in ("", [], {}):
        return SUCCEEDED
    if not isinstance(answer, dict):
        return Failed(bad_response(f"the response is no object with batchItemFailures: {excerpt(body, redact)}"))
    failures = answer.get("batchItemFailures")
    if failures is None or failures == []:
        return SUCCEEDED
    if not isinstance(failures, list):
        return Failed(bad_response(f"batchItemFailures is no list: {excerpt(body, redact)}"))
    return _named(failures, invocation, shape, redact)


def _named(failures: list[Any], invocation: Invocation, shape: EventShape, redact: Callable[[str], str]) -> Outcome:
    group = shape.group_of(invocation.partition)
    known = {record.position for record in invocation.records}
    failed: set[Position] = set()
    for failure in failures:
        position = _position(failure, shape, group)
        if position is None or position not in known:
            return Failed(
                bad_response(
                    f"batchItemFailures names no record of this batch ({group}): "
                    f"{printable(redact(repr(failure)), _IDENTIFIER_CHARACTERS)}; "
                    f"its first is {_identifier(invocation, shape, group)}"
                )
            )
        failed.add(position)
    error = FunctionError(
        kind=ErrorKind.PARTIAL,
        type="BatchItemFailures",
        text=f"{len(failed)} of {len(known)} records were reported as failed",
    )
    return PartlyFailed(frozenset(failed), error)


def _identifier(invocation: Invocation, shape: EventShape, group: str) -> str:
    """How a function names the first record."""
    named = {"itemIdentifier": {shape.group: group, shape.position: invocation.records[0].position}}
    return msgspec.json.encode(named).decode()


def _position(failure: Any, shape: EventShape, group: str) -> Position | None:
    identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
    if not isinstance(identifier, dict) or identifier.get(shape.group) != group:
        return None
    position = identifier.get(shape.position)
    # By exact type: to Python, true and 1.0 would be the position 1.
    return position if type(position) in (int, str) else None
