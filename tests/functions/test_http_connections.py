"""Connections that hang, break off, were idle for too long or never come about, and what counts as an attempt."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runner.functions.http import HttpFunction
from runner.functions.http_connection import _Handler
from runner.model import ErrorKind, Failed, Invocation, Outcome, Succeeded, Throttled

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


async def _connected(open_http: OpenHttp, server: Any, invocation: Invocation, *, timeout: float) -> HttpFunction:
    """One with a connection to use again: what is made of ``timeout`` seconds does not depend on how long it takes to
    connect."""
    function = await open_http(server.url)
    assert isinstance(await function.invoke(invocation), Succeeded)
    function._timeout = timeout
    return function


async def test_a_hung_server_is_a_timeout(open_http: OpenHttp, server: Any, new_invocation: NewInvocation) -> None:
    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    function = await _connected(open_http, server, new_invocation(), timeout=0.2)
    server.reply = reply
    assert "0.2 s" in _failed(await function.invoke(new_invocation()), ErrorKind.TIMEOUT)


async def test_a_response_that_stalls_is_a_timeout(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation
) -> None:
    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        await asyncio.Event().wait()

    function = await _connected(open_http, server, new_invocation(), timeout=0.2)
    server.reply = reply
    _failed(await function.invoke(new_invocation()), ErrorKind.TIMEOUT)


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nConte", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_fresh_connection_lost_after_the_request_is_a_failure(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, sent: bytes, how: str
) -> None:
    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        _end(writer, how)

    server.reply = reply
    function = await open_http(server.url)
    text = _failed(await function.invoke(new_invocation()), ErrorKind.CONNECTION_LOST)
    assert "in-the-query" not in text
    assert len(server.requests) == 1


async def test_a_response_that_is_no_http_is_a_bad_response(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation
) -> None:
    server.reply = server.answers(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    outcome = await (await open_http(server.url)).invoke(new_invocation())
    assert "in-the-query" not in _failed(outcome, ErrorKind.BAD_RESPONSE)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA\x00B: c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 9999 Much\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbinary\x00",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + b"garbage\r\n\r\n",
        b"\x00" * 100_000,
    ],
)
async def test_no_response_makes_it_raise(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, raw: bytes
) -> None:
    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    server.reply = reply
    function = await open_http(server.url, report_batch_item_failures=True)
    outcome = await function.invoke(new_invocation())
    assert isinstance(outcome, Failed), outcome
    assert "in-the-query" not in repr(outcome)


def _end(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "reset":
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
    else:
        writer.close()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_reused_connection_closed_before_any_byte_is_repeated_once_on_a_fresh_one(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse, how: str
) -> None:
    good = server.answers(new_response("200 OK"))

    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 3:
            _end(writer, how)
        else:
            await good(request, writer)

    server.reply = reply
    function = await open_http(server.url)
    invocations = [new_invocation(attempt=number) for number in (1, 2, 3)]
    for invocation in invocations:
        assert isinstance(await function.invoke(invocation), Succeeded)
    assert server.connections == 2
    assert [request.header("stream-runner-attempt") for request in server.requests] == ["1", "2", "3", "3"]
    assert server.requests[2].headers == server.requests[3].headers
    assert server.requests[2].body == server.requests[3].body


async def test_the_repetition_avoids_other_idle_connections(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    good = server.answers(new_response("200 OK"))
    together = asyncio.Barrier(3)

    async def reply_together(request: Any, writer: asyncio.StreamWriter) -> None:
        await together.wait()
        await good(request, writer)

    server.reply = reply_together
    function = await open_http(server.url)
    await asyncio.gather(*[function.invoke(new_invocation()) for _ in range(3)])
    fresh_from = server.connections
    assert fresh_from == 3

    async def close_old(request: Any, writer: asyncio.StreamWriter) -> None:
        if server.connections == fresh_from:
            _end(writer, "close")
        else:
            await good(request, writer)

    server.reply = close_old
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
    assert server.connections == 4


async def test_it_is_repeated_only_once(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    good = server.answers(new_response("200 OK"))

    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            await good(request, writer)
        else:
            _end(writer, "close")

    server.reply = reply
    function = await open_http(server.url)
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
    _failed(await function.invoke(new_invocation()), ErrorKind.CONNECTION_LOST)
    assert len(server.requests) == 3


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_reused_connection_lost_within_its_response_is_not_repeated(
    open_http: OpenHttp,
    server: Any,
    new_invocation: NewInvocation,
    new_response: NewResponse,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    good = server.answers(new_response("200 OK"))
    beginning_read, closing = asyncio.Event(), asyncio.Event()
    received = _Handler.data_received

    def receive(handler: _Handler, data: bytes) -> None:
        received(handler, data)
        if data.endswith(b"Conte"):
            beginning_read.set()

    monkeypatch.setattr(_Handler, "data_received", receive)

    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            await good(request, writer)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nConte")
        await writer.drain()
        await closing.wait()
        _end(writer, how)

    server.reply = reply
    function = await open_http(server.url)
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    await beginning_read.wait()
    closing.set()
    _failed(await call, ErrorKind.CONNECTION_LOST)
    assert len(server.requests) == 2


async def test_an_unknown_host_is_unreachable(open_http: OpenHttp, new_invocation: NewInvocation) -> None:
    for host in ("no-such-host.invalid", "x" * 70 + ".invalid"):
        function = await open_http(f"http://{host}:8080/")
        _throttled(await function.invoke(new_invocation()), ErrorKind.UNREACHABLE)


async def test_a_refused_connection_is_unreachable(open_http: OpenHttp, new_invocation: NewInvocation) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        function = await open_http(f"http://127.0.0.1:{unused.getsockname()[1]}/")
        _throttled(await function.invoke(new_invocation()), ErrorKind.UNREACHABLE)


@pytest.mark.parametrize("limits", [{"connect_timeout": 0.2}, {"connect_timeout": 9.0, "timeout": 0.2}])
async def test_a_connection_that_does_not_come_about_is_unreachable(
    open_http: OpenHttp, new_invocation: NewInvocation, limits: dict[str, float]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        # Fill the backlog, so that the kernel answers no further connection.
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            function = await open_http(f"http://127.0.0.1:{address[1]}/", **limits)
            throttled = _throttled(await function.invoke(new_invocation()), ErrorKind.UNREACHABLE)
            assert "no connection within" in throttled.error.text
        finally:
            for filler in fillers:
                filler.close()


async def test_cancelled_calls_leave_the_function_usable(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    arrived = asyncio.Event()

    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await asyncio.Event().wait()

    server.reply = reply
    function = await open_http(server.url)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    await arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    server.reply = server.answers(new_response("200 OK"))
    assert isinstance(await function.invoke(new_invocation()), Succeeded)


async def test_every_call_has_a_connection_however_many_run_at_once(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse
) -> None:
    calls = 150
    complete = asyncio.Event()
    answer = server.answers(new_response("200 OK"))

    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == calls:
            complete.set()
        await complete.wait()
        await answer(request, writer)

    server.reply = reply
    function = await open_http(server.url, timeout=50.0, connect_timeout=50.0)
    outcomes = await asyncio.gather(*[function.invoke(new_invocation()) for _ in range(calls)])
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    assert server.connections == calls
