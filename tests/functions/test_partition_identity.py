"""What a partition is called: for people as they know it, for programs in one form for every source."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from runner.functions.context import LambdaContext
from runner.functions.identity import identity_headers
from runner.model import Invocation, Partition, Record, WholeTopic

STREAM = WholeTopic("orders.1", 0)


def test_a_topic_s_only_partition_is_known_to_people_by_its_topic() -> None:
    assert str(STREAM) == "orders.1"
    assert str(Partition("orders.1", 0)) == "orders.1-0"
    assert STREAM.identifier == Partition("orders.1", 0).identifier == "orders.1-0"


def test_it_is_the_same_partition_whatever_it_is_called() -> None:
    assert Partition("orders.1", 0) == STREAM
    assert {Partition("orders.1", 0): "known"}[STREAM] == "known"
    assert str(pickle.loads(pickle.dumps(STREAM))) == "orders.1"


@pytest.mark.parametrize("partition", [STREAM, Partition("orders.1", 0)])
def test_functions_are_told_the_identifier(
    partition: Partition, new_record: Callable[..., Record], new_invocation: Callable[..., Invocation]
) -> None:
    invocation = new_invocation(new_record(4, partition=partition))
    assert dict(identity_headers(invocation))["Stream-Runner-Partition"] == "orders.1-0"
    assert invocation.idempotency_key == new_invocation(new_record(4, partition=Partition(*partition))).idempotency_key
    context = LambdaContext(invocation, 1.0)
    assert context.partition == "orders.1-0"
    assert context.log_stream_name.endswith("/orders.1-0")
