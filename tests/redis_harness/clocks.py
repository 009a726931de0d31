"""What a server's stream looks like after its clock has gone back."""

from __future__ import annotations

import re
import struct
from functools import cache

from redis.asyncio import Redis

from redis_harness.client import clock_ms, raw

_POLYNOMIAL = 0x95AC9329AC4BC9B5
"""Of the CRC that ends what DUMP gives, bits reversed."""

_LATELY_MS = 600_000
"""Before now, and behind it where the machine's clock has been set back a little since."""
_TRAILER_BYTES = 8


async def set_ahead(client: Redis, stream: str, by_ms: int) -> None:
    """Let all that happened to ``stream`` lately be by so much later: its consumers were heard of, and its pending
    entries touched, by a clock that has gone back since."""
    now = await clock_ms(client)
    dump: bytes = await raw(client, "DUMP", stream)

    def later(found: re.Match[bytes]) -> bytes:
        (time,) = struct.unpack("<q", found[0])
        return struct.pack("<q", time + by_ms) if abs(time - now) < _LATELY_MS else found[0]

    # Times are milliseconds in eight bytes, the lowest first; the next ones are searched for behind them.
    body = re.sub(rb"(?s)....[\x80-\xff]\x01\x00\x00", later, dump[:-_TRAILER_BYTES])
    assert body != dump[:-_TRAILER_BYTES], "something has happened to it"
    await raw(client, "RESTORE", stream, 0, body + struct.pack("<Q", _crc(body)), "REPLACE")


@cache
def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


def _crc(data: bytes) -> int:
    crc, table = 0, _table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc
