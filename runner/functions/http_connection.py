"""Connections that know whether they were used before and whether this exchange got any byte back.

aiohttp tells neither when an exchange breaks off, and the delivery contract depends on both.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

_DNS_CACHE_SECONDS: Final = 10


class _Handler(ResponseHandler):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchanges = 0
        self.bytes_received = 0

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        super().data_received(data)


class Exchange:
    """One request and its response. ``fresh_only``: it may not go over a connection that was used before."""

    def __init__(self, *, fresh_only: bool = False) -> None:
        self.fresh_only = fresh_only
        self._handler: _Handler | None = None
        self._reused = False
        self._received_before = 0

    @property
    def connected(self) -> bool:
        """There was a connection: something may have been sent."""
        return self._handler is not None

    @property
    def answered(self) -> bool:
        """At least one byte came back."""
        return self._handler is not None and self._handler.bytes_received > self._received_before

    @property
    def repeatable(self) -> bool:
        """A reused connection was closed before any byte of the response: most likely it had been idle for too long."""
        return self._reused and not self.answered

    def begin(self, handler: _Handler) -> None:
        self._handler = handler
        self._reused = handler.exchanges > 0
        self._received_before = handler.bytes_received
        handler.exchanges += 1


_current: ContextVar[Exchange] = ContextVar("exchange")


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """Requests of this task belong to ``exchange`` until the end of the block."""
    token = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(token)


class TrackingConnector(aiohttp.TCPConnector):
    """A pool of connections that reports to the current Exchange. It has no limit of its own: the permits have one."""

    def __init__(self, *, ssl_context: ssl.SSLContext) -> None:
        super().__init__(limit=0, ttl_dns_cache=_DNS_CACHE_SECONDS, ssl=ssl_context)
        handler: Callable[..., ResponseHandler] = _Handler
        self._factory = functools.partial(handler, loop=self._loop)

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        exchange = _current.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            handler = connection.protocol
            assert isinstance(handler, _Handler)
            if exchange.fresh_only and handler.exchanges:
                connection.close()
                continue
            exchange.begin(handler)
            return connection
