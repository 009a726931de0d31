"""Writing records fast and knowing where each of them came to lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from kafka_harness.clients import started_producer
from kafka_harness.placement import Placement, always


class Item(NamedTuple):
    """A record to be written. ``timestamp_ms`` None: now."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp_ms: int | None = None


class Placed(NamedTuple):
    """A record where it lies now."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None

    @property
    def origin(self) -> tuple[str, int]:
        """``("topic-0", offset)``: how journals name a record."""
        return f"{self.topic}-{self.partition}", self.offset


def numbered(
    count: int, *, keys: int = 0, poison_every: int = 0, poison: bool | int = True, start: int = 0, padding: int = 0
) -> list[Item]:
    """Records ``{"n": 17, ...}`` that the function of the harness understands.

    ``keys``: that many different keys in turn, none at 0. ``poison_every``: that often one is poison, by ``poison``:
    True fails for ever, a number fails that often. ``padding``: bytes of filling a record.
    """
    items = []
    for n in range(start, start + count):
        value: dict[str, object] = {"n": n}
        if poison_every and n % poison_every == poison_every - 1:
            value["poison"] = poison
        if padding:
            value["padding"] = "x" * padding
        key = f"key-{n % keys}".encode() if keys else None
        items.append(Item(json.dumps(value).encode(), key))
    return items


async def produce(
    bootstrap: str,
    topic: str,
    items: Iterable[Item],
    *,
    place: Placement | None = None,
    batch_records: int = 500,
    compression: str | None = None,
) -> list[Placed]:
    """Write ``items`` durably, exactly once, in their order within a partition; returns them in the same order.

    ``place`` chooses the partition (default: always 0). ``batch_records`` is the number of records in a stored batch,
    at most. Raises KafkaError.
    """
    async with started_producer(bootstrap, compression=compression) as producer:
        return await write(producer, topic, items, place=place, batch_records=batch_records)


async def produce_in_transaction(
    bootstrap: str,
    topic: str,
    items: Iterable[Item],
    *,
    transactional_id: str,
    commit: bool,
    place: Placement | None = None,
) -> list[Placed]:
    """Write ``items`` in one transaction and commit or abort it; the markers are stored when this returns."""
    async with started_producer(bootstrap, transactional_id=transactional_id) as producer:
        await producer.begin_transaction()
        placed = await write(producer, topic, items, place=place)
        if commit:
            await producer.commit_transaction()
        else:
            await producer.abort_transaction()
        return placed


async def write(
    producer: AIOKafkaProducer,
    topic: str,
    items: Iterable[Item],
    *,
    place: Placement | None = None,
    batch_records: int = 500,
) -> list[Placed]:
    """As ``produce``, with a producer that its caller keeps."""
    choose = place or always(0)
    queues: dict[int, list[tuple[int, Item]]] = {}
    for index, item in enumerate(items):
        queues.setdefault(choose(item.key, index), []).append((index, item))
    parts = await asyncio.gather(
        *(_write_partition(producer, topic, partition, queue, batch_records) for partition, queue in queues.items())
    )
    return [placed for _index, placed in sorted(entry for part in parts for entry in part)]


async def _write_partition(
    producer: AIOKafkaProducer, topic: str, partition: int, queue: Sequence[tuple[int, Item]], batch_records: int
) -> list[tuple[int, Placed]]:
    sent = []
    begin = 0
    while begin < len(queue):
        batch = producer.create_batch()
        end = begin
        while end < len(queue) and end - begin < batch_records:
            item = queue[end][1]
            headers = list(item.headers)
            if batch.append(timestamp=item.timestamp_ms, key=item.key, value=item.value, headers=headers) is None:
                break
            end += 1
        batch.close()
        sent.append((begin, end, await producer.send_batch(batch, topic, partition=partition)))
        begin = end
    placed = []
    for first, last, stored in sent:
        base = (await stored).offset
        for at in range(first, last):
            index, item = queue[at]
            placed.append((index, Placed(topic, partition, base + at - first, item.key, item.value)))
    return placed
