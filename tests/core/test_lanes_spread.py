"""The keys of one Kafka partition fill all of its lanes, whatever the producer's partitioner."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kafka_harness.placement import Placement, by_crc32, by_murmur2

PARTITIONS = 8
FACTOR = 16
KEYS = [f"customer-{number}".encode() for number in range(20_000)]

COUNT_LANES = """
import json, sys
from runner.core.lanes import Lanes, Ordering
from runner.model import NO_TIMESTAMP, Partition, Record

factor = int(sys.argv[1])
counts = []
for number, keys in enumerate(json.load(sys.stdin)):
    partition = Partition("orders", number)
    records = [Record(partition, at, key.encode(), b"", (), NO_TIMESTAMP, at, 0) for at, key in enumerate(keys)]
    lanes = dict(Lanes(Ordering.KEY, factor, batch_records=1, load=len).place(records))
    counts.append([len(lanes.get(lane, ())) for lane in range(factor)])
json.dump(counts, sys.stdout)
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("placement", [by_crc32(PARTITIONS), by_murmur2(PARTITIONS)], ids=["crc32", "murmur2"])
def test_the_keys_of_a_partition_fill_all_of_its_lanes(placement: Placement, seed: int) -> None:
    by_partition: list[list[str]] = [[] for _ in range(PARTITIONS)]
    for index, key in enumerate(KEYS):
        by_partition[placement(key, index)].append(key.decode())
    for keys, counts in zip(by_partition, _records_a_lane(by_partition, seed), strict=True):
        fair = len(keys) / FACTOR
        assert 0.7 * fair <= min(counts)
        assert max(counts) <= 1.3 * fair


def _records_a_lane(by_partition: list[list[str]], seed: int) -> list[list[int]]:
    """In another process: the hash of bytes has one seed for the life of an interpreter."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(seed),
        "PYTHONPATH": os.pathsep.join([path or str(os.curdir) for path in sys.path]),
    }
    child = subprocess.run(
        [sys.executable, "-c", COUNT_LANES, str(FACTOR)],
        input=json.dumps(by_partition),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    counts: list[list[int]] = json.loads(child.stdout)
    return counts
