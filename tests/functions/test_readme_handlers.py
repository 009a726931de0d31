"""The handlers that the README shows do what it says, each with the events of its source."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.functions.payloads.lambda_event import LambdaPayload
from runner.functions.payloads.shape import shape_of
from runner.functions.responses import outcome_of
from runner.model import Invocation, Partition, PartlyFailed, Position, Record

README = Path(__file__).parents[2] / "README.md"
KAFKA, REDIS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("source", "shown", "positions"),
    [("SelfManagedKafka", KAFKA, [7, 8]), ("File", KAFKA, [0, 52]), ("RedisStreams", REDIS, ["1700-0", "1700-1"])],
)
def test_a_handler_names_the_record_that_it_could_not_charge(
    new_record: Callable[..., Record],
    new_invocation: Callable[..., Invocation],
    source: str,
    shown: str,
    positions: list[Position],
) -> None:
    records = [
        new_record(position, partition=Partition("orders", 0), value=value)
        for position, value in zip(positions, (b"good", b"bad"), strict=True)
    ]
    invocation = new_invocation(*records)
    names: dict[str, Any] = {"charge": lambda value: value == b"good"}
    exec(shown, names)
    answer = names["handler"](json.loads(LambdaPayload(source).encode(invocation)), None)
    outcome = outcome_of(json.dumps(answer).encode(), invocation, shape_of(source))
    assert isinstance(outcome, PartlyFailed)
    assert outcome.positions == {positions[1]}
