"""``validate``: everything that is wrong, at once, each with its place, and never a traceback whatever the file is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e_support.command_line import Ended, stream_runner
from kafka_harness.runner_process import REPOSITORY

MISTAKES = Path(__file__).with_name("mistakes.yaml")
LEAST_MISTAKES = 25
PROCESSING_SECONDS = 1.0

_HEADLINE = re.compile(r"(?P<file>[^:\n]+):(?:(?P<line>\d+):\d+:)? error\[(?P<code>E\d+)\]: .+")
_MARK = re.compile(r"#! (.+)$")


class Mark(NamedTuple):
    """A mistake that the file says of itself."""

    line: int
    code: str
    words: str


def _marks(text: str) -> Iterator[Mark]:
    for number, line in enumerate(text.splitlines(), start=1):
        found = _MARK.search(line)
        for mark in found[1].split(" & ") if found else []:
            code, _, words = mark.partition(" ")
            yield Mark(number, code, words)


def _reports(ended: Ended) -> dict[tuple[int, str], str]:
    """Each error's text, headline to hint, by its line (0: the file as a whole) and code."""
    reports = {}
    for report in ended.stderr.split("\n\n"):
        headline = _HEADLINE.match(report)
        if headline is not None:
            place = int(headline["line"] or 0), headline["code"]
            assert place not in reports, f"{place} is reported twice"
            reports[place] = report
    return reports


def test_every_mistake_is_reported_in_one_run(tmp_path: Path) -> None:
    shutil.copy(MISTAKES, tmp_path)
    marks = list(_marks(MISTAKES.read_text()))
    assert len(marks) >= LEAST_MISTAKES
    ended = stream_runner("validate", MISTAKES.name, directory=tmp_path)
    assert (ended.exit_code, ended.stdout) == (1, "")
    reports = _reports(ended)
    assert set(reports) == {(mark.line, mark.code) for mark in marks}
    source = MISTAKES.read_text().splitlines()
    for mark in marks:
        report = reports[mark.line, mark.code]
        headline, _, body = report.partition("\n")
        assert headline.startswith(f"{MISTAKES.name}:{mark.line}:")
        hint = body.partition("= help: ")[2]
        assert hint, f"{mark} comes without a hint"
        assert mark.words in hint or mark.words in headline
        assert source[mark.line - 1].strip()[:20] in body or "***" in body, "the line is shown"
        assert "^" in body
    assert ended.stderr.rstrip().endswith(f"{len(marks)} errors")
    assert "Traceback" not in ended.stderr


def test_run_reports_the_same_and_starts_nothing(tmp_path: Path) -> None:
    shutil.copy(MISTAKES, tmp_path)
    validated = stream_runner("validate", MISTAKES.name, directory=tmp_path)
    run = stream_runner("run", MISTAKES.name, directory=tmp_path)
    assert (run.exit_code, run.stdout, run.stderr) == (1, "", validated.stderr)


HOSTILE = {
    "alias-bomb": (
        "functions: {}\nmappings: {}\na: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
        "E007",
    ),
    "levels-in-flow-style": ("functions: " + "[" * 2_000 + "]" * 2_000 + "\n", "E006"),
    "levels-in-block-style": ("\n".join(" " * n + "a:" for n in range(1_200)) + "\n", "E006"),
    "duplicate-keys": ("functions: {}\nmappings: {}\nfunctions: {}\n", "E008"),
    "two-mebibytes": ("# " + "x" * (2 << 20) + "\nfunctions: {}\nmappings: {}\n", "E003"),
    "no-yaml": ("functions: {\n", "E005"),
    "binary": ("functions: \x00\n", "E013"),
    "nothing": ("", "E004"),
    "recursive-alias": ("functions: &f {x: *f}\nmappings: {}\n", "E014"),
    "two-documents": ("functions: {}\nmappings: {}\n---\nfunctions: {}\n", "E012"),
}


@pytest.fixture(scope="module")
def valid_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Processor time of validating a small valid file: the start of the interpreter, and next to nothing else."""
    directory = tmp_path_factory.mktemp("valid")
    ended = stream_runner("validate", REPOSITORY / "config" / "quickstart.yaml", directory=directory)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.rstrip().endswith("quickstart.yaml: valid; 1 functions, 1 mappings")
    return ended.cpu_seconds


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_error_within_a_second(tmp_path: Path, valid_seconds: float, name: str) -> None:
    text, code = HOSTILE[name]
    (tmp_path / "hostile.yaml").write_text(text)
    ended = stream_runner("validate", "hostile.yaml", directory=tmp_path)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert [found for _, found in _reports(ended)] == [code]
    assert len(ended.stderr) < 2_000, "nothing that is huge is shown"
    assert "Traceback" not in ended.stderr
    assert ended.cpu_seconds - valid_seconds < PROCESSING_SECONDS


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"functions: {}\nmappings: {}\n# gr\xfc\xdfe\n")
    for name, code in (("missing.yaml", "E001"), (".", "E001"), ("latin.yaml", "E002")):
        ended = stream_runner("validate", name, directory=tmp_path)
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert [found for _, found in _reports(ended)] == [code]
        assert "Traceback" not in ended.stderr


def test_warnings_are_shown_and_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "risky.yaml").write_text(
        "functions: {f: {python: {handler: 'a:b'}}, unused: {python: {handler: 'a:b'}}}\n"
        "mappings: {m: {function: f, source: {file: {path: orders}}}}\n"
    )
    ended = stream_runner("validate", "risky.yaml", directory=tmp_path)
    assert ended.exit_code == 0
    assert "warning[W401]: no mapping uses function 'unused'" in ended.stderr
    assert ended.stdout == "risky.yaml: valid; 2 functions, 1 mappings\n"
