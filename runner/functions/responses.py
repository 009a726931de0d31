"""What a function's answer says about its batch: AWS's table for ReportBatchItemFailures.

Empty, ``null``, ``{}``, ``[]``, ``""``, and ``batchItemFailures`` that is missing, null or empty are success. An
identifier that is no object of ``partition`` and ``offset``, or names no record of the batch, fails the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from runner.functions.errors import bad_response, excerpt, printable
from runner.model import SUCCEEDED, ErrorKind, Failed, FunctionError, Invocation, Outcome, PartlyFailed, Position

_IDENTIFIER_CHARACTERS: Final = 128


def outcome_of(body: bytes, invocation: Invocation, redact: Callable[[str], str] = str) -> Outcome:
    """Judge an answer, given as JSON, of a function that reports batch item failures. Never raises.

    ``redact`` takes secrets out of what an error quotes.
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
    return _named(failures, invocation, redact)


def _named(failures: list[Any], invocation: Invocation, redact: Callable[[str], str]) -> Outcome:
    partition = str(invocation.partition)
    known = {record.position for record in invocation.records}
    failed: set[Position] = set()
    for failure in failures:
        position = _position(failure, partition)
        if position is None or position not in known:
            return Failed(
                bad_response(
                    f"batchItemFailures names no record of this batch ({partition}): "
                    f"{printable(redact(repr(failure)), _IDENTIFIER_CHARACTERS)}"
                )
            )
        failed.add(position)
    error = FunctionError(
        kind=ErrorKind.PARTIAL,
        type="BatchItemFailures",
        text=f"{len(failed)} of {len(known)} records were reported as failed",
    )
    return PartlyFailed(frozenset(failed), error)


def _position(failure: Any, partition: str) -> Position | None:
    identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
    if not isinstance(identifier, dict) or identifier.get("partition") != partition:
        return None
    offset = identifier.get("offset")
    # By exact type: to Python, true and 1.0 would be the position 1.
    return offset if type(offset) in (int, str) else None
