"""One byte of one stored batch is wrong, whichever it is: its partition stops at the batch, and says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kafka_harness import placement, producing, topics
from kafka_harness.broker import Broker
from kafka_harness.segments import batches
from runner.clients.kafka import KafkaConnection
from runner.model import Partition, Reason
from runner.sources.kafka import KafkaSource, KafkaSourceSettings
from runner.testing.reader import Reader

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

BATCH_RECORDS = 10
DAMAGED_BATCH = 2


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(0, id="base-offset"),
        pytest.param(8, id="length-negative"),
        pytest.param(9, id="length-too-large"),
        pytest.param(17, id="checksum"),
        pytest.param(22, id="attributes"),
        pytest.param(60, id="number-of-records"),
    ],
)
async def test_a_wrong_byte_stops_its_partition_where_it_is(
    kafka: Broker, new_topic: Callable[[], str], place: int
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=2)
    items = producing.numbered(100)
    await producing.produce(kafka.bootstrap, topic, items, place=placement.round_robin(2), batch_records=BATCH_RECORDS)
    settings = KafkaSourceSettings(
        connection=KafkaConnection((kafka.bootstrap,), "test"),
        topics=(topic,),
        group=topic,
        drain_timeout=1.0,
        commit_timeout=5.0,
        session_timeout=6.0,
    )
    damaged, sound = Partition(topic, 0), Partition(topic, 1)
    with inverted(kafka, topic, place):
        async with Reader.of(KafkaSource(settings, now=time.time)) as reader:
            await reader.until(lambda: bool(reader.listener.problems))
            await reader.until(lambda: len(reader.records[sound]) == 50)
    (partition, problem), *_ = reader.listener.problems
    first_bad = DAMAGED_BATCH * BATCH_RECORDS
    assert partition == damaged
    assert problem is not None
    assert problem.reason is Reason.EVENT_SOURCE_UNREADABLE
    assert f"offset {first_bad}" in problem.text
    assert [record.position for record in reader.records[damaged]] == list(range(first_bad))


@contextmanager
def inverted(kafka: Broker, topic: str, place: int) -> Iterator[None]:
    """Invert the byte at ``place`` of the damaged batch of partition 0, and repair it at the end: on some of the damage
    a broker that is killed later would not start."""
    (segment,) = kafka.segment_files(topic, 0)
    batch = list(batches(segment))[DAMAGED_BATCH]
    _invert(segment, batch.begin + place)
    try:
        yield
    finally:
        _invert(segment, batch.begin + place)


def _invert(file_path: Path, place: int) -> None:
    with file_path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 0xFF]))
