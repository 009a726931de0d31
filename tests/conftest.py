"""Fixtures that every test may use, and the one rule about what a machine lacks."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator

import hypothesis
import pytest

from kafka_harness import install
from kafka_harness.broker import Broker
from kafka_harness.component import ComponentMissing
from kafka_harness.naming import NewTopic, names_for
from kafka_harness.properties import BrokerOptions
from redis_harness.fixtures import (
    kept,
    new_redis,
    new_redis_cluster,
    new_sentinel,
    new_stream,
    redis_of,
    redis_server,
)

# Fixtures for real Redis servers: pytest finds them by these names.
__all__ = ["kept", "new_redis", "new_redis_cluster", "new_sentinel", "new_stream", "redis_of", "redis_server"]

USERS = {"alice": "alice-secret", "bob": "bob-secret"}

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("search", deadline=None, database=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_has_failed = pytest.StashKey[bool]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch the broker before the first test, whose time limit would not bear a cold cache."""
    if session.config.option.collectonly:
        return
    if any("broker" in getattr(item, "fixturenames", ()) for item in session.items):
        # What is missing is met again, and reported, by the fixture that needs it.
        with contextlib.suppress(ComponentMissing):
            install.class_path()


@pytest.fixture(autouse=True)
def left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test with a broker has left open is its own failure, and not that of the one in which the garbage
    collector finds it."""
    yield
    if request.node.get_closest_marker("kafka") is not None:
        gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure, so that fixtures can show what their processes printed."""
    report = yield
    item.stash[_has_failed] = item.stash.get(_has_failed, False) or report.failed
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def component_missing() -> Callable[[str], None]:
    """Ends a test for which the machine lacks something: it fails where ``CI`` is ``true``, elsewhere it is skipped."""

    def end(what: str) -> None:
        if os.environ.get("CI") == "true":
            pytest.fail(what, pytrace=False)
        pytest.skip(what)

    return end


@pytest.fixture(scope="session")
def broker(component_missing: Callable[[str], None]) -> Iterator[Broker]:
    """The suite's one broker: every listener, ACLs on, the users of ``USERS``. Tests may break it: see ``kafka``."""
    broker = Broker(BrokerOptions(users=USERS, tls=True, acls=True))
    try:
        broker.start()
    except ComponentMissing as missing:
        component_missing(str(missing))
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def failed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Whether the test has failed, for fixtures that clean up after it."""
    return lambda: request.node.stash.get(_has_failed, False)


@pytest.fixture
async def kafka(broker: Broker, failed: Callable[[], bool]) -> AsyncIterator[Broker]:
    """The broker, brought back when the test before left it dead or frozen."""
    if broker.running:
        broker.resume()
    else:
        await broker.restart()
    yield broker
    if failed():
        print(broker.output())


@pytest.fixture
def new_topic(request: pytest.FixtureRequest) -> NewTopic:
    """For topics and groups."""
    return names_for(request.node.name)
