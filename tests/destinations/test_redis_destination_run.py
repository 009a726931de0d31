"""A whole run by a configuration file: what a function gives up lies in the stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from destination_harness.redis_letters import content_of_letter, fact, stored
from e2e_support import configuration
from e2e_support.command_line import stream_runner
from redis_harness import client
from redis_harness.server import RedisServer

pytestmark = pytest.mark.redis

HANDLER = """\
def handle(event, context):
    raise ValueError("no such order")
"""


async def test_files_end_as_dead_letters_in_a_stream(
    redis_server: RedisServer, new_stream: Callable[[], str], tmp_path: Path
) -> None:
    stream = new_stream()
    (tmp_path / "orders").mkdir()
    lines = [{"key": f"k{n}", "value": "v", "headers": [["a", None], ["a", {"base64": "/w=="}]]} for n in range(20)]
    (tmp_path / "orders" / "0.jsonl").write_text("".join([json.dumps(line) + "\n" for line in lines]))
    (tmp_path / "failing.py").write_text(HANDLER)
    mapping = configuration.from_files(
        tmp_path / "orders",
        "f",
        maximum_retry_attempts=0,
        destination_config={"on_failure": {"redis_streams": {"url": redis_server.url, "stream": stream}}},
    )
    config = configuration.process(
        {"f": configuration.python("failing:handle")}, {"m": mapping}, admin={"listen": "off"}
    )
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    for _ in range(2):
        ended = stream_runner("run", "--until-caught-up", "config.yaml", "--app-dir", ".", directory=tmp_path)
        assert ended.exit_code == 0, ended.stderr
        # Begun anew, the run gives up the same records again.
        for file in (tmp_path / "orders" / ".stream-runner").iterdir():
            file.unlink()
    async with client.connect(redis_server.url) as redis:
        found = await stored(redis, stream)
    assert [content_of_letter(fields) for fields in found] == [
        (f"k{n}".encode(), b"v", (("a", None), ("a", b"\xff"))) for n in range(20)
    ]
    assert {fact(fields, "error-text") for fields in found} == {b"no such order"}
