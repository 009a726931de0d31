"""A lean HTTP/1.1 server connection: one request at a time, bodies by Content-Length only."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple, Protocol, cast

_HEAD_END = b"\r\n\r\n"
_MAXIMUM_HEAD_BYTES = 256 * 1024
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 411: "Length Required", 429: "Too Many Requests"}
# On, and for no time: closing sends a reset.
_LINGER_RESET = struct.pack("ii", 1, 0)


class Request(NamedTuple):
    """``headers`` have lower-case names; of a repeated header the last value counts."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Handler(Protocol):
    def request_received(self, connection: HttpConnection, request: Request) -> None:
        """Answer now or later by ``connection.answer`` or ``connection.reset``."""

    def caller_gone(self, connection: HttpConnection) -> None:
        """The caller closed the connection; an answer to a request that waits has nowhere to go."""


class HttpConnection(asyncio.Protocol):
    """Reads requests and hands them to its handler; the next one waits until this one is answered."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str], int] | None = None
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._handler.caller_gone(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._proceed()

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer the request that was handed over. Nothing when the caller has gone."""
        self._busy = False
        if self._transport is None:
            return
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        self._transport.write(head.encode("latin-1") + body)
        self._proceed()

    def reset(self) -> None:
        """Cut the connection without an answer."""
        self._busy = False
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            transport.abort()

    def _proceed(self) -> None:
        while not self._busy and self._transport is not None and self._buffer:
            try:
                request = self._take_request()
            except ValueError as error:
                # Where the next request would begin is unknown, so this is the connection's last answer.
                self.answer(411 if "length" in str(error) else 400, str(error).encode())
                if self._transport is not None:
                    self._transport.close()
                return
            if request is None:
                return
            self._busy = True
            self._handler.request_received(self, request)

    def _take_request(self) -> Request | None:
        """The next complete request, or None while bytes of it are missing. Raises ValueError."""
        if self._head is None:
            end = self._buffer.find(_HEAD_END, 0, _MAXIMUM_HEAD_BYTES)
            if end < 0:
                if len(self._buffer) >= _MAXIMUM_HEAD_BYTES:
                    raise ValueError("the head of the request is too large")
                return None
            self._head = _parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + len(_HEAD_END)]
        method, path, headers, size = self._head
        if len(self._buffer) < size:
            return None
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._head = None
        return Request(method, path, headers, body)


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str], int]:
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3:
        raise ValueError(f"not a request line: {first!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"not a header: {line!r}")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise ValueError("a body of unknown length is not read")
    return parts[0], parts[1], headers, int(headers.get("content-length", "0"))
