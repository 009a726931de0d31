"""Clients for tests that hide nothing: no second tries, no decoding, and streams as the server has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
Entry: TypeAlias = tuple[bytes, list[tuple[bytes, bytes]]]
Name: TypeAlias = str | bytes

_PAGE = 1_000


class Pending(NamedTuple):
    """An entry that a consumer was given and did not acknowledge; ``deliveries`` counts how often it was given."""

    id: bytes
    consumer: bytes
    idle_ms: int
    deliveries: int


def connect(url: str, *, timeout: float | None = 10.0, **options: Any) -> Redis:
    """A client that waits ``timeout`` seconds for a reply (None: for ever) and sends every command once.

    Use it with ``async with``. It speaks RESP2 and returns bytes. ``options`` are redis-py's.
    """
    return Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        **options,
    )


def connect_cluster(url: str, *, timeout: float | None = 10.0, **options: Any) -> RedisCluster:
    """As ``connect``, for a cluster of which ``url`` is one node; redirections are followed."""
    return RedisCluster.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        **options,
    )


async def raw(client: Redis, *command: str | bytes | int) -> Any:
    """One command's reply as the server sent it; redis-py's parsers would turn an entry's fields into a dict.

    Raises redis.exceptions.ResponseError for an error reply.
    """
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await client.connection_pool.release(connection)


async def add(client: Redis | RedisCluster, stream: Name, fields: Fields, *, entry_id: Name = b"*") -> bytes:
    """Add an entry, with its fields in this order and repeated names kept; returns its id."""
    added: bytes = await client.execute_command("XADD", stream, entry_id, *_flat(fields))
    return added


async def add_many(client: Redis, stream: Name, entries: Iterable[Fields]) -> list[bytes]:
    """Add entries in one round trip; returns their ids, in order. Raises the first error of any of them."""
    async with client.pipeline(transaction=False) as pipeline:
        for fields in entries:
            pipeline.execute_command("XADD", stream, b"*", *_flat(fields))
        return await pipeline.execute()


async def fill(url: str, stream: Name, count: int) -> list[Entry]:
    """Add entries whose field ``n`` is 0, 1, 2, ..., over a connection of their own; returns them."""
    entries = [[(b"n", b"%d" % number)] for number in range(count)]
    async with connect(url) as client:
        return list(zip(await add_many(client, stream, entries), entries, strict=True))


async def entries_at(url: str, stream: Name) -> list[Entry]:
    """``read_stream`` over a connection of its own."""
    async with connect(url) as client:
        return await read_stream(client, stream)


async def read_stream(client: Redis, stream: Name) -> list[Entry]:
    """All entries of a stream, oldest first; none when there is no such stream."""
    entries: list[Entry] = []
    start = b"-"
    while page := await raw(client, "XRANGE", stream, start, "+", "COUNT", _PAGE):
        entries += [(entry_id, _pairs(flat)) for entry_id, flat in page]
        start = b"(" + page[-1][0]
    return entries


async def pending(client: Redis, stream: Name, group: Name) -> list[Pending]:
    """All pending entries of a group, lowest id first. Raises ResponseError (NOGROUP) without stream or group."""
    found: list[Pending] = []
    start = b"-"
    while page := await raw(client, "XPENDING", stream, group, start, "+", _PAGE):
        found += [Pending(*one) for one in page]
        start = b"(" + page[-1][0]
    return found


async def clock_ms(client: Redis) -> int:
    """The server's clock, in milliseconds since the epoch."""
    seconds, microseconds = await raw(client, "TIME")
    return int(seconds) * 1_000 + int(microseconds) // 1_000


def _flat(fields: Fields) -> list[bytes]:
    return [part for pair in fields for part in pair]


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
