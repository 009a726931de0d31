"""Which partition a producer's partitioner picks, for the partitioners that people use."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeAlias

from aiokafka.partitioner import murmur2

Placement: TypeAlias = Callable[[bytes | None, int], int]
"""From a record's key and its index among those produced to a partition's number."""


def by_murmur2(partitions: int) -> Placement:
    """Java's default partitioner; records without a key go round."""
    return lambda key, index: index % partitions if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions


def by_crc32(partitions: int) -> Placement:
    """librdkafka's ``consistent`` partitioner; records without a key go round."""
    return lambda key, index: index % partitions if key is None else zlib.crc32(key) % partitions


def round_robin(partitions: int) -> Placement:
    return lambda _key, index: index % partitions


def always(partition: int) -> Placement:
    return lambda _key, _index: partition
