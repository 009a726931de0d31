"""A function behind HTTP: one POST per invocation."""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Final, Literal

import aiohttp
import anyio
from multidict import CIMultiDict
from yarl import URL

from runner.clients.secret import Secret, SecretUnreadable
from runner.clients.tls import TlsNotValid, TlsSettings, build_ssl_context
from runner.functions.credentials import Credentials
from runner.functions.errors import EXCERPT_CHARACTERS, bad_response, printable, timed_out, too_large
from runner.functions.http_answer import AnswerJudge
from runner.functions.http_connection import Exchange, TrackingConnector, exchanging
from runner.functions.http_request import RequestBody
from runner.functions.identity import identity_headers
from runner.functions.lease import LeaseCheck, lease_expired
from runner.functions.payloads.lambda_event import LambdaPayload
from runner.functions.payloads.raw import RawPayload
from runner.functions.payloads.shape import shape_of
from runner.model import ErrorKind, Failed, FunctionError, Invocation, Outcome, Record, Throttled, TooLarge
from runner.ports import FunctionNotValid

USER_AGENT: Final = "stream-runner"

_CLOSE_SECONDS: Final = 5.0


class HttpFunction:
    """``timeout`` ends a whole call, ``connect_timeout`` the wait for a connection: DNS, TCP, TLS; in seconds.

    There are as many connections as calls that run at once. ``maximum_payload`` (the encoded body) and
    ``maximum_response`` (the decoded body) are in bytes. With ``source_description`` ``fixed_size`` is close.

    With ``now``, the clock that ``Invocation.lease`` counts by, no request is written whose lease is over, and a body
    that is being written then stays incomplete; None: no lease ever ends. The outcome is Throttled, ``LeaseExpired``.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        timeout: float,
        connect_timeout: float,
        payload: Literal["lambda", "raw"],
        headers: Mapping[str, Secret],
        bearer_token: Secret | None,
        tls: TlsSettings | None,
        maximum_response: int,
        maximum_payload: int,
        report_batch_item_failures: bool,
        event_source: str,
        source_description: str | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._name = name
        self._url = url
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._payload: LambdaPayload | RawPayload = (
            LambdaPayload(event_source, source_description) if payload == "lambda" else RawPayload()
        )
        self._credentials = Credentials(headers, bearer_token)
        self._leases = LeaseCheck(now)
        self._tls = tls or TlsSettings()
        self._maximum_payload = maximum_payload
        self._judge = AnswerJudge(
            report_batch_item_failures=report_batch_item_failures,
            shape=shape_of(event_source),
            emulator_errors=payload == "lambda",
            maximum_response=maximum_response,
            redact=self._credentials.redact,
        )
        self._target: URL | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def timeout(self) -> float:
        return self._timeout

    @property
    def fixed_size(self) -> int:
        return self._payload.fixed_size

    @property
    def largest_expansion(self) -> tuple[float, int]:
        return self._payload.largest_expansion

    def size_of(self, record: Record) -> int:
        return self._payload.size_of(record)

    async def open(self) -> None:
        """Connects to nothing: an unreachable function must not keep a mapping from running."""
        self._target = _target(self._url)
        self._credentials.check()
        try:
            context = await anyio.to_thread.run_sync(build_ssl_context, self._tls)
        except TlsNotValid as error:
            raise FunctionNotValid(str(error)) from error
        self._session = aiohttp.ClientSession(
            connector=TrackingConnector(ssl_context=context),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._connect_timeout, sock_connect=self._connect_timeout, ceil_threshold=math.inf
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._session.close()

    async def invoke(self, invocation: Invocation) -> Outcome:
        body = self._payload.encode(invocation)
        if len(body) > self._maximum_payload:
            return TooLarge(too_large(len(body), self._maximum_payload))
        try:
            headers = self._headers(invocation)
        except SecretUnreadable as error:
            return Throttled(_unreachable("SecretUnreadable", str(error)))
        exchange = Exchange()
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                try:
                    return await self._post(exchange, body, headers, invocation)
                except (aiohttp.ClientError, OSError):
                    if not exchange.repeatable:
                        raise
                exchange = Exchange(fresh_only=True)
                return await self._post(exchange, body, headers, invocation)
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            if limit.expired() and exchange.connected:
                return Failed(timed_out("no whole response came", self._timeout))
            return self._broken_off(error, exchange)

    async def _post(
        self, exchange: Exchange, body: bytes, headers: CIMultiDict[str], invocation: Invocation
    ) -> Outcome:
        assert self._session is not None, "open() comes first"
        assert self._target is not None
        data = RequestBody(body, lambda: not self._leases.is_over(invocation))
        try:
            with exchanging(exchange):
                async with self._session.post(
                    self._target, data=data, headers=headers, allow_redirects=False
                ) as response:
                    return await self._judge.outcome_of(response, invocation)
        except aiohttp.ClientError:
            if data.withheld:
                return lease_expired(invocation)
            raise

    def _headers(self, invocation: Invocation) -> CIMultiDict[str]:
        headers: CIMultiDict[str] = CIMultiDict(identity_headers(invocation))
        headers["Accept-Encoding"] = "identity"
        headers["Content-Type"] = self._payload.content_type
        headers["User-Agent"] = USER_AGENT
        if isinstance(self._payload, RawPayload):
            headers.extend(self._payload.headers(invocation))
        for name, value in self._credentials.lines():
            headers[name] = value
        return headers

    def _broken_off(self, error: Exception, exchange: Exchange) -> Outcome:
        text = self._credentials.redact(_text_of(error))
        if not exchange.connected or (not exchange.answered and _refused_by_tls(error)):
            return Throttled(_unreachable(type(error).__name__, text))
        if isinstance(error, aiohttp.ClientResponseError):
            return Failed(bad_response(f"the response is not HTTP: {text}"))
        return Failed(FunctionError(kind=ErrorKind.CONNECTION_LOST, type=type(error).__name__, text=text))


def _target(text: str) -> URL:
    try:
        url = URL(text)
        valid = url.scheme in ("http", "https") and bool(url.host)
    except ValueError as error:
        raise FunctionNotValid(f"the function's URL is not valid: {error}") from error
    if not valid:
        raise FunctionNotValid("the function's URL must begin with http:// or https:// and name a host")
    if url.user is not None or url.password is not None:
        raise FunctionNotValid("the function's URL must hold no user or password: use headers or a bearer token")
    return url


def _unreachable(error_type: str, text: str) -> FunctionError:
    return FunctionError(kind=ErrorKind.UNREACHABLE, type=error_type, text=text)


def _text_of(error: Exception) -> str:
    """A text without the URL, whose query may hold a secret."""
    match error:
        case aiohttp.ClientResponseError():
            text = error.message
        case aiohttp.ConnectionTimeoutError():
            text = "no connection within the connect timeout"
        case aiohttp.InvalidURL():
            text = "the URL is not valid"
        case aiohttp.ServerDisconnectedError():
            text = "the server closed the connection before its response was whole"
        case aiohttp.ClientOSError(errno=int(number)) if not isinstance(error, aiohttp.ClientConnectorError):
            cause = error.__cause__
            text = (cause.reason if isinstance(cause, ssl.SSLError) else None) or os.strerror(number)
        case TimeoutError():
            text = "no connection within the timeout"
        case _:
            text = str(error)
    return printable(text, EXCERPT_CHARACTERS)


def _refused_by_tls(error: BaseException) -> bool:
    """With TLS 1.3 a server refuses a client certificate by an alert that comes after the handshake."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            return True
        cause = cause.__cause__
    return False
