"""The only place where aiokafka's clients are made or unmade."""

# ruff: noqa: SLF001  (aiokafka has no public way to do what is done to its clients here)

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import AuthenticationFailedError, KafkaConfigurationError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata

from runner.clients.secret import Secret, SecretUnreadable
from runner.clients.tls import CurrentSslContext, TlsNotValid, TlsSettings

SaslMechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
KafkaClient: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient

_LAST_RESORT: Final = 1.0
"""Seconds kept back for tearing a client down that does not stop by itself."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaslSettings:
    """How to log in. The password is read again for every new connection."""

    mechanism: SaslMechanism
    username: str
    password: Secret


@dataclass(frozen=True)
class KafkaConnection:
    """How a cluster is reached: ``bootstrap_servers`` are ``host:port``; without ``tls`` all is sent in the clear."""

    bootstrap_servers: tuple[str, ...]
    client_id: str
    tls: TlsSettings | None = None
    sasl: SaslSettings | None = None

    @property
    def security_protocol(self) -> str:
        transport = "PLAINTEXT" if self.tls is None else "SSL"
        return transport if self.sasl is None else f"SASL_{transport}"

    def __str__(self) -> str:
        return ",".join(self.bootstrap_servers)


class Credentials:
    """What a connection shows to a broker, as the files hold it when the connection is made."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._tls = None if connection.tls is None else CurrentSslContext(connection.tls)

    def password(self) -> str | None:
        """None without SASL. Raises AuthenticationFailedError, which aiokafka survives, when the file is unreadable."""
        if self._connection.sasl is None:
            return None
        try:
            return self._connection.sasl.password.reveal()
        except SecretUnreadable as error:
            raise AuthenticationFailedError(str(error)) from error

    def ssl_context(self) -> ssl.SSLContext | None:
        """None without TLS; built anew when a file changes. Raises KafkaConfigurationError, which aiokafka survives."""
        if self._tls is None:
            return None
        try:
            return self._tls.get()
        except TlsNotValid as error:
            raise KafkaConfigurationError(str(error)) from error

    def options(self) -> dict[str, Any]:
        """The security options of ``aiokafka.conn.create_conn``. Raises as ``password`` and ``ssl_context`` do."""
        options: dict[str, Any] = {"security_protocol": self._connection.security_protocol}
        if self._connection.tls is not None:
            options["ssl_context"] = self.ssl_context()
        if self._connection.sasl is not None:
            options["sasl_mechanism"] = self._connection.sasl.mechanism
            options["sasl_plain_username"] = self._connection.sasl.username
            options["sasl_plain_password"] = self.password()
        return options


class _Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    def send(self, request: Any, expect_response: bool = True) -> Any:
        if isinstance(request, MetadataRequest):
            # Asking for a topic by its name makes it, where the broker allows that, unless one says not to.
            request._allow_auto_topic_creation = False
        return super().send(request, expect_response)


class _Client(AIOKafkaClient):  # type: ignore[misc]
    """aiokafka's client, but no topic comes into being by it, and credentials are those of the moment.

    It passes the two properties to each connection that it makes.
    """

    credentials: Credentials

    @property
    def _sasl_plain_password(self) -> str | None:
        return self.credentials.password()

    @property
    def _ssl_context(self) -> ssl.SSLContext | None:
        return self.credentials.ssl_context()

    async def bootstrap(self) -> None:
        try:
            await super().bootstrap()
        except BaseException as error:
            # Cut off while it asks, it leaves its connection to nobody, and open.
            for frame, _ in traceback.walk_tb(error.__traceback__):
                left = frame.f_locals.get("bootstrap_conn")
                if isinstance(left, AIOKafkaConnection):
                    left.close()
            raise

    async def _get_conn(self, *args: Any, **options: Any) -> AIOKafkaConnection | None:
        connection = await super()._get_conn(*args, **options)
        if connection is not None:
            connection.__class__ = _Connection
        return connection


def build_consumer(connection: KafkaConnection, **options: Any) -> AIOKafkaConsumer:
    """An unstarted consumer without topics; ``options`` are aiokafka's own. Needs a running loop; reads no secret."""
    consumer = AIOKafkaConsumer(**_common_options(connection), **options)
    _adapt(consumer._client, connection)
    return consumer


def build_producer(connection: KafkaConnection, **options: Any) -> AIOKafkaProducer:
    """An unstarted producer; ``options`` are aiokafka's own. Needs a running loop; reads no secret."""
    producer = AIOKafkaProducer(**_common_options(connection), **options)
    _adapt(producer.client, connection)
    if options.get("enable_idempotence"):
        # aiokafka fails a batch whose partition has no leader for the request timeout, although an earlier try may
        # have stored it. Waiting on is the only answer that is never wrong.
        producer._message_accumulator._batch_ttl = math.inf
    return producer


def build_admin(connection: KafkaConnection, **options: Any) -> AIOKafkaAdminClient:
    """An unstarted admin client; ``options`` are aiokafka's own. Needs a running loop; reads no secret."""
    admin = AIOKafkaAdminClient(**_common_options(connection), **options)
    _adapt(admin._client, connection)
    return admin


def _common_options(connection: KafkaConnection) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": list(connection.bootstrap_servers),
        "client_id": connection.client_id,
        "security_protocol": connection.security_protocol,
    }
    # aiokafka insists on a context and a password when it is built; the real ones are read for each connection.
    if connection.tls is not None:
        options["ssl_context"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if connection.sasl is not None:
        options["sasl_mechanism"] = connection.sasl.mechanism
        options["sasl_plain_username"] = connection.sasl.username
        options["sasl_plain_password"] = ""
    return options


def _adapt(client: AIOKafkaClient, connection: KafkaConnection) -> None:
    # The clients make their inner client themselves, with no way to hand one in: its class is changed in place. The
    # properties of the new class win over the attributes of the same names that the constructor has set.
    client.__class__ = _Client
    client.credentials = Credentials(connection)


async def commit(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """The consumer's own ``commit``, which may be cancelled. Raises aiokafka's errors.

    The request goes on inside aiokafka then, and its error would be reported as one that nobody asked for.
    """
    try:
        await consumer.commit(dict(offsets))
    except asyncio.CancelledError:
        for task in _tasks_inside(consumer, consumer._client):
            if getattr(task.get_coro(), "__name__", "") == "_do_commit_offsets":
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


_stopping: set[asyncio.Task[None]] = set()


async def stop_client(client: KafkaClient, timeout: float) -> None:
    """Stop ``client`` within ``timeout`` seconds, by force when it must be. Never raises but for our own cancellation.

    The work is done in a task of its own, and goes on when the caller is cancelled: aiokafka may let a foreign
    CancelledError out, which must not reach the caller's task group.
    """
    task = asyncio.get_running_loop().create_task(_stop(client, timeout))
    _stopping.add(task)
    task.add_done_callback(_stopping.discard)
    await asyncio.wait({task})


async def _stop(client: KafkaClient, timeout: float) -> None:
    stop = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    task = asyncio.get_running_loop().create_task(stop())
    clean = False
    try:
        await asyncio.wait({task}, timeout=max(timeout - _LAST_RESORT, timeout / 2))
        clean = _stopped(client, task)
    finally:
        if not clean:
            await _tear_down(client, task, min(_LAST_RESORT, timeout / 2))


def _stopped(client: KafkaClient, task: asyncio.Task[None]) -> bool:
    name = type(client).__name__
    if not task.done():
        _log.debug("%s did not stop within its time and is torn down", name)
    elif task.cancelled():
        _log.debug("%s was cut short in its own stop and is torn down", name)
    elif (error := task.exception()) is not None:
        _log.warning("%s failed to stop and is torn down: %r", name, error)
    else:
        return True
    return False


async def _tear_down(client: KafkaClient, stop: asyncio.Task[None], timeout: float) -> None:
    """Cancel whatever still runs inside ``client``, then close its sockets without waiting for the other side."""
    inner: AIOKafkaClient = client.client if isinstance(client, AIOKafkaProducer) else client._client
    writers = [connection._writer for connection in inner._conns.values() if connection._writer is not None]
    tasks = {stop, *_tasks_inside(client, inner)}
    # One cancel is not enough: the sender answers the first one by awaiting its requests.
    await _finish(tasks, timeout / 4, again=True)
    closing = asyncio.get_running_loop().create_task(inner.close())
    await _finish({closing}, timeout / 4, again=False)
    for writer in writers:
        writer.transport.abort()
    await _finish({closing}, timeout / 4, again=True)
    for task in (*tasks, closing):
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("%s, while it was torn down: %r", type(client).__name__, error)


async def _finish(tasks: Iterable[asyncio.Task[Any]], timeout: float, *, again: bool) -> None:
    pending = {task for task in tasks if not task.done()}
    deadline = asyncio.get_running_loop().time() + timeout
    while pending and (left := deadline - asyncio.get_running_loop().time()) > 0:
        if again:
            for task in pending:
                task.cancel()
        _, pending = await asyncio.wait(pending, timeout=min(left, 0.05) if again else left)


def _tasks_inside(client: KafkaClient, inner: AIOKafkaClient) -> list[asyncio.Task[Any]]:
    """The tasks that aiokafka has started for ``client``: those whose coroutine is a method of one of its parts."""
    parts = [client, inner, *(part for part in vars(client).values() if part is not None)]
    found = []
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and any(frame.f_locals.get("self") is part for part in parts):
            found.append(task)
    return found
