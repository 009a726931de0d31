"""``run`` ends in time, told as ever, whatever its handlers have left running."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from e2e_support import configuration
from e2e_support.process_fixtures import NewRunner
from kafka_harness.waiting import until

DRAIN, COMMIT, MARGIN = 0.2, 1.0, 12.0
UNSETTLED = "partition let go with records that did not settle in time: they come again"
"""Seconds; the margin holds the grace of a handler that resists and the end of an interpreter on a busy machine."""

HANDLERS = {
    "a thread of the loop's executor": """
        await asyncio.to_thread(threading.Event().wait)
    """,
    "a thread of anyio's": """
        await anyio.to_thread.run_sync(threading.Event().wait)
    """,
    "a coroutine that swallows its cancellation": """
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
    """,
    "a task of its own that does": """
        async def resist():
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
        KEPT.append(asyncio.create_task(resist()))
        await KEPT[-1]
    """,
    "a thread of its own": """
        threading.Thread(target=threading.Event().wait).start()
        await asyncio.Event().wait()
    """,
}


@pytest.fixture(params=list(HANDLERS))
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A mapping ``m`` of one record, whose handler makes the file ``started`` and then goes on as its name says."""
    begin = "import asyncio, pathlib, threading, anyio\nKEPT = []\nasync def handler(event, context):\n"
    touch = "        pathlib.Path('started').touch()"
    (tmp_path / "leaving.py").write_text(begin + touch + HANDLERS[request.param])
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "0.jsonl").write_text(json.dumps({"key": "k", "value": {}}) + "\n")
    mapping = configuration.from_files(
        tmp_path / "orders", "f", drain_timeout=f"{DRAIN:g}s", commit_timeout=f"{COMMIT:g}s"
    )
    return configuration.process({"f": configuration.python("leaving:handler", timeout="60s")}, {"m": mapping})


async def test_sigterm_exits_0_in_time(config: dict[str, Any], new_runner: NewRunner, tmp_path: Path) -> None:
    runner = new_runner(config, arguments=["--app-dir", str(tmp_path)])
    await runner.start()
    await until((tmp_path / "started").exists, what="the handler has begun")
    began = time.monotonic()
    await runner.stop_cleanly()
    assert time.monotonic() - began < DRAIN + COMMIT + MARGIN
    [let_go] = [entry for entry in runner.logs() if entry["event"] == UNSETTLED]
    assert (let_go["repeated"], let_go["unsettled"]) == (0, 1)


async def test_the_summary_and_its_exit_code_are_told_before(
    config: dict[str, Any], new_runner: NewRunner, tmp_path: Path
) -> None:
    arguments = ["--app-dir", str(tmp_path), "--until-caught-up", "--deadline", "4s"]
    runner = new_runner(config, arguments=arguments)
    runner.launch()
    assert await runner.stopped() == 4
    first, *rest = runner.process.stdout.read_text().splitlines()
    assert first.startswith("0 delivered, 0 retried, 0 dead-lettered in ")
    assert rest == [
        "not done:",
        "  m: orders-0: 1 fetched and unsettled, 1 up to the end, 1 lane waits for the function",
    ]
