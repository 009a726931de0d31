"""What people see of streams that cannot be read: in ``/mappings``, the metrics and the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from e2e_support import configuration
from e2e_support.looking import lag_seconds, mapping_view
from kafka_harness.ports import free_port
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until_async
from redis_harness.client import add, connect, raw
from redis_harness.server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]

NewRunner = Callable[..., RunnerProcess]


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with connect(redis_server.url) as client:
        yield client


def watched(url: str, streams: list[str], group: str) -> dict[str, Any]:
    """A process with one mapping ``m``, whose function nobody serves. It waits so long for an answer that a server on a
    busy machine is no problem of its own."""
    redis = {"url": url, "streams": streams, "group": group, "lease": "10s"}
    mapping = {"function": "f", "source": {"redis_streams": redis}, "drain_timeout": "100ms", "commit_timeout": "5s"}
    function = configuration.http(f"http://127.0.0.1:{free_port()}/")
    return configuration.process({"f": function}, {"m": mapping})


async def until_stopped(runner: RunnerProcess, *streams: str) -> dict[str, Any]:
    """The mapping's view, once exactly these streams have a problem, and as many are counted."""

    async def stopped() -> dict[str, Any] | None:
        scrape = await runner.scrape()
        view = await mapping_view(runner, "m")
        named = [each["topic"] for each in view["partitions"] if each["problem"] is not None]
        counted = scrape.value("stream_runner_problem_partitions", mapping="m")
        return view if (sorted(named), counted) == (sorted(streams), len(streams)) else None

    view = await until_async(stopped, what=f"{streams} have stopped")
    assert view is not None
    return view


def told(runner: RunnerProcess, event: str) -> list[str]:
    return [entry["topic"] for entry in runner.logs() if entry["event"] == event]


async def test_streams_that_are_not_there_are_shown_counted_and_named_until_they_are(
    redis_server: RedisServer, client: Redis, new_runner: NewRunner, new_stream: Callable[[], str]
) -> None:
    there, late, never = sorted(new_stream() for _ in range(3))
    await add(client, there, [(b"v", b"1")])
    runner = new_runner(watched(redis_server.url, [there, late, never], new_stream()))
    await runner.start()
    view = await until_stopped(runner, late, never)
    assert view["problem"]["text"].startswith(f"2 partitions: {late}, {never}: there is no stream '{late}'")
    shown = {each["topic"]: each for each in view["partitions"]}
    assert shown[there]["problem"] is None
    assert [shown[name]["assigned"] for name in (there, late, never)] == [True, False, False]
    assert shown[never]["problem"]["reason"] == "EVENT_SOURCE_NOT_FOUND"
    assert len(lag_seconds(await runner.scrape(), "m")) <= 1, "what was never read has no lag"

    await add(client, late, [(b"v", b"1")])
    view = await until_stopped(runner, never)
    assert view["problem"]["text"].startswith(f"{never}: ")

    async def tried() -> bool:
        last = (await mapping_view(runner, "m"))["last_error"]
        return last is not None and last["kind"] == "unreachable" and "127.0.0.1" in last["text"]

    await until_async(tried, what="the function's last error is shown")
    runner.terminate()
    assert await runner.stopped() == 0
    assert sorted(told(runner, "partition stopped")) == [late, never]
    assert told(runner, "partition goes on") == [late], "one that is not there does not go on when the process stops"


async def test_a_stream_that_stopped_at_a_loss_is_counted(
    redis_server: RedisServer, client: Redis, new_runner: NewRunner, new_stream: Callable[[], str]
) -> None:
    sound, lossy = sorted(new_stream() for _ in range(2))
    group = new_stream()
    for name in (sound, lossy):
        await raw(client, "XGROUP", "CREATE", name, group, "0", "MKSTREAM", "ENTRIESREAD", "0")
    for _ in range(5):
        await add(client, lossy, [(b"v", b"1")])
    await raw(client, "XTRIM", lossy, "MAXLEN", 2)
    runner = new_runner(watched(redis_server.url, [sound, lossy], group))
    await runner.start()
    view = await until_stopped(runner, lossy)
    assert view["problem"]["reason"] == "DATA_LOSS"
    scrape = await runner.scrape()
    assert scrape.value("stream_runner_mapping_problem", mapping="m", reason="DATA_LOSS") == 1
    assert scrape.value("stream_runner_data_losses_total", mapping="m") == 0, "nothing was passed over"
    assert f"XGROUP SETID {lossy} {group} 0" in view["problem"]["hint"]
    await raw(client, "XGROUP", "SETID", lossy, group, "0")
    await until_stopped(runner)
    runner.terminate()
    assert await runner.stopped() == 0
    assert told(runner, "partition goes on") == [lossy]
