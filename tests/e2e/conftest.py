"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e_support.process_fixtures import function, new_function, new_runner, run_mappings
from e2e_support.redis_group import StreamGroup
from e2e_support.stream import Stream
from kafka_harness.broker import Broker
from kafka_harness.component import ComponentMissing, find_program
from kafka_harness.naming import NewStream, NewTopic
from redis_harness.fixtures import client

__all__ = ["client", "function", "new_function", "new_runner", "run_mappings"]


@pytest.fixture
def stream(kafka: Broker, new_topic: NewTopic) -> Stream:
    """A topic that the test has yet to create, without dead letters."""
    return Stream(kafka, new_topic(), new_topic())


@pytest.fixture
def group(new_stream: NewStream) -> StreamGroup:
    """Streams that are read in order, none of which is there yet."""
    return StreamGroup(new_stream())


@pytest.fixture(scope="session")
def promtool(component_missing: Callable[[str], None]) -> str:
    try:
        return find_program("promtool", "install Prometheus (Debian: prometheus)")
    except ComponentMissing as missing:
        component_missing(str(missing))
        raise
