"""Every row of the delivery contract on the function's side, against real servers on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from runner.functions.http import HttpFunction
from runner.functions.http_answer import retry_after_seconds
from runner.model import (
    ErrorKind,
    Failed,
    Invocation,
    Outcome,
    PartlyFailed,
    Record,
    Succeeded,
    Throttled,
    TooLarge,
)

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
NewResponse = Callable[..., bytes]
OpenHttp = Callable[..., Awaitable[HttpFunction]]


def _failed(outcome: Outcome, kind: ErrorKind) -> str:
    assert isinstance(outcome, Failed), outcome
    assert outcome.error.kind is kind, outcome
    return outcome.error.text


def _throttled(outcome: Outcome, kind: ErrorKind) -> Throttled:
    assert isinstance(outcome, Throttled), outcome
    assert outcome.error.kind is kind, outcome
    return outcome


async def _outcome(open_http: OpenHttp, server: Any, invocation: Invocation, raw: bytes, **settings: Any) -> Outcome:
    server.reply = server.answers(raw)
    return await (await open_http(server.url, **settings)).invoke(invocation)


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
async def test_2xx_is_success(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse, status: str
) -> None:
    assert isinstance(await _outcome(open_http, server, new_invocation(), new_response(status)), Succeeded)


@pytest.mark.parametrize("body", [b"not JSON", b"x" * 200_000, b'{"batchItemFailures": [{"itemIdentifier": ""}]}'])
async def test_without_partial_responses_a_2xx_body_is_ignored(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse, body: bytes
) -> None:
    outcome = await _outcome(open_http, server, new_invocation(), new_response("200 OK", body))
    assert isinstance(outcome, Succeeded)


async def test_with_partial_responses_the_named_records_failed(
    open_http: OpenHttp,
    server: Any,
    new_record: NewRecord,
    new_invocation: NewInvocation,
    new_response: NewResponse,
) -> None:
    body = b'{"batchItemFailures": [{"itemIdentifier": {"partition": "orders-0", "offset": 2}}]}'
    invocation = new_invocation(new_record(1), new_record(2))
    outcome = await _outcome(
        open_http, server, invocation, new_response("200 OK", body), report_batch_item_failures=True
    )
    assert isinstance(outcome, PartlyFailed)
    assert outcome.positions == {2}


@pytest.mark.parametrize("body", [b"<html>", b"[" + b"1," * 100_000 + b"1]"])
async def test_with_partial_responses_a_body_that_is_no_json_or_too_large_fails_the_batch(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse, body: bytes
) -> None:
    raw = new_response("200 OK", body)
    outcome = await _outcome(open_http, server, new_invocation(), raw, report_batch_item_failures=True)
    _failed(outcome, ErrorKind.BAD_RESPONSE)


async def test_with_partial_responses_an_empty_body_is_success(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    raw = new_response("200 OK")
    outcome = await _outcome(open_http, server, new_invocation(), raw, report_batch_item_failures=True)
    assert isinstance(outcome, Succeeded)


@pytest.mark.parametrize(
    "status",
    ["400 Bad Request", "404 Not Found", "408 Request Timeout", "413 Too Large", "500 Oops", "502 Bad", "504 Late"],
)
async def test_other_statuses_fail(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse, status: str
) -> None:
    raw = new_response(status, b"went\r\nwrong \x1b[31m" + b"x" * 3_000)
    outcome = await _outcome(open_http, server, new_invocation(), raw)
    text = _failed(outcome, ErrorKind.ERROR)
    assert text.startswith(f"HTTP {status}: went\\r\\nwrong \\x1b[31mxxx")
    assert text.isprintable()
    assert len(text) < 600
    assert isinstance(outcome, Failed)
    assert outcome.error.status_code == int(status[:3])


async def test_a_redirect_is_not_followed(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    raw = new_response("307 Temporary Redirect", b"", f"Location: {server.url}")
    assert "not followed" in _failed(await _outcome(open_http, server, new_invocation(), raw), ErrorKind.ERROR)
    assert len(server.requests) == 1


async def test_a_cookie_is_not_sent_back(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    server.reply = server.answers(new_response("200 OK", b"", "Set-Cookie: session=1; Path=/"))
    function = await open_http(server.url)
    for _ in range(2):
        await function.invoke(new_invocation())
    assert server.connections == 1
    assert [request.header("cookie") for request in server.requests] == [None, None]


async def test_the_function_error_header_fails_whatever_the_status(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    body = json.dumps({"errorMessage": "no stock", "errorType": "KeyError", "stackTrace": ["line 1\n", "line 2\n"]})
    raw = new_response("200 OK", body.encode(), "X-Amz-Function-Error: Unhandled")
    outcome = await _outcome(open_http, server, new_invocation(), raw, payload="raw")
    assert _failed(outcome, ErrorKind.ERROR) == "no stock"
    assert isinstance(outcome, Failed)
    assert (outcome.error.type, outcome.error.stack) == ("KeyError", "line 1\nline 2\n")

    for body_bytes in (b"", b"x" * 200_000):
        raw = new_response("200 OK", body_bytes, "X-Amz-Function-Error: Unhandled")
        outcome = await _outcome(open_http, server, new_invocation(), raw)
        assert _failed(outcome, ErrorKind.ERROR) == "X-Amz-Function-Error: Unhandled"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"errorMessage": "no stock", "errorType": "KeyError", "requestId": "1"}', ErrorKind.ERROR),
        (b"Task timed out after 3.00 seconds", ErrorKind.TIMEOUT),
        (b"2026-01-01T00:00:00Z 7b1e Task timed out after 3.00 seconds\n\n", ErrorKind.TIMEOUT),
    ],
)
async def test_the_emulators_error_bodies_count_with_the_lambda_payload_only(
    open_http: OpenHttp,
    server: Any,
    new_invocation: NewInvocation,
    new_response: NewResponse,
    body: bytes,
    kind: ErrorKind,
) -> None:
    raw = new_response("200 OK", body)
    _failed(await _outcome(open_http, server, new_invocation(), raw), kind)
    assert isinstance(await _outcome(open_http, server, new_invocation(), raw, payload="raw"), Succeeded)


@pytest.mark.parametrize(
    "body",
    [
        b'{"errorMessage": "none", "errorType": "none", "batchItemFailures": []}',
        b'{"errorMessage": 1, "errorType": null}',
        b'["errorMessage", "errorType"]',
        b"I said: Task timed out after 3.00 seconds",
    ],
)
async def test_bodies_that_only_resemble_the_emulators_are_no_errors(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse, body: bytes
) -> None:
    outcome = await _outcome(open_http, server, new_invocation(), new_response("200 OK", body))
    assert isinstance(outcome, Succeeded)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(("headers", "seconds"), [(["Retry-After: 7"], 7.0), ([], None), (["Retry-After: x"], None)])
async def test_throttled(
    open_http: OpenHttp,
    server: Any,
    new_invocation: NewInvocation,
    new_response: NewResponse,
    status: str,
    headers: list[str],
    seconds: float | None,
) -> None:
    outcome = await _outcome(open_http, server, new_invocation(), new_response(status, b"later", *headers))
    throttled = _throttled(outcome, ErrorKind.THROTTLED)
    assert throttled.retry_after == seconds
    assert throttled.error.text == f"HTTP {status}: later"


def test_retry_after_as_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = format_datetime(now + timedelta(minutes=2), usegmt=True)
    assert retry_after_seconds(later, now.timestamp()) == 120.0
    assert retry_after_seconds(later, now.timestamp() + 500) == 0.0
    for value in ("-1", "1.5", "", "Thu, 99 Jan 2026 00:00:00 GMT", "9" * 400, "²"):
        assert retry_after_seconds(value, now.timestamp()) is None


async def test_throttled_even_when_its_body_breaks_off(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation
) -> None:
    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\nRetry-After: 3\r\n\r\npartial")
        await writer.drain()
        writer.close()

    server.reply = reply
    function = await open_http(server.url)
    assert _throttled(await function.invoke(new_invocation()), ErrorKind.THROTTLED).retry_after == 3.0


async def test_too_large_is_not_sent(
    open_http: OpenHttp, server: Any, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_http(server.url, maximum_payload=1_000)
    outcome = await function.invoke(new_invocation(new_record(value=b"x" * 1_000)))
    assert isinstance(outcome, TooLarge)
    assert outcome.error.kind is ErrorKind.TOO_LARGE
    assert server.requests == []


async def test_a_large_payload_arrives_whole(
    open_http: OpenHttp, server: Any, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_http(server.url, payload="raw")
    value = bytes(range(256)) * 12_000
    assert isinstance(await function.invoke(new_invocation(new_record(value=value))), Succeeded)
    assert server.requests[0].body == value


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("report", [True, False])
async def test_a_zip_bomb_is_given_up_at_the_cap(
    open_http: OpenHttp,
    server: Any,
    new_invocation: NewInvocation,
    new_response: NewResponse,
    encoding: str,
    report: bool,
) -> None:
    bomb = b" " * 50_000_000
    body = gzip.compress(bomb) if encoding == "gzip" else zlib.compress(bomb)
    raw = new_response("200 OK", body, f"Content-Encoding: {encoding}")
    outcome = await _outcome(open_http, server, new_invocation(), raw, report_batch_item_failures=report)
    if report:
        assert "larger than 100000 bytes" in _failed(outcome, ErrorKind.BAD_RESPONSE)
    else:
        assert isinstance(outcome, Succeeded)
    assert server.requests[0].header("accept-encoding") == "identity"

    raw = new_response("500 Oops", body, f"Content-Encoding: {encoding}")
    _failed(await _outcome(open_http, server, new_invocation(), raw), ErrorKind.ERROR)


async def test_a_compressed_answer_is_understood(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    body = gzip.compress(b'{"batchItemFailures": [{"itemIdentifier":') + gzip.compress(
        b'{"partition": "orders-0", "offset": 0}}]}'
    )
    raw = new_response("200 OK", body, "Content-Encoding: gzip")
    outcome = await _outcome(open_http, server, new_invocation(), raw, report_batch_item_failures=True)
    assert isinstance(outcome, PartlyFailed)


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"{}"), ("gzip", b"{}"), ("gzip", gzip.compress(b"{}" * 1_000)[:-9])]
)
async def test_an_encoding_that_cannot_be_undone_fails_the_batch(
    open_http: OpenHttp,
    server: Any,
    new_invocation: NewInvocation,
    new_response: NewResponse,
    encoding: str,
    body: bytes,
) -> None:
    raw = new_response("200 OK", body, f"Content-Encoding: {encoding}")
    outcome = await _outcome(open_http, server, new_invocation(), raw, report_batch_item_failures=True)
    _failed(outcome, ErrorKind.BAD_RESPONSE)
    raw = new_response("500 Oops", body, f"Content-Encoding: {encoding}")
    _failed(await _outcome(open_http, server, new_invocation(), raw), ErrorKind.ERROR)
