"""Destinations of Redis, and what a reader makes of a dead-letter stream's entries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from destination_harness.letters import AWKWARD_HEADERS
from redis_harness import client
from runner.clients.redis import RedisConnection
from runner.clients.redis_entries import Content, Fields, decode_fields
from runner.clients.redis_url import parse_redis_url
from runner.destinations.headers import CONTEXT
from runner.destinations.redis_streams import RedisStreamsDestination
from runner.model import DeadLetter, Headers, Record
from runner.ports import DestinationError, Observer

HEADERS: Headers = (
    *AWKWARD_HEADERS,
    ("stream-runner-key", b"a header, no key"),
    ("stream-runner-null:x", b""),
    ("kafka_dlt-original-topic", b"of somebody else"),
)
_CONTEXT = {name.encode() for name in CONTEXT}


def plain(address: str) -> RedisConnection:
    return RedisConnection(url=parse_redis_url(f"redis://{address}"), client_name="test")


@asynccontextmanager
async def destination(
    connection: RedisConnection, stream: str, *, timeout: float = 10.0, observer: Observer | None = None, **more: Any
) -> AsyncIterator[RedisStreamsDestination]:
    """An open one; ``more`` are its other arguments."""
    arguments = {"maxlen": None, "marker_ttl": 3600.0} | more
    built = RedisStreamsDestination(
        connection=connection, stream=stream, timeout=timeout, observer=observer or Observer(), **arguments
    )
    await built.open()
    try:
        yield built
    finally:
        await built.close()


async def stored(redis: Redis, stream: str) -> Sequence[Fields]:
    """The fields of all entries of the stream."""
    return [fields for _, fields in await client.read_stream(redis, stream)]


async def values(redis: Redis, stream: str) -> list[bytes | None]:
    """The values of all letters in the stream."""
    return [content_of_letter(fields).value for fields in await stored(redis, stream)]


def fact(fields: Fields, name: str) -> bytes | None:
    """What a letter says under one of the names of its context; None when nothing."""
    return dict(fields).get(f"stream-runner-{name}".encode())


def original_fields(fields: Fields) -> Fields:
    """What a letter has besides its context."""
    return [field for field in fields if field[0] not in _CONTEXT]


def content_of_letter(fields: Fields) -> Content:
    """Key, value and headers of a letter whose record is of no Redis stream."""
    key: bytes | None = None
    value: bytes | None = None
    headers: list[tuple[str, bytes | None]] = []
    for name, data in original_fields(fields):
        text = name.decode()
        if text == "stream-runner-fields":
            return content_of_letter(decode_fields(data))
        if text == "stream-runner-key":
            key = data
        elif text == "stream-runner-value":
            value = data
        elif text.startswith("stream-runner-null:"):
            headers.append((text.removeprefix("stream-runner-null:"), None))
        else:
            headers.append((text.removeprefix("stream-runner-header:"), data))
    return Content(key, value, tuple(headers))


def content_of_record(record: Record) -> Content:
    """What a letter must say of its record: everything but the context of an earlier dead letter."""
    return Content(record.key, record.value, tuple([header for header in record.headers if header[0] not in CONTEXT]))


async def store(target: RedisStreamsDestination, letters: Sequence[DeadLetter]) -> Sequence[DestinationError | None]:
    return list(await target.store(letters))
