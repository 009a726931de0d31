"""What the suite needs of a machine: an old Java is none, and what is missing is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kafka_harness import install
from kafka_harness.component import ComponentMissing

COMPONENTS = Path(__file__).parents[2] / ".ci" / "components"
NEWER = "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2"
OLDER = "echo 'java version \"1.8.0_392\"' >&2"
ELEVEN = "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2"
AHEAD = "echo 'openjdk version \"26-ea\" 2026-03-17' >&2"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory of the search path: a shell, an ordinary user, Maven, promtool; no Java."""
    for name in ("bash", "env", "sed"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    _program(tmp_path / "id", "echo 1000")
    for name in ("mvn", "promtool"):
        _program(tmp_path / name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _components(ci: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMPONENTS], env={**os.environ, "CI": ci}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("java", [NEWER, AHEAD])
def test_a_machine_with_everything_is_left_alone(machine: Path, java: str) -> None:
    _program(machine / "java", java)
    done = _components("true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert install.java() == str(machine / "java")


@pytest.mark.parametrize("java", [None, OLDER, ELEVEN])
@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_java_that_is_missing_or_too_old_is_named(machine: Path, java: str | None, ci: str, code: int) -> None:
    if java is not None:
        _program(machine / "java", java)
    done = _components(ci)
    assert done.returncode == code
    assert "missing: openjdk-17-jre-headless;" in done.stderr
    with pytest.raises(ComponentMissing, match="Java 17"):
        install.java()
