"""The bare contender of the Redis benchmark: the least that redis-py can do with an entry of a consumer group."""

from __future__ import annotations

import json
import time
from typing import Any

import click
import uvloop
from redis.asyncio import Redis

_COUNT = 100


async def handler(entries: list[Any]) -> None:
    """What is done with a batch: nothing."""


async def read(url: str, stream: str, group: str, records: int) -> dict[str, float]:
    """Read ``records`` entries that the group has not seen, handle and acknowledge them; returns what that cost.

    Seconds count from the first reply on, so that connecting is not measured. CPU is that of all threads of the
    process. Raises RedisError.
    """
    async with Redis.from_url(url, protocol=2) as client:
        await client.xgroup_create(stream, group, "0")
        seen = 0
        wall = cpu = 0.0
        while seen < records:
            reply: Any = await client.xreadgroup(group, "bare", {stream: ">"}, count=_COUNT)
            if not seen:
                wall, cpu = time.monotonic(), time.process_time()
            ((_, entries),) = reply
            await handler(entries)
            await client.xack(stream, group, *[entry_id for entry_id, _ in entries])
            seen += len(entries)
        return {
            "records": seen,
            "cpu_seconds": time.process_time() - cpu,
            "wall_seconds": time.monotonic() - wall,
        }


@click.command()
@click.option("--url", required=True, help="of the server")
@click.option("--stream", required=True)
@click.option("--group", required=True, help="consumer group, which is made; it begins at the first entry")
@click.option("--records", required=True, type=click.IntRange(min=1), help="how many to read before it ends")
def main(url: str, stream: str, group: str, records: int) -> None:
    """Print {"records", "cpu_seconds", "wall_seconds"} of reading a stream with nothing around the client."""
    print(json.dumps(uvloop.run(read(url, stream, group, records))))


if __name__ == "__main__":
    main()
