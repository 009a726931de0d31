"""Records, invocations and HTTP servers on loopback for the tests of functions."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runner.functions.http import HttpFunction
from runner.functions.python import PythonFunction
from runner.model import Invocation, Lease, Partition, Position, Record, TimestampType
from runner.ports import Observer

_numbers = itertools.count()
SOURCE = "kafka-1:9092,kafka-2:9092"


def make_record(position: Position = 0, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "partition": Partition("orders", 0),
        "position": position,
        "key": b"k",
        "value": b"v",
        "headers": (),
        "timestamp_ms": 1_700_000_000_000,
        "sequence": 0,
        "timestamp_type": TimestampType.CREATE_TIME,
    } | changes
    key, value = fields["key"], fields["value"]
    size = len(key or b"") + len(value or b"")
    size += sum(len(name.encode("utf-8", "replace")) + len(content or b"") for name, content in fields["headers"])
    return Record(size=size, **fields)


def make_invocation(
    *records: Record, attempt: int = 1, mapping: str = "orders-to-charge", lease: Lease | None = None
) -> Invocation:
    given = list(records) or [make_record()]
    return Invocation(
        mapping=mapping,
        function="charge",
        partition=given[0].partition,
        records=given,
        attempt=attempt,
        source=SOURCE,
        lease=lease,
    )


class HttpRequest:
    """One request as it came over the wire; header names in lower case."""

    def __init__(self, line: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.line = line
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name.lower())


Reply = Callable[[HttpRequest, asyncio.StreamWriter], Awaitable[None]]


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class HttpServer:
    """Reads requests and hands them to ``reply``, which writes what it likes; it keeps connections alive."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        self.connections = 0
        self.reply: Reply = self.answers(response("200 OK"))
        self.url = ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if context else 'http'}://localhost:{port}/invoke?token=in-the-query"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    def answers(self, raw: bytes) -> Reply:
        async def reply(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
            writer.write(raw)
            await writer.drain()

        return reply

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *lines = head.strip().split("\r\n")
                headers = [(name.lower(), value.strip()) for name, _, value in (item.partition(":") for item in lines)]
                length = int(dict(headers).get("content-length", "0"))
                request = HttpRequest(line, headers, await reader.readexactly(length))
                self.requests.append(request)
                await self.reply(request, writer)
        self._writers.discard(writer)
        writer.close()


@pytest.fixture(scope="session")
def new_record() -> Callable[..., Record]:
    """``new_record(position, **fields)``: a record whose size is right."""
    return make_record


@pytest.fixture(scope="session")
def new_invocation() -> Callable[..., Invocation]:
    """``new_invocation(*records, attempt=, mapping=, lease=)``: one record when none is given."""
    return make_invocation


@pytest.fixture(scope="session")
def new_response() -> Callable[..., bytes]:
    """``new_response(status, body, *headers)``: an HTTP response as bytes."""
    return response


@pytest.fixture
async def new_server() -> AsyncIterator[Callable[..., Awaitable[HttpServer]]]:
    """Starts an HttpServer, with TLS when a context is given, and stops it at the end."""
    running: list[HttpServer] = []

    async def start(context: ssl.SSLContext | None = None) -> HttpServer:
        server = HttpServer()
        running.append(server)
        await server.start(context)
        return server

    yield start
    for server in running:
        await server.stop()


@pytest.fixture
async def server(new_server: Callable[..., Awaitable[HttpServer]]) -> HttpServer:
    return await new_server()


def http_settings(url: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "charge",
        "url": url,
        "timeout": 10.0,
        "connect_timeout": 5.0,
        "payload": "lambda",
        "headers": {},
        "bearer_token": None,
        "tls": None,
        "maximum_response": 100_000,
        "maximum_payload": 6_000_000,
        "report_batch_item_failures": False,
        "event_source": "SelfManagedKafka",
    } | changes


OpenPython = Callable[..., Awaitable[PythonFunction]]
OpenHttp = Callable[..., Awaitable[HttpFunction]]


@pytest.fixture
async def open_http() -> AsyncIterator[OpenHttp]:
    """Opens an HttpFunction for a URL, with changed settings, and closes it at the end."""
    opened: list[HttpFunction] = []

    async def open_one(url: str, **changes: Any) -> HttpFunction:
        function = HttpFunction(**http_settings(url, **changes))
        opened.append(function)
        await function.open()
        return function

    yield open_one
    for function in opened:
        await function.close()


class Clock:
    """Stands still but for what a test does to ``time``."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Overdue(Observer):
    """Hears which invocations are overdue, and lets a test wait for it."""

    def __init__(self) -> None:
        self.invocations: list[Invocation] = []
        self.heard = asyncio.Event()

    def invocation_overdue(self, invocation: Invocation, seconds: float) -> None:
        self.invocations.append(invocation)
        self.heard.set()


@pytest.fixture
def overdue() -> Overdue:
    return Overdue()


@pytest.fixture
async def open_python(tmp_path: Path, overdue: Overdue, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenPython]:
    """Writes a module, opens its ``handle`` (or another attribute) as a function, and closes it at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    opened: list[PythonFunction] = []

    async def open_one(source: str, attribute: str = "handle", **changes: Any) -> PythonFunction:
        module = f"handlers_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        settings: dict[str, Any] = {
            "name": "audit",
            "handler": f"{module}:{attribute}",
            "payload": "records",
            "timeout": 10.0,
            "executor": "auto",
            "report_batch_item_failures": False,
            "event_source": "SelfManagedKafka",
            "maximum_payload": 6_000_000,
            "app_dir": tmp_path,
            "observer": overdue,
        } | changes
        function = PythonFunction(**settings)
        opened.append(function)
        await function.open()
        return function

    yield open_one
    for function in opened:
        await function.close()
