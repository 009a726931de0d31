"""Logs written into memory, on a clock set by hand, and what is told to an observer of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner.model import Invocation, Partition, Record
from runner.ports import Observer
from runner.telemetry.logs import Level, Logs, Style, configure
from runner.telemetry.telemetry import Telemetry

ORDERS = Partition("orders", 3)
SECRET = "4111-1111-1111-1111"


class Hands:
    """A monotonic clock set by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Written(io.StringIO):
    """What the logs wrote, line by line."""

    @property
    def lines(self) -> list[str]:
        text = self.getvalue()
        assert text == "" or text.endswith("\n")
        return text.split("\n")[:-1]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@contextmanager
def logging_to(
    style: Style = "json", level: Level = "info", clock: Hands | None = None
) -> Iterator[tuple[Written, Logs]]:
    written = Written()
    logs = configure(style, level, stream=written, monotonic=clock or Hands())
    try:
        yield written, logs
    finally:
        logs.close()


def record() -> Record:
    return Record(ORDERS, 17, SECRET.encode(), SECRET.encode(), ((SECRET, SECRET.encode()),), 1_000, 0, 76)


def observer() -> Observer:
    return Telemetry(version="1").observer("orders-to-charge", "charge")


def invocation() -> Invocation:
    return Invocation(
        mapping="orders-to-charge", function="charge", partition=ORDERS, records=[record()], attempt=2, source="here"
    )
