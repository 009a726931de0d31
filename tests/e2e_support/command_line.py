"""One run of ``stream-runner`` to its end: what it printed, how it exited, what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kafka_harness.runner_process import REPOSITORY

_TIMEOUT = 60.0


class Ended(NamedTuple):
    """``cpu_seconds`` is the processor time, user and system, of the whole process: the machine's load is not in it."""

    exit_code: int
    stdout: str
    stderr: str
    cpu_seconds: float


def stream_runner(
    *arguments: str | Path, directory: Path, environment: Mapping[str, str] | None = None, timeout: float = _TIMEOUT
) -> Ended:
    """Run in ``directory`` until it ends. Raises TimeoutError with its output after ``timeout`` seconds."""
    command = [sys.executable, "-m", "runner", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120", **(environment or {})}
    out, err = directory / ".stdout", directory / ".stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=directory, env=variables
        )
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        process.kill()

    timer = threading.Timer(timeout, kill)
    timer.start()
    try:
        _pid, status, usage = os.wait4(process.pid, 0)
    finally:
        timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    printed = out.read_text(), err.read_text()
    if killed.is_set():
        raise TimeoutError(f"{arguments} still ran after {timeout:g} s:\n{printed[0]}{printed[1]}")
    return Ended(process.returncode, *printed, usage.ru_utime + usage.ru_stime)
