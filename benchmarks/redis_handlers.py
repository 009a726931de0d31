"""Handlers of the Redis benchmark: one that does nothing, one that notes when it was called.

What they have to tell is written to the file BENCHMARK_RESULT when the process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from runner.model import Record


class Meter:
    """Counts records. CPU is counted from the first invocation to the end of the process: the last acknowledgement is
    part of it. Seconds are counted to the last invocation: how soon the process ends is another question."""

    def __init__(self) -> None:
        self.records = 0
        self.cpu = 0.0
        self.began = 0.0
        self.wall = 0.0

    def count(self, records: int) -> None:
        if not self.records:
            self.cpu, self.began = time.process_time(), time.monotonic()
            atexit.register(self.write)
        self.records += records
        self.wall = time.monotonic() - self.began

    def write(self) -> None:
        cpu = time.process_time() - self.cpu
        _write({"records": self.records, "cpu_seconds": cpu, "wall_seconds": self.wall})


class Clock:
    """Notes the monotonic time in seconds at which each record came, by its stream and id."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def note(self, records: Sequence[Record]) -> None:
        now = time.monotonic()
        if not self.times:
            atexit.register(self.write)
        for record in records:
            self.times.setdefault(f"{record.partition.topic} {record.position}", now)

    def write(self) -> None:
        _write(self.times)


def _write(result: object) -> None:
    Path(os.environ["BENCHMARK_RESULT"]).write_text(json.dumps(result), encoding="utf-8")


meter = Meter()
clock = Clock()


async def count(records: Sequence[Record], context: object) -> None:
    meter.count(len(records))


async def note(records: Sequence[Record], context: object) -> None:
    clock.note(records)
