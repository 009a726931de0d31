"""What holds for the files of this repository as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 400


def python_files() -> Iterator[str]:
    """Relative to the root; nothing of what is built or installed in it."""
    for directory in ("benchmarks", "config", "runner", "tests"):
        for path in (ROOT / directory).rglob("*.py"):
            yield path.relative_to(ROOT).as_posix()


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert "runner/engine/mapping.py" in lengths
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_the_file_map_names_every_module_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = text.partition("## File map")[2].partition("\n## ")[0].splitlines()
    names = [name for row in rows if row.startswith("| `") for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    patterns = [f"runner/{name}*" if name.endswith("/") else f"runner/{name}" for name in names]
    modules = [path for path in python_files() if path.startswith("runner/") and not path.endswith("__init__.py")]
    assert [path for path in modules if not any(fnmatchcase(path, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatchcase(path, pattern) for path in modules)] == []
