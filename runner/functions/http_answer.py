"""What an HTTP response means: the function's rows of the delivery contract."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import msgspec

from runner.functions import responses
from runner.functions.errors import (
    EXCERPT_CHARACTERS,
    EXCERPT_SOURCE_BYTES,
    TEXT_CHARACTERS,
    bad_response,
    capped_stack,
    excerpt,
    printable,
)
from runner.functions.http_body import BodyUnusable, read_beginning, read_body
from runner.functions.payloads.shape import EventShape
from runner.model import SUCCEEDED, ErrorKind, Failed, FunctionError, Invocation, Outcome, Throttled

_BEGINNING_SECONDS: Final = 1.0
_THROTTLING: Final = frozenset({429, 503})
_EMULATOR_TIMEOUT: Final = re.compile(rb"(?:[0-9]{4}-\S+ \S+ )?Task timed out after [0-9.]{1,16} seconds\s*")


class AnswerJudge:
    """``emulator_errors``: look for the error bodies that AWS's runtime interface emulator sends with status 200.

    ``shape`` is how identifiers of failed records are spelt. ``maximum_response`` is in bytes, after decompression.
    ``redact`` takes secrets out of texts.
    """

    def __init__(
        self,
        *,
        report_batch_item_failures: bool,
        shape: EventShape,
        emulator_errors: bool,
        maximum_response: int,
        redact: Callable[[str], str],
    ) -> None:
        self._report = report_batch_item_failures
        self._shape = shape
        self._emulator_errors = emulator_errors
        self._maximum_response = maximum_response
        self._redact = redact

    async def outcome_of(self, response: aiohttp.ClientResponse, invocation: Invocation) -> Outcome:
        """Raises what aiohttp raises when the connection is lost before the end of a 2xx response."""
        if 200 <= response.status < 300:
            return await self._success(response, invocation)
        error = await self._refusal(response)
        if response.status in _THROTTLING:
            return Throttled(error, retry_after_seconds(response.headers.get("Retry-After"), time.time()))
        return Failed(error)

    async def _success(self, response: aiohttp.ClientResponse, invocation: Invocation) -> Outcome:
        function_error = response.headers.get("X-Amz-Function-Error")
        try:
            body = await read_body(response, self._maximum_response)
        except BodyUnusable as unusable:
            response.close()
            if function_error is not None:
                return Failed(self._reported(b"", function_error, response.status))
            return Failed(bad_response(str(unusable))) if self._report else SUCCEEDED
        if function_error is not None:
            return Failed(self._reported(body, function_error, response.status))
        if self._emulator_errors:
            error = self._emulator_error(body, response.status)
            if error is not None:
                return Failed(error)
        return responses.outcome_of(body, invocation, self._shape, self._redact) if self._report else SUCCEEDED

    async def _refusal(self, response: aiohttp.ClientResponse) -> FunctionError:
        """The status decides. The body is only for the text: it must neither keep the lane waiting nor break it."""
        try:
            async with asyncio.timeout(_BEGINNING_SECONDS):
                text = excerpt(await read_beginning(response, EXCERPT_SOURCE_BYTES), self._redact)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            response.close()
            text = f"(the body broke off: {type(error).__name__})"
        status = response.status
        about = "a redirect, which is not followed" if 300 <= status < 400 else self._shown(response.reason or "", 64)
        return FunctionError(
            kind=ErrorKind.THROTTLED if status in _THROTTLING else ErrorKind.ERROR,
            type=f"HTTP {status}",
            text=": ".join(filter(None, [f"HTTP {status} {about}".rstrip(), text])),
            status_code=status,
        )

    def _reported(self, body: bytes, function_error: str, status: int) -> FunctionError:
        """What a response with X-Amz-Function-Error says, in AWS's form when the body has it."""
        header = self._shown(function_error, 64)
        return self._aws_error(_object(body), status) or FunctionError(
            kind=ErrorKind.ERROR,
            type=header or "Unhandled",
            text=excerpt(body, self._redact) or f"X-Amz-Function-Error: {header}",
            status_code=status,
        )

    def _emulator_error(self, body: bytes, status: int) -> FunctionError | None:
        if b'"errorMessage"' in body and b'"errorType"' in body:
            answer = _object(body)
            return None if "batchItemFailures" in answer else self._aws_error(answer, status)
        if len(body) < EXCERPT_CHARACTERS and _EMULATOR_TIMEOUT.fullmatch(body):
            text = excerpt(body, self._redact)
            return FunctionError(kind=ErrorKind.TIMEOUT, type="TimeoutError", text=text, status_code=status)
        return None

    def _aws_error(self, answer: dict[str, Any], status: int) -> FunctionError | None:
        error_type, message = answer.get("errorType"), answer.get("errorMessage")
        if not isinstance(error_type, str) or not isinstance(message, str):
            return None
        trace = answer.get("stackTrace")
        stack = "".join([line for line in trace if isinstance(line, str)]) if isinstance(trace, list) else ""
        return FunctionError(
            kind=ErrorKind.ERROR,
            type=self._shown(error_type, 128),
            text=self._shown(message, TEXT_CHARACTERS),
            stack=capped_stack(self._redact(stack)),
            status_code=status,
        )

    def _shown(self, text: str, limit: int) -> str:
        return printable(self._redact(text), limit)


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Seconds from ``now`` (epoch seconds) that a Retry-After header asks for; None when it is neither form."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
