"""What every HTTP call carries, and what no error ever shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runner.clients.secret import Secret
from runner.functions.http import HttpFunction
from runner.model import ErrorKind, Failed, Invocation, Partition, Record, Succeeded, Throttled
from runner.ports import FunctionNotValid

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
NewResponse = Callable[..., bytes]
OpenHttp = Callable[..., Awaitable[HttpFunction]]

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_every_call_says_who_it_is(
    open_http: OpenHttp, server: Any, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_http(server.url)
    invocation = new_invocation(new_record(4), new_record(9), attempt=3)
    await function.invoke(invocation)
    (request,) = server.requests
    assert request.line == "POST /invoke?token=in-the-query HTTP/1.1"
    assert dict(request.headers) | {"host": "", "content-length": ""} == {
        "host": "",
        "content-length": "",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "stream-runner",
        "stream-runner-mapping": "orders-to-charge",
        "stream-runner-partition": "orders-0",
        "stream-runner-first-position": "4",
        "stream-runner-last-position": "9",
        "stream-runner-attempt": "3",
        "idempotency-key": invocation.idempotency_key,
    }
    assert [record["offset"] for record in json.loads(request.body)["records"]["orders-0"]] == [4, 9]


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (TRACEPARENT, True),
        ("cc" + TRACEPARENT[2:] + "-what-the-future-brings", True),
        (TRACEPARENT + "-more", False),
        ("ff" + TRACEPARENT[2:], False),
        (TRACEPARENT.upper(), False),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01", False),
        (TRACEPARENT + "\r\nX-Injected: 1", False),
        ("cc" + TRACEPARENT[2:] + "-" + "x" * 9_000, False),
        ("", False),
    ],
)
async def test_only_a_valid_traceparent_is_passed_on(
    open_http: OpenHttp, server: Any, new_record: NewRecord, new_invocation: NewInvocation, value: str, valid: bool
) -> None:
    function = await open_http(server.url)
    await function.invoke(new_invocation(new_record(headers=(("traceparent", value.encode()),))))
    (request,) = server.requests
    assert request.header("traceparent") == (value if valid else None)
    assert request.header("x-injected") is None


async def test_names_and_positions_cannot_inject_headers(
    open_http: OpenHttp, server: Any, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_http(server.url)
    record = new_record("1\r\nX-Injected: 1", partition=Partition("größe\n%", 1))
    await function.invoke(new_invocation(record, mapping="a\r\nb"))
    (request,) = server.requests
    assert request.header("x-injected") is None
    assert request.header("stream-runner-mapping") == "a%0D%0Ab"
    assert request.header("stream-runner-partition") == "gr%C3%B6%C3%9Fe%0A%25-1"


async def test_raw_sends_the_value_and_puts_the_rest_into_headers(
    open_http: OpenHttp, server: Any, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_http(server.url, payload="raw")
    record = new_record(
        7, key=b"\xffk", value=b"\x00body", headers=(("Tag", b"a b"), ("Tag", b"\r\n"), ("Host", b"evil"))
    )
    assert isinstance(await function.invoke(new_invocation(record)), Succeeded)
    (request,) = server.requests
    assert request.body == b"\x00body"
    assert request.header("content-type") == "application/octet-stream"
    assert request.header("stream-runner-key") == "%FFk"
    assert request.header("stream-runner-first-position") == "7"
    tags = [value for name, value in request.headers if name == "stream-runner-header-tag"]
    assert tags == ["a%20b", "%0D%0A"]
    assert request.header("host").startswith("localhost:")


async def test_static_headers_and_the_bearer_token_are_sent_and_read_again(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first-token\n")
    function = await open_http(
        server.url,
        headers={"X-Team": Secret(literal="payments"), "content-type": Secret(literal="application/x-own")},
        bearer_token=Secret(path=token),
    )
    await function.invoke(new_invocation())
    token.write_text("second-token-is-longer\n")
    await function.invoke(new_invocation())
    rotated = tmp_path / "rotated"
    rotated.write_text("third-token-same-length")
    rotated.replace(token)
    await function.invoke(new_invocation())
    assert [request.header("authorization") for request in server.requests] == [
        "Bearer first-token",
        "Bearer second-token-is-longer",
        "Bearer third-token-same-length",
    ]
    assert server.requests[0].header("x-team") == "payments"
    assert [value for name, value in server.requests[0].headers if name == "content-type"] == ["application/x-own"]


@pytest.mark.parametrize("content", [None, "line\nbreak", "\x00"])
async def test_a_token_that_becomes_unreadable_is_waited_for(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, tmp_path: Path, content: str | None
) -> None:
    token = tmp_path / "token"
    token.write_text("good-token")
    function = await open_http(server.url, bearer_token=Secret(path=token))
    if content is None:
        token.unlink()
    else:
        token.write_text(content)
    outcome = await function.invoke(new_invocation())
    assert isinstance(outcome, Throttled)
    assert outcome.error.kind is ErrorKind.UNREACHABLE
    assert server.requests == []
    token.write_text("new-good-token")
    assert isinstance(await function.invoke(new_invocation()), Succeeded)


@pytest.mark.parametrize("status", ["200 OK", "500 the-secret-token", "503 Busy"])
@pytest.mark.parametrize(
    "body",
    [
        b"you sent the-secret-token",
        b"x" * 505 + b"the-secret-token",
        b'{"errorType": "the-secret-token", "errorMessage": "the-secret-token", "stackTrace": ["the-secret-token"]}',
        b'{"batchItemFailures": [{"itemIdentifier": "the-secret-token"}]}',
    ],
)
async def test_an_echoed_secret_is_in_no_error(
    open_http: OpenHttp,
    server: Any,
    new_invocation: NewInvocation,
    new_response: NewResponse,
    status: str,
    body: bytes,
) -> None:
    server.reply = server.answers(new_response(status, body))
    secret = Secret(literal="the-secret-token")
    function = await open_http(server.url, bearer_token=secret, report_batch_item_failures=True)
    outcome = await function.invoke(new_invocation())
    assert isinstance(outcome, Failed | Throttled)
    assert "the-sec" not in repr(outcome)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "ftp://localhost/"},
        {"url": "localhost:8080"},
        {"url": "http://"},
        {"url": "http://localhost:99999999/"},
        {"url": "http://user:password@localhost/"},
        {"headers": {"bad name": Secret(literal="x")}},
        {"headers": {"": Secret(literal="x")}},
        {"headers": {"Content-Length": Secret(literal="0")}},
        {"headers": {"A": Secret(literal="1"), "a": Secret(literal="2")}},
        {"headers": {"A": Secret(literal="1\r\nB: 2")}},
        {"headers": {"Authorization": Secret(literal="x")}, "bearer_token": Secret(literal="y")},
        {"bearer_token": Secret(path=Path("/no/such/file"))},
    ],
)
async def test_settings_that_cannot_work_are_refused_at_open(open_http: OpenHttp, settings: dict[str, Any]) -> None:
    with pytest.raises(FunctionNotValid) as refused:
        await open_http(**({"url": "http://localhost/"} | settings))
    assert "password@" not in str(refused.value)


async def test_close_can_come_unopened_and_twice(open_http: OpenHttp, server: Any) -> None:
    function = await open_http(server.url)
    await function.close()
    await function.close()
    with pytest.raises(FunctionNotValid):
        await open_http("nowhere")


async def test_calls_run_at_once(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    together = asyncio.Barrier(8)
    good = server.answers(new_response("200 OK"))

    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        await together.wait()
        await good(request, writer)

    server.reply = reply
    function = await open_http(server.url)
    outcomes = await asyncio.gather(*[function.invoke(new_invocation()) for _ in range(8)])
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    assert server.connections == 8
