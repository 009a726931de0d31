"""Functions behind HTTP: they learn the generation of a lease, and nothing is written once it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runner.functions.http import HttpFunction
from runner.model import ErrorKind, Invocation, Lease, Outcome, Record, Succeeded, Throttled

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
NewResponse = Callable[..., bytes]
OpenHttp = Callable[..., Awaitable[HttpFunction]]

BODY_BYTES = 16 << 20


def _expired(outcome: Outcome) -> None:
    assert isinstance(outcome, Throttled), outcome
    assert (outcome.error.kind, outcome.error.type) == (ErrorKind.UNREACHABLE, "LeaseExpired")
    assert "orders-0, generation 7" in outcome.error.text
    assert outcome.retry_after is None


@asynccontextmanager
async def _received(on_bytes: Callable[[], None]) -> AsyncIterator[tuple[str, asyncio.Future[bytes]]]:
    """A URL, and all bytes of the one connection to it, once the other side has closed it."""
    everything: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        try:
            while some := await reader.read(1 << 16):
                on_bytes()
                received += some
        except ConnectionResetError:
            on_bytes()
        writer.close()
        everything.set_result(bytes(received))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", everything


@pytest.mark.parametrize("payload", ["lambda", "raw"])
async def test_a_call_says_its_generation(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, payload: str, clock: Any
) -> None:
    function = await open_http(server.url, payload=payload, now=clock.now)
    for lease in (Lease(1_700_000_000_123, 10.0), None):
        assert isinstance(await function.invoke(new_invocation(lease=lease)), Succeeded)
    assert [request.header("stream-runner-generation") for request in server.requests] == ["1700000000123", None]


async def test_without_a_clock_no_lease_ends(open_http: OpenHttp, server: Any, new_invocation: NewInvocation) -> None:
    function = await open_http(server.url)
    assert isinstance(await function.invoke(new_invocation(lease=Lease(7, 0.0))), Succeeded)


@pytest.mark.parametrize(("payload", "value"), [("lambda", b"v"), ("raw", b""), ("raw", b"v")])
@pytest.mark.parametrize("until", [0.0, -1.0])
async def test_not_one_byte_is_written_once_the_lease_is_over(
    open_http: OpenHttp,
    new_record: NewRecord,
    new_invocation: NewInvocation,
    payload: str,
    value: bytes,
    until: float,
    clock: Any,
) -> None:
    async with _received(lambda: None) as (url, everything):
        function = await open_http(url, payload=payload, now=clock.now)
        _expired(await function.invoke(new_invocation(new_record(value=value), lease=Lease(7, until))))
        assert await everything == b""


async def test_a_lease_that_ends_within_a_large_body_leaves_it_incomplete(
    open_http: OpenHttp, new_record: NewRecord, new_invocation: NewInvocation, clock: Any
) -> None:

    def end_the_lease() -> None:
        clock.time = 10.0

    async with _received(end_the_lease) as (url, everything):
        function = await open_http(url, payload="raw", maximum_payload=BODY_BYTES, now=clock.now)
        record = new_record(value=b"x" * BODY_BYTES)
        _expired(await function.invoke(new_invocation(record, lease=Lease(7, 10.0))))
        received = await everything
    assert received.startswith(b"POST / ")
    assert len(received) < BODY_BYTES


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_a_body_arrives_whole_whatever_its_size(
    open_http: OpenHttp, server: Any, new_record: NewRecord, new_invocation: NewInvocation, size: int, clock: Any
) -> None:
    function = await open_http(server.url, payload="raw", now=clock.now)
    value = (b"0123456789abcdef!" * (size // 17 + 1))[:size]
    invocation = new_invocation(new_record(value=value), lease=Lease(7, 10.0))
    assert isinstance(await function.invoke(invocation), Succeeded)
    (request,) = server.requests
    assert request.body == value


async def test_a_lost_connection_is_not_replaced_once_the_lease_is_over(
    open_http: OpenHttp, server: Any, new_invocation: NewInvocation, new_response: NewResponse, clock: Any
) -> None:
    good = server.answers(new_response("200 OK"))

    async def reply(request: Any, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            await good(request, writer)
        else:
            clock.time = 10.0
            writer.close()

    server.reply = reply
    function = await open_http(server.url, now=clock.now)
    assert isinstance(await function.invoke(new_invocation(lease=Lease(7, 10.0))), Succeeded)
    _expired(await function.invoke(new_invocation(lease=Lease(7, 10.0))))
    assert len(server.requests) == 2
