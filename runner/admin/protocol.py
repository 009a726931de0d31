"""An HTTP server that does not tell what it is made of, not even when it refuses a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web

NAME: Final = "stream-runner"

_OPTIONS: Final[dict[str, Any]] = {
    "access_log": None,
    "lingering_time": 1.0,  # seconds to read what a refused request still sends
}


class _Connection(web.RequestHandler):
    """One connection; also answers what never becomes a request: a malformed one, a failure of ours."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        refusal = super().handle_error(request, status, exc, message)  # logs it, and raises when it is too late
        response = web.Response(status=refusal.status, text=f"{HTTPStatus(refusal.status).phrase.lower()}\n")
        response.headers[hdrs.SERVER] = NAME
        response.force_close()
        return response


class NamelessServer(web.Server):
    """A low-level server whose every response names only this product, without a version."""

    def __init__(
        self, answer: Callable[[web.BaseRequest], Awaitable[web.Response]], *, loop: asyncio.AbstractEventLoop
    ) -> None:
        async def answer_with_name(request: web.BaseRequest) -> web.StreamResponse:
            response = await answer(request)
            response.headers[hdrs.SERVER] = NAME
            return response

        super().__init__(answer_with_name, loop=loop)
        self._event_loop = loop

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._event_loop, **_OPTIONS)
