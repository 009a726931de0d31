"""``run`` from start to exit on files: caught up, out of time, signalled, reloaded."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from e2e_support import configuration
from e2e_support.process_fixtures import NewRunner
from kafka_harness import oracle
from kafka_harness.behaviour import Behaviour
from kafka_harness.function_process import FunctionProcess
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async

AT_ONCE = 15.0
"""Seconds, with all that a busy machine adds; the drain would last 60."""
SAME_SIGNAL = 0.1
"""Seconds, much less than count: the process may stand still before it sees the last one."""
RECORDS = 20


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A topic of one partition with RECORDS records, each of a key of its own."""
    directory = tmp_path / "orders"
    directory.mkdir()
    write_records(directory, 0, RECORDS)
    return directory


def write_records(directory: Path, first: int, last: int) -> None:
    """Append the records ``first`` to ``last`` - 1; keys are ``key-N``."""
    with (directory / "0.jsonl").open("a") as file:
        file.writelines(json.dumps({"key": f"key-{n}", "value": {"n": n}}) + "\n" for n in range(first, last))


def one_by_one(orders: Path, function: FunctionProcess, **keys: Any) -> dict[str, Any]:
    """A process with one mapping ``m`` that hands over a record at a time."""
    mapping = configuration.from_files(orders, "f", **({"batch_size": 1} | keys))
    return configuration.process({"f": configuration.http(function.url)}, {"m": mapping})


def checkpoint(orders: Path) -> int:
    """The stored position of the only partition: a byte offset."""
    stored = json.loads((orders / ".stream-runner" / "m.json").read_text())
    position = stored["partitions"]["0"]["position"]
    assert isinstance(position, int)
    return position


async def until_logged(runner: RunnerProcess, event: str) -> dict[str, Any]:
    """The newest log line of that event, once there is one."""

    def logged() -> dict[str, Any] | None:
        found = [entry for entry in runner.logs() if entry["event"] == event]
        return found[-1] if found else None

    entry = await until(logged, what=f"{runner.name} logs {event!r}", every=0.02)
    assert entry is not None
    return entry


async def until_mapping(runner: RunnerProcess, name: str, **expected: object) -> dict[str, Any]:
    """What ``/mappings`` says of a mapping, once it has these members."""

    async def says() -> dict[str, Any] | None:
        for mapping in (await runner.mappings())["mappings"]:
            if mapping["mapping"] == name and expected.items() <= mapping.items():
                return dict(mapping)
        return None

    found = await until_async(says, what=f"mapping {name} is {expected}")
    assert found is not None
    return found


async def test_until_caught_up_exits_0_with_a_summary(
    orders: Path, function: FunctionProcess, new_runner: NewRunner, tmp_path: Path
) -> None:
    letters = tmp_path / "letters.jsonl"
    with (orders / "0.jsonl").open("a") as file:
        file.write('{"key": "bad", "value": {"poison": true}}\n{"key": "flaky", "value": {"poison": 1}}\nhalf a line')
    await function.start()
    keys = {"maximum_retry_attempts": 2, "destination_config": {"on_failure": {"file": {"path": str(letters)}}}}
    runner = new_runner(one_by_one(orders, function, **keys), arguments=["--until-caught-up"])
    runner.launch()
    assert await runner.stopped() == 0
    summary = runner.process.stdout.read_text()
    assert summary.startswith(f"{RECORDS + 1} delivered, 3 retried, 1 dead-lettered in ")
    assert summary.rstrip().endswith("records/s)")
    assert json.loads(letters.read_text())["key"] == "bad"
    assert len(oracle.handled_at(function.calls())) == RECORDS + 1


async def test_the_deadline_exits_4_and_names_what_is_unsettled(
    orders: Path, function: FunctionProcess, new_runner: NewRunner
) -> None:
    await function.start(Behaviour(hang_keys=["key-7"]))
    config = one_by_one(orders, function, drain_timeout="100ms")
    missing = configuration.from_files(orders.parent / "order", "f")
    config["mappings"]["misspelt"] = missing
    runner = new_runner(config, arguments=["--until-caught-up", "--deadline", "6s"])
    runner.launch()
    assert await runner.stopped() == 4
    first, title, *lines = runner.process.stdout.read_text().splitlines()
    assert first.startswith("7 delivered, 0 retried, 0 dead-lettered in ")
    assert title == "not done:"
    told = dict(line.strip().split(": ", 1) for line in lines)
    assert set(told) == {"m", "misspelt"}
    assert told["m"] == "orders-0: 13 fetched and unsettled, 13 up to the end, 1 lane waits for the function"
    assert told["misspelt"].startswith("EVENT_SOURCE_NOT_FOUND")
    assert f"did you mean {orders}?" in told["misspelt"]


async def test_a_mapping_that_can_never_begin_does_not_keep_a_run_to_the_end_and_makes_it_exit_4(
    orders: Path, function: FunctionProcess, new_runner: NewRunner
) -> None:
    await function.start()
    config = one_by_one(orders, function)
    config["mappings"]["misspelt"] = configuration.from_files(orders.parent / "order", "f")
    runner = new_runner(config, arguments=["--until-caught-up"])
    runner.launch()
    assert await runner.stopped() == 4
    first, title, *lines = runner.process.stdout.read_text().splitlines()
    assert first.startswith(f"{RECORDS} delivered, 0 retried, 0 dead-lettered in ")
    assert title == "not done:"
    (told,) = lines
    assert told.startswith("  misspelt: EVENT_SOURCE_NOT_FOUND: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_drains_and_exits_0(
    orders: Path, function: FunctionProcess, new_runner: NewRunner, number: signal.Signals
) -> None:
    await function.start(Behaviour(hang_keys=["key-7"]))
    runner = new_runner(one_by_one(orders, function, commit_interval="5m"))
    await runner.start()
    await function.until_held(1)
    runner.process.signal(number)
    assert (await until_logged(runner, "draining; a second signal exits at once"))["signal"] == number.name
    # A drain begins with a checkpoint, and no other is due yet.
    await until(lambda: checkpoint(orders) == _position_of(orders, 7), what="the drain has begun")
    await function.behave(Behaviour())
    assert await runner.stopped() == 0
    calls = function.calls()
    assert len(calls) == 8, "what was begun is finished, nothing more is begun"
    assert checkpoint(orders) == _position_of(orders, 8)
    assert (await until_logged(runner, "partition drained"))["repeated"] == 0
    await runner.start()
    await until(lambda: len(oracle.handled_at(function.calls())) == RECORDS, what="the rest is delivered")
    assert oracle.duplicates(function.calls()) == {}


def _position_of(orders: Path, record: int) -> int:
    lines = (orders / "0.jsonl").read_bytes().splitlines(keepends=True)
    return sum(map(len, lines[:record]))


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_second_signal_exits_at_once(
    orders: Path, function: FunctionProcess, new_runner: NewRunner, second: signal.Signals, code: int
) -> None:
    await function.start(Behaviour(hang=True))
    runner = new_runner(one_by_one(orders, function, drain_timeout="60s"))
    await runner.start()
    await function.until_held(1)
    runner.process.signal(signal.SIGINT)
    await until_logged(runner, "draining; a second signal exits at once")
    began = time.monotonic()

    async def ended() -> bool:
        # Repeated, since one that comes too soon after the first is taken for the same.
        runner.process.signal(second)
        return not runner.process.running

    await until_async(ended, what="the process has ended", every=0.05)
    assert await runner.stopped() == code
    assert time.monotonic() - began < AT_ONCE
    assert "second signal: exiting at once" in runner.process.stderr.read_text()
    assert checkpoint(orders) == 0


async def test_a_signal_that_comes_twice_within_moments_is_one(
    orders: Path, function: FunctionProcess, new_runner: NewRunner
) -> None:
    """As ``timeout`` sends it: to the process, and then to its group."""
    await function.start(Behaviour(hang_keys=["key-7"]))
    runner = new_runner(one_by_one(orders, function, drain_timeout="60s", commit_interval="5m"))
    await runner.start()
    await function.until_held(1)
    began = time.monotonic()
    while time.monotonic() - began < SAME_SIGNAL:
        runner.process.signal(signal.SIGTERM)
        await anyio.sleep(0.01)
    await until_logged(runner, "draining; a second signal exits at once")
    await until(lambda: checkpoint(orders) == _position_of(orders, 7), what="the drain has begun")
    await function.behave(Behaviour())
    assert await runner.stopped() == 0
    assert checkpoint(orders) == _position_of(orders, 8)


async def test_an_invalid_reload_changes_nothing_and_says_why(
    orders: Path, function: FunctionProcess, new_runner: NewRunner
) -> None:
    await function.start()
    runner = new_runner(one_by_one(orders, function))
    await runner.start()
    await until(lambda: len(function.calls()) == RECORDS, what="all is delivered")
    before = runner.config_file.read_text()
    runner.config_file.write_text(before.replace("batch_size: 1", "batch_size: 0"))
    runner.reload()
    refused = await until_logged(runner, "reload refused")
    assert "error[E104]: mappings.m.batch_size must be a whole number from 1 to 10000" in refused["error"]
    assert refused["hint"]
    scrape = await runner.scrape()
    assert scrape.value("stream_runner_config_last_reload_successful") == 0
    assert scrape.value("stream_runner_rebalances_total", mapping="m") == 1, "the mapping saw nothing"
    write_records(orders, RECORDS, RECORDS + 1)
    await until(lambda: len(function.calls()) == RECORDS + 1, what="it goes on")

    runner.config_file.write_text(before)
    runner.reload()
    reloaded = await until_logged(runner, "configuration reloaded")
    assert (reloaded["added"], reloaded["removed"], reloaded["changed"]) == ([], [], [])
    scrape = await runner.scrape()
    assert scrape.value("stream_runner_config_last_reload_successful") == 1
    assert scrape.value("stream_runner_rebalances_total", mapping="m") == 1, "it is the same mapping as before"
    await runner.stop_cleanly()


async def test_a_reload_that_raises_the_concurrency_is_felt_by_mappings_that_go_on(
    orders: Path, function: FunctionProcess, new_runner: NewRunner
) -> None:
    await function.start(Behaviour(hang=True))
    config = one_by_one(orders, function, parallelization_factor=4, ordering="none", drain_timeout="100ms")
    runner = new_runner({**config, "limits": {"concurrency": 1}})
    await runner.start()
    await function.until_held(1)
    runner.write_config({**config, "limits": {"concurrency": 4}})
    runner.reload()
    await function.until_held(4)
    scrape = await runner.scrape()
    assert scrape.value("stream_runner_rebalances_total", mapping="m") == 1, "it is the same mapping as before"
    await runner.stop_cleanly()


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("nowhere:handler", "cannot import the module nowhere"),
        ("broken:handler", "ZeroDivisionError: division by zero"),
        ("broken_syntax:handler", "SyntaxError"),
        ("working:handle", "did you mean handler?"),
    ],
)
async def test_a_handler_that_cannot_be_loaded_is_a_problem_of_its_mapping(
    orders: Path, function: FunctionProcess, new_runner: NewRunner, tmp_path: Path, handler: str, said: str
) -> None:
    modules = {
        "broken": "def handler(event, context):\n    pass\n\n1 / 0\n",
        "broken_syntax": "def handler(event, context)\n",
        "working": "def handler(event, context):\n    pass\n",
    }
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    await function.start()
    config = one_by_one(orders, function)
    config["functions"]["unloadable"] = configuration.python(handler)
    other = {"file": {"path": str(orders), "checkpoint_file": str(tmp_path / "other.json")}}
    config["mappings"]["other"] = {"function": "unloadable", "source": other}
    runner = new_runner(config, arguments=["--app-dir", str(tmp_path)])
    await runner.start()
    mapping = await until_mapping(runner, "other", state="problem")
    assert mapping["problem"]["reason"] == "FUNCTION_CONFIG_NOT_VALID"
    assert said in mapping["problem"]["text"]
    await until(lambda: len(oracle.handled_at(function.calls())) == RECORDS, what="the other mapping goes on")
    await until_mapping(runner, "m", state="enabled")
    assert "Traceback" not in runner.process.stderr.read_text()
    await runner.stop_cleanly()


async def test_a_second_runner_on_the_same_files_waits_in_a_problem(
    orders: Path, function: FunctionProcess, new_runner: NewRunner
) -> None:
    await function.start()
    config = one_by_one(orders, function)
    first, second = new_runner(config), new_runner(config)
    await first.start()
    await until(lambda: len(function.calls()) == RECORDS, what="all is delivered")
    await second.start()
    mapping = await until_mapping(second, "m", state="problem")
    assert mapping["problem"]["reason"] == "DUPLICATE_MEMBER"
    assert "stop that runner" in mapping["problem"]["hint"]
    write_records(orders, RECORDS, RECORDS + 5)
    await until(lambda: len(function.calls()) == RECORDS + 5, what="the first one goes on")
    await first.stop_cleanly()
    await until_mapping(second, "m", state="enabled")
    write_records(orders, RECORDS + 5, RECORDS + 10)
    await until(lambda: len(function.calls()) == RECORDS + 10, what="the second one has taken over")
    assert oracle.duplicates(function.calls()) == {}
    await second.stop_cleanly()
