"""One connection to one Redis server: the only place where redis-py is made to talk."""

# ruff: noqa: SLF001  (redis-py has no public way to write without waiting, or to close without lingering)

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import hiredis
from redis.asyncio.connection import Connection
from redis.credentials import CredentialProvider

from runner.clients.redis_errors import FailureKind, RedisFailure, failure_of
from runner.clients.redis_url import Address
from runner.clients.secret import Secret
from runner.clients.tls import CurrentSslContext

Reply: TypeAlias = bytes | int | list[Any] | None
"""A reply as the server sent it, by RESP2; an error inside a list is an exception that stands there."""

_READ_BYTES: Final = 1 << 18
_CONNECTION_IS_SPENT: Final = frozenset(
    {
        FailureKind.AUTHENTICATION,
        FailureKind.READ_ONLY,
        FailureKind.MASTER_DOWN,
        FailureKind.LOADING,
        FailureKind.PROTOCOL,
        FailureKind.TOO_LARGE,
        FailureKind.TOO_MANY_CLIENTS,
    }
)
"""Answers after which another connection may do better, or after which the server closes this one."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who we are at a server. Without ``username`` and ``password`` nobody logs in."""

    client_name: str
    username: str | None = None
    password: Secret | None = None
    tls: CurrentSslContext | None = None


class _Credentials(CredentialProvider):
    """The login as the files hold it when a connection is made."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = "" if self._login.password is None else self._login.password.reveal()
        return (password,) if self._login.username is None else (self._login.username, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class _Connection(Connection):
    """redis-py's connection with a TLS context of ours, without its retries and without time limits of its own."""

    def __init__(self, address: Address, database: int, login: Login, context: ssl.SSLContext | None) -> None:
        self._context = context
        knows_who = login.username is not None or login.password is not None
        super().__init__(
            host=address.host,
            port=address.port,
            db=database,
            client_name=login.client_name,
            credential_provider=_Credentials(login) if knows_who else None,
            protocol=2,
            driver_info=None,
            socket_timeout=None,
            socket_connect_timeout=None,
            socket_read_size=_READ_BYTES,
        )

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = {**super()._connection_arguments(), "limit": _READ_BYTES}
        return arguments if self._context is None else arguments | {"ssl": self._context}


class Wire:
    """A connection that is logged in. One command at a time; after a failed one see ``is_usable``."""

    def __init__(self, address: Address, connection: Connection) -> None:
        self.address = address
        self._connection = connection
        self._busy = False

    @classmethod
    async def connect(cls, address: Address, database: int, login: Login) -> Wire:
        """Files are read now, and certificates checked. Raises RedisFailure; takes as long as it takes."""
        connection: Connection | None = None
        try:
            context = None if login.tls is None else await asyncio.to_thread(login.tls.get)
            connection = _Connection(address, database, login, context)
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            if connection is not None:
                _abort(connection)
            if not isinstance(error, Exception):
                raise
            raise failure_of(error, str(address), sent=False) from error
        return cls(address, connection)

    @property
    def is_usable(self) -> bool:
        """Whether a command may be sent: neither half-way through another one, nor closed by the server."""
        stream = self._connection._reader
        if self._busy or stream is None or stream.at_eof() or stream.exception() is not None:
            return False
        return not stream._buffer  # type: ignore[attr-defined]

    async def call(self, packed: bytes) -> Reply:
        """The reply to one command, made by ``pack``. Raises RedisFailure. Cancelled, the connection is done for."""
        writer = self._connection._writer
        if not self.is_usable or writer is None:
            raise RedisFailure(FailureKind.CONNECTION_LOST, f"{self.address}: closed while it was idle")
        self._busy = True
        # Nothing waits for the write to drain: what is wrong with a long command is said while it is on its way.
        writer.write(packed)
        try:
            reply: Reply = await self._connection.read_response(disconnect_on_error=False)
        except Exception as error:
            failure = failure_of(error, str(self.address), sent=True)
            if failure.is_answer and failure.kind not in _CONNECTION_IS_SPENT:
                self._busy = False
            raise failure from error
        self._busy = False
        return reply

    def drop(self) -> None:
        """Close it now; what was not sent yet never is."""
        self._busy = True
        _abort(self._connection)


def pack(args: tuple[bytes | str | int, ...]) -> bytes:
    """A command as it is sent; texts as UTF-8."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # hiredis declares a tuple of one
    return packed


def _abort(connection: Connection) -> None:
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
    connection._parser.on_disconnect()  # type: ignore[no-untyped-call]
    connection._reader = connection._writer = None
