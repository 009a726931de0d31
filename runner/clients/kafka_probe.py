"""Learns by a connection of its own why a cluster cannot be used, since aiokafka only logs it."""

# ruff: noqa: SLF001  (whether a connection has a socket is not public)

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from runner.clients.kafka import Credentials, KafkaConnection
from runner.clients.kafka_errors import problem_of
from runner.model import Problem, Reason

_CLOSE_TIMEOUT: Final = 0.5
_TELLING: Final = (
    Reason.ESM_CONFIG_NOT_VALID,
    Reason.EVENT_SOURCE_AUTHN_ERROR,
    Reason.EVENT_SOURCE_AUTHZ_ERROR,
    Reason.EVENT_SOURCE_PROTOCOL_ERROR,
    Reason.EVENT_SOURCE_UNREACHABLE,
)
"""Of several brokers' problems the one that says most is told."""


async def probe(connection: KafkaConnection, timeout: float) -> Problem | None:
    """None when one of the bootstrap servers lets us in within ``timeout`` seconds; otherwise what keeps us out."""
    hosts = collect_hosts(list(connection.bootstrap_servers), randomize=False)
    answers = await asyncio.gather(*(_probe_one(connection, host, port, timeout) for host, port, _ in hosts))
    problems = [answer for answer in answers if answer is not None]
    if len(problems) < len(answers):
        return None
    return min(problems, key=lambda problem: _rank(problem.reason))


async def diagnose(error: BaseException, connection: KafkaConnection, topic: str | None, timeout: float) -> Problem:
    """``problem_of``, and what a probe says when ``error`` is no more than "no connection"."""
    problem = problem_of(error, connection, topic)
    if problem.reason is not Reason.EVENT_SOURCE_UNREACHABLE:
        return problem
    return await probe(connection, timeout) or problem


def _rank(reason: Reason) -> int:
    return _TELLING.index(reason) if reason in _TELLING else len(_TELLING)


async def _probe_one(connection: KafkaConnection, host: str, port: int, timeout: float) -> Problem | None:
    broker: AIOKafkaConnection | None = None
    try:
        async with asyncio.timeout(timeout):
            broker = AIOKafkaConnection(
                host,
                port,
                client_id=connection.client_id,
                request_timeout_ms=round(timeout * 1000),
                **Credentials(connection).options(),
            )
            await broker.connect()
            # A listener that wants a login answers the connection's first question without one, but not the second.
            await broker.send(MetadataRequest([]))
    except Exception as error:
        return problem_of(_closed_early(error, host, port), connection)
    finally:
        if broker is not None:
            await _close(broker)
    return None


async def _close(broker: AIOKafkaConnection) -> None:
    if broker._protocol is None:  # it never had a socket
        return
    writer = broker._writer
    closed = broker.close()
    try:
        await asyncio.wait({closed}, timeout=_CLOSE_TIMEOUT)
    finally:
        if writer is not None and not closed.done():
            writer.transport.abort()


def _closed_early(error: Exception, host: str, port: int) -> Exception:
    """A bare "connection closed" with the end of the stream as its cause: the listener hung up on us."""
    if isinstance(error, KafkaConnectionError) and error.__cause__ is None:
        return ConnectionResetError(f"{host}:{port} closed the connection")
    return error
