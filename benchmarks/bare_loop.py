"""The bare contender of the benchmarks: the least that an aiokafka consumer group can do with a record."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click
import uvloop
from aiokafka import AIOKafkaConsumer, ConsumerRecord

_COMMIT_INTERVAL = 1.0
_MAX_RECORDS = 500
_POLL_TIMEOUT_MS = 500


async def handler(records: Sequence[ConsumerRecord]) -> None:
    """What is done with a batch: nothing."""


async def read(bootstrap: str, topic: str, group: str, records: int) -> dict[str, float]:
    """Read ``records`` records from where the group stands, handle and commit them; returns what that cost.

    Seconds count from the first record on, so that joining the group is not measured; its batch is part of the
    records. CPU is that of all threads of the process. Raises KafkaError.
    """
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        seen = 0
        wall = cpu = next_commit = 0.0
        while seen < records:
            batches = await consumer.getmany(timeout_ms=_POLL_TIMEOUT_MS, max_records=_MAX_RECORDS)
            if not batches:
                continue
            if not seen:
                wall, cpu = time.monotonic(), time.process_time()
                next_commit = wall + _COMMIT_INTERVAL
            for batch in batches.values():
                await handler(batch)
                seen += len(batch)
            if time.monotonic() >= next_commit:
                await consumer.commit()
                next_commit = time.monotonic() + _COMMIT_INTERVAL
        await consumer.commit()
        return {
            "records": seen,
            "cpu_seconds": time.process_time() - cpu,
            "wall_seconds": time.monotonic() - wall,
        }
    finally:
        await consumer.stop()


@click.command()
@click.option("--bootstrap", required=True, help="host:port of the broker")
@click.option("--topic", required=True)
@click.option("--group", required=True, help="consumer group; a new one begins at the first record")
@click.option("--records", required=True, type=click.IntRange(min=1), help="how many to read before it ends")
def main(bootstrap: str, topic: str, group: str, records: int) -> None:
    """Print {"records", "cpu_seconds", "wall_seconds"} of reading a topic with nothing around the client."""
    print(json.dumps(uvloop.run(read(bootstrap, topic, group, records))))


if __name__ == "__main__":
    main()
