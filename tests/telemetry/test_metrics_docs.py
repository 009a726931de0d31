"""The published table of metrics is the declared one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_document_holds_the_table_of_today() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "runner.telemetry.metrics"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    document = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert document.endswith(made.stdout), "make it anew: see the document's second line"
