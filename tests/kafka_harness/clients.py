"""Short-lived Kafka clients over the plain-text listener that are gone when their block ends, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

from kafka_harness.waiting import until

_REQUEST_TIMEOUT_MS = 15_000
_STOP_TIMEOUT = 20.0
_BATCH_BYTES = 256 * 1024
_REQUEST_BYTES = 16 * 1024 * 1024


@asynccontextmanager
async def connected_admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        await _started(admin.start())
        yield admin
    finally:
        await _stop(admin.close(), admin._client)


@asynccontextmanager
async def reading_consumer(bootstrap: str, isolation_level: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group, which begins at the earliest record."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation_level,
        fetch_max_wait_ms=50,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
    )
    try:
        await _started(consumer.start())
        yield consumer
    finally:
        await _stop(consumer.stop(), consumer._client)


@asynccontextmanager
async def started_producer(
    bootstrap: str, *, transactional_id: str | None = None, compression: str | None = None
) -> AsyncIterator[AIOKafkaProducer]:
    """An idempotent producer; with ``transactional_id`` its user begins and ends the transactions."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        transactional_id=transactional_id,
        compression_type=compression,
        max_batch_size=_BATCH_BYTES,
        max_request_size=_REQUEST_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
    )
    try:
        await _started(producer.start())
        yield producer
    finally:
        await _stop(producer.stop(), producer.client)


async def connections_closed(address: str) -> None:
    """Wait until this process has no connection to ``host:port``.

    A client whose login failed closes its connection without waiting for it, which takes a round trip with TLS; an
    event loop that ends before that leaves the socket open.
    """
    port = int(address.rpartition(":")[2])

    def closed() -> bool:
        connections = psutil.Process().net_connections("tcp")
        # The remote address of a listening socket is empty.
        return not any(connection.raddr[1:] == (port,) for connection in connections)

    await until(closed, what=f"connections to {address} are closed", every=0.005)


async def _started(starting: Awaitable[None]) -> None:
    """Start in a task of its own, whose end is awaited by who is cancelled as well: cut off while it asks for metadata,
    aiokafka leaves a connection to nobody, and open."""
    task = asyncio.ensure_future(starting)
    try:
        await asyncio.wait([task])
    finally:
        await asyncio.wait([task], timeout=_STOP_TIMEOUT)
    task.result()


async def _stop(stopping: Awaitable[None], client: AIOKafkaClient) -> None:
    """Stop in a task of its own: where the broker does not answer, aiokafka's ``stop`` may end with a CancelledError
    that nobody asked for, and leave the connections open."""
    task = asyncio.ensure_future(stopping)
    done, _pending = await asyncio.wait([task], timeout=_STOP_TIMEOUT)
    if not done:
        task.cancel()
        await asyncio.wait([task])
    if task.cancelled():
        await client.close()
    else:
        task.result()
