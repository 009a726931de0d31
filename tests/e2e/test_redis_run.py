"""The real process on Redis streams: to the end of what is there, and what it says when it cannot begin."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from e2e_support import configuration, registering_function
from e2e_support.looking import until_problem
from e2e_support.process_fixtures import NewRunner
from kafka_harness.child import Child
from kafka_harness.fetching import answers
from kafka_harness.naming import NewStream
from kafka_harness.ports import free_port
from kafka_harness.runner_process import REPOSITORY, RunnerProcess
from kafka_harness.waiting import until, until_async
from redis_harness.client import Entry, add, add_many, connect, pending, raw, read_stream
from redis_harness.fixtures import NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

ENTRIES = 1_000
POISON = 637
PASSWORD = "right-secret"
SOURCE_RIGHTS = (
    "~orders.* ~{orders.*}:stream-runner:charge-card ~stream-runner:members:charge-card:* "
    "+client|setname +ping +evalsha +eval +info +time +type +hmget +hset +hgetall +hdel +pexpire +persist "
    "+xinfo|stream +xinfo|groups +xpending +xclaim +xack +xread +xreadgroup +xrange +xrevrange "
    "+xgroup|create +xgroup|setid"
)
SHARED_RIGHTS = "+xinfo|consumers +xgroup|delconsumer"
DEAD_LETTER_RIGHTS = "~orders.dead-letter ~{orders.dead-letter}:dead-letter:* +get +set +xrange +xadd"
TESTS = Path(__file__).resolve().parent.parent


class Function:
    """The function ``streaming`` in a process of its own, which names the records as failed that have a ``reject``."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self._register = directory / "streaming.register"
        command = [sys.executable, "-m", "e2e_support.lambda_host", "--port", str(port), "--name", "streaming"]
        command += ["--directory", str(registering_function.DIRECTORY), "--handler", "streaming.handler"]
        variables = {"PYTHONPATH": str(TESTS), "REGISTER": str(self._register)}
        self.process = Child("streaming", command, directory=directory, environment=variables)

    def events(self) -> list[dict[str, Any]]:
        """Those of all calls so far."""
        return [json.loads(line) for line in self._register.read_text().splitlines()] if self._register.exists() else []


@pytest.fixture
async def function(tmp_path: Path, failed: Callable[[], bool]) -> AsyncIterator[Function]:
    function = Function(tmp_path)
    function.process.start()
    try:
        await until_async(lambda: answers(function.url), what="the function answers", every=0.02)
        yield function
    finally:
        function.process.kill()
        if failed():
            print(function.process.output())


def received(function: Function) -> Iterator[tuple[str, str, bytes, bytes]]:
    """Stream, id, key and value of every record of every call, in order."""
    for event in function.events():
        assert event["eventSource"] == "RedisStreams"
        for stream, records in event["records"].items():
            for record in records:
                assert record["stream"] == stream
                yield stream, record["id"], base64.b64decode(record["key"]), base64.b64decode(record["value"])


def one_mapping(function: Function, url: str, streams: str | list[str], **keys: Any) -> dict[str, Any]:
    """A process with one mapping ``m``."""
    redis = {"url": url, "streams": streams, "lease": "2s", "key_field": "customer", "value_field": "body"}
    mapping = {"function": "f", "source": {"redis_streams": redis}, "commit_timeout": "1s", **keys}
    mapping["retry_backoff"] = configuration.QUICK_BACKOFF
    return configuration.process({"f": configuration.http(function.url)}, {"m": mapping})


async def run_to_the_end(runner: RunnerProcess) -> tuple[int, str]:
    """The exit code, and what was printed."""
    runner.launch()
    exit_code = await runner.stopped(60)
    return exit_code, runner.process.stdout.read_text()


def settled_of(printed: str) -> tuple[int, int]:
    """How many records the summary says were delivered, and how many dead-lettered."""
    found = re.match(r"([\d,]+) delivered, .* ([\d,]+) dead-lettered", printed)
    assert found is not None, printed
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


async def test_all_is_settled_and_a_second_run_finds_nothing(
    redis_server: RedisServer,
    client: Redis,
    new_stream: NewStream,
    function: Function,
    new_runner: NewRunner,
) -> None:
    base = new_stream()
    streams, dead = [f"{base}.0", f"{base}.1"], f"{base}.dead"
    added: list[tuple[str, bytes, list[tuple[bytes, bytes]]]] = []
    for place, stream in enumerate(streams):
        numbers = range(place, ENTRIES, len(streams))
        fields = [an_entry(number) for number in numbers]
        added += zip([stream] * len(fields), await add_many(client, stream, fields), fields, strict=True)
    config = one_mapping(
        function,
        redis_server.url,
        f"{base}.{{0..1}}",
        maximum_retry_attempts=1,
        function_response_types=["report_batch_item_failures"],
        destination_config={"on_failure": {"redis_streams": {"stream": dead}}},
    )

    exit_code, printed = await run_to_the_end(new_runner(config, arguments=["--until-caught-up"]))
    assert (exit_code, settled_of(printed)) == (0, (ENTRIES - 1, 1))
    handled = list(received(function))
    assert {(stream, id_.encode()) for stream, id_, _, _ in handled} == {(stream, id_) for stream, id_, _ in added}
    for stream in streams:
        bodies = [body for each, _, _, body in handled if each == stream]
        assert list(dict.fromkeys(bodies)) == [fields[-1][1] for each, _, fields in added if each == stream], "in order"
        assert await pending(client, stream, "m") == []
    (poison,) = [(stream, id_, fields) for stream, id_, fields in added if fields[0][0] == b"reject"]
    (letter,) = await read_stream(client, dead)
    assert_letter(letter, poison)

    calls = len(function.events())
    exit_code, printed = await run_to_the_end(new_runner(config, arguments=["--until-caught-up"]))
    assert (exit_code, settled_of(printed)) == (0, (0, 0))
    assert len(function.events()) == calls
    assert len(await read_stream(client, dead)) == 1


def an_entry(number: int) -> list[tuple[bytes, bytes]]:
    mark = [(b"reject", b"\xff\x00")] if number == POISON else [(b"unit", b"EUR")]
    return [*mark, (b"customer", b"%d" % (number % 10)), (b"body", b'{"n": %d}' % number)]


def assert_letter(letter: Entry, poison: tuple[str, bytes, list[tuple[bytes, bytes]]]) -> None:
    stream, entry_id, fields = poison
    assert letter[1][: len(fields)] == fields
    facts = dict(letter[1][len(fields) :])
    assert facts[b"stream-runner-original-topic"] == stream.encode()
    assert facts[b"stream-runner-original-position"] == entry_id
    assert facts[b"stream-runner-condition"] == b"RetryAttemptsExhausted"
    assert facts[b"stream-runner-attempts"] == b"2"


async def test_a_misspelt_stream_is_a_problem_until_it_is_there(
    redis_server: RedisServer,
    client: Redis,
    new_stream: NewStream,
    function: Function,
    new_runner: NewRunner,
) -> None:
    there, misspelt = new_stream(), new_stream()
    await add(client, there, an_entry(1))
    runner = new_runner(one_mapping(function, redis_server.url, [there, misspelt], batch_size=1))
    await runner.start()
    problem = (await until_problem(runner, "m", "EVENT_SOURCE_NOT_FOUND"))["problem"]
    assert f"there is no stream '{misspelt}'" in problem["text"]
    assert "check its name" in problem["hint"]
    await until(lambda: len(function.events()) == 1, what="the other stream is read")
    assert await raw(client, "EXISTS", misspelt) == 0, "no stream is made"

    await add(client, misspelt, an_entry(2))
    await until(lambda: len(function.events()) == 2, what="the stream is read from its first entry on")
    await until_problem(runner, "m", None)
    await runner.stop_cleanly()
    for stream in (there, misspelt):
        assert await pending(client, stream, "m") == []


@pytest.mark.parametrize("delivery", ["ordered", "shared"])
@pytest.mark.parametrize(("kind", "reason"), [("none", "EVENT_SOURCE_NOT_FOUND"), ("list", "ESM_CONFIG_NOT_VALID")])
async def test_a_run_to_the_end_of_what_is_no_stream_ends_at_once(
    redis_server: RedisServer,
    client: Redis,
    new_stream: NewStream,
    function: Function,
    new_runner: NewRunner,
    delivery: str,
    kind: str,
    reason: str,
) -> None:
    stream = new_stream()
    if kind == "list":
        await raw(client, "RPUSH", stream, "1")
    config = one_mapping(function, redis_server.url, stream)
    config["mappings"]["m"]["source"]["redis_streams"]["delivery"] = delivery
    exit_code, printed = await run_to_the_end(new_runner(config, arguments=["--until-caught-up"]))
    assert exit_code == 4
    assert f"  m: {reason}: " in printed
    assert stream in printed
    await raw(client, "DEL", stream)


async def test_a_run_to_the_end_waits_for_a_server_that_cannot_be_reached_until_the_deadline(
    function: Function, new_runner: NewRunner
) -> None:
    config = one_mapping(function, f"redis://127.0.0.1:{free_port()}", "orders")
    runner = new_runner(config, arguments=["--until-caught-up", "--deadline", "3s"])
    exit_code, printed = await run_to_the_end(runner)
    assert exit_code == 4
    assert "  m: EVENT_SOURCE_UNREACHABLE: " in printed
    told = [entry for entry in runner.logs() if entry["event"].startswith("cannot begin yet: tried again")]
    assert told
    assert told[0]["reason"] == "EVENT_SOURCE_UNREACHABLE"


@pytest.mark.parametrize("delivery", ["ordered", "shared"])
@pytest.mark.parametrize("flavour", list(Flavour))
async def test_the_least_rights_are_enough(
    flavour: Flavour, delivery: str, new_redis: NewRedis, function: Function, new_runner: NewRunner
) -> None:
    for rules in (SOURCE_RIGHTS, SHARED_RIGHTS, DEAD_LETTER_RIGHTS):
        assert rules in " ".join((REPOSITORY / "README.md").read_text().split()), "these are published"
    more = SHARED_RIGHTS if delivery == "shared" else ""
    user = AclUser("runner", PASSWORD, f"{SOURCE_RIGHTS} {more} {DEAD_LETTER_RIGHTS}".replace("  ", " "))
    server = new_redis(flavour, RedisOptions(users=(user,)))
    config = one_mapping(
        function,
        f"redis://{server.address}",
        "orders.{0..1}",
        maximum_retry_attempts=0,
        function_response_types=["report_batch_item_failures"],
        destination_config={"on_failure": {"redis_streams": {"stream": "orders.dead-letter"}}},
    )
    login = {
        "delivery": delivery,
        "group": "charge-card",
        "username": "runner",
        "password": PASSWORD,
        "allow_plaintext": True,
    }
    config["mappings"]["m"]["source"]["redis_streams"] |= login
    async with connect(server.url) as client:
        added = [an_entry(1), an_entry(POISON)]
        for stream, fields in zip(("orders.0", "orders.1"), added, strict=True):
            await add(client, stream, fields)
        exit_code, printed = await run_to_the_end(new_runner(config, arguments=["--until-caught-up"]))
        assert (exit_code, settled_of(printed)) == (0, (1, 1))
        (letter,) = await read_stream(client, "orders.dead-letter")
        assert letter[1][:3] == added[1]


async def test_a_wrong_password_is_a_problem_until_its_file_holds_the_right_one(
    new_redis: NewRedis, new_stream: NewStream, function: Function, new_runner: NewRunner, tmp_path: Path
) -> None:
    server, stream = new_redis(options=RedisOptions(password=PASSWORD)), new_stream()
    secret = tmp_path / "password"
    secret.write_text("wrong-secret\n")
    config = one_mapping(function, f"redis://{server.address}", stream, batch_size=1)
    login = {"password": f"${{file:{secret}}}", "allow_plaintext": True}
    config["mappings"]["m"]["source"]["redis_streams"] |= login
    async with connect(server.url) as client:
        await add(client, stream, an_entry(1))
        runner = new_runner(config)
        await runner.start()
        problem = (await until_problem(runner, "m", "EVENT_SOURCE_AUTHN_ERROR"))["problem"]
        assert "WRONGPASS" in problem["text"]
        assert "check user name and password" in problem["hint"]
        assert not function.events()

        secret.write_text(f"{PASSWORD}\n")
        await until(lambda: len(function.events()) == 1, what="it goes on")
        await runner.stop_cleanly()
        assert await pending(client, stream, "m") == []
    assert "-secret" not in runner.process.stderr.read_text()
