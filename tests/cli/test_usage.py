"""The command line itself: help, usage errors, the schema, a process that cannot start."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from e2e_support.command_line import stream_runner
from kafka_harness.runner_process import REPOSITORY

QUICKSTART = REPOSITORY / "config" / "quickstart.yaml"
EXIT_CODES = ("0", "1", "2", "3", "4", "130, 143")


@pytest.mark.parametrize("command", [(), ("run",), ("validate",), ("schema",)])
def test_help_shows_the_exit_codes(tmp_path: Path, command: tuple[str, ...]) -> None:
    ended = stream_runner(*command, "--help", directory=tmp_path)
    assert (ended.exit_code, ended.stderr) == (0, "")
    shown = ended.stdout.partition("Exit codes:")[2].splitlines()
    assert [line.strip().split("  ")[0] for line in shown if line.strip()] == list(EXIT_CODES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("walk",), "No such command 'walk'"),
        (("run",), "Missing argument 'FILE'"),
        (("validate", "a.yaml", "b.yaml"), "unexpected extra argument (b.yaml)"),
        (("run", QUICKSTART, "--fast"), "No such option"),
        (("run", QUICKSTART, "--deadline", "30s"), "--deadline goes with --until-caught-up"),
        (("run", QUICKSTART, "--until-caught-up", "--deadline", "soon"), "'soon' is not a duration such as 500ms"),
        (("run", QUICKSTART, "--app-dir", "nowhere"), "'nowhere' does not exist"),
        (("run", QUICKSTART, "--log-style", "xml"), "'xml' is not one of"),
        (("run", QUICKSTART, "--log-level", "loud"), "'loud' is not one of"),
    ],
)
def test_a_wrong_command_line_exits_2(tmp_path: Path, arguments: tuple[str | Path, ...], said: str) -> None:
    ended = stream_runner(*arguments, directory=tmp_path)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_schema_is_json_schema_of_every_key(tmp_path: Path) -> None:
    ended = stream_runner("schema", directory=tmp_path)
    assert (ended.exit_code, ended.stderr) == (0, "")
    schema = json.loads(ended.stdout)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    root = schema["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    assert set(root["properties"]) == {"limits", "admin", "functions", "mappings"}
    mapping = schema["definitions"]["MappingConfig"]["properties"]
    assert {"batch_size", "parallelization_factor", "destination_config", "maximum_ahead"} <= set(mapping)
    assert all(described["description"] for described in mapping.values())


def test_the_version_is_told(tmp_path: Path) -> None:
    ended = stream_runner("--version", directory=tmp_path)
    assert ended.exit_code == 0
    assert ended.stdout.startswith("stream-runner")


def test_an_admin_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        (tmp_path / "config.yaml").write_text(
            f"admin: {{listen: '{address}'}}\n"
            "functions: {f: {python: {handler: 'a:b'}}}\n"
            "mappings: {m: {function: f, source: {file: {path: orders}}}}\n"
        )
        ended = stream_runner("run", "config.yaml", directory=tmp_path)
    assert (ended.exit_code, ended.stdout) == (3, "")
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("error: ")
    assert address in line
    assert "in use" in line
