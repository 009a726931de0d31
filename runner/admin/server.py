"""The HTTP server that operators, probes and Prometheus read this process through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aiohttp import hdrs, web

from runner.admin.health import HealthReport
from runner.admin.protocol import NamelessServer
from runner.admin.views import MappingView, mappings_json

SHUTDOWN_TIMEOUT: Final = 2.0

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


class AdminUnavailable(Exception):
    """The admin side cannot listen. The message names the address, what the system said, and what to do."""


class Metrics(Protocol):
    """What can be scraped."""

    def expose(self, accept: str) -> tuple[str, bytes]:
        """The metrics in the format that an ``Accept`` header asks for: its content type, and the text."""
        ...


class AdminServer:
    """``/metrics``, ``/healthz``, ``/readyz`` and ``/mappings`` over TCP, for reading only.

    ``snapshots``, ``health`` and ``ready`` are asked at each request, on the event loop that started the server.
    Port 0 takes any free one.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        telemetry: Metrics,
        snapshots: Callable[[], Sequence[MappingView]],
        health: Callable[[], HealthReport],
        ready: Callable[[], HealthReport],
    ) -> None:
        self._host = host
        self._port = port
        self._telemetry = telemetry
        self._snapshots = snapshots
        self._health = health
        self._ready = ready
        self._runner: web.ServerRunner | None = None
        self._pages: dict[str, Callable[[web.BaseRequest], web.Response]] = {
            "/metrics": self._metrics,
            "/healthz": lambda _request: _report(self._health()),
            "/readyz": lambda _request: _report(self._ready()),
            "/mappings": lambda _request: _response(200, _JSON, mappings_json(self._snapshots())),
        }

    @property
    def address(self) -> str:
        """``host:port``; while it listens, the port that it really has."""
        port = self._port
        if self._runner is not None and self._runner.addresses:
            port = self._runner.addresses[0][1]
        return _address(self._host, port)

    async def start(self) -> None:
        """Listen. Raises AdminUnavailable."""
        assert self._runner is None, "the admin server was started twice"
        server = NamelessServer(self._answer, loop=asyncio.get_running_loop())
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            raise AdminUnavailable(
                f"cannot listen on {_address(self._host, self._port)}: {error}; stop what uses this address, or set "
                "admin.listen to an address of this machine with a free port"
            ) from error
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening, give running requests about two seconds, close every connection. May be called twice."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        page = self._pages.get(request.path)
        if page is None:
            return _response(404, _TEXT, f"not found; there are {', '.join(self._pages)}\n".encode())
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            response = _response(405, _TEXT, b"only GET and HEAD are answered\n")
            response.headers[hdrs.ALLOW] = "GET, HEAD"
            return response
        return page(request)

    def _metrics(self, request: web.BaseRequest) -> web.Response:
        content_type, text = self._telemetry.expose(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        return _response(200, content_type, text)


def _report(report: HealthReport) -> web.Response:
    body = json.dumps({"ok": report.ok, "faults": report.faults}, indent=2).encode() + b"\n"
    return _response(200 if report.ok else 503, _JSON, body)


def _response(status: int, content_type: str, body: bytes) -> web.Response:
    headers = {hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(status=status, body=body, headers=headers)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
