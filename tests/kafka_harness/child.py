"""A child process that tests stop, freeze, kill and bring back, and that never outlives them."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from kafka_harness import tether
from kafka_harness.waiting import until

_REAP_TIMEOUT = 10.0
_SHOWN_LINES = 40

_alive: set[Child] = set()


class ChildFailed(AssertionError):
    """A process ended, or did not do what it should; the message holds the end of its output."""


class Child:
    """One program in a process group of its own; its output goes to ``<name>.out`` and ``<name>.err``.

    ``start`` must be called from the main thread: the kernel ties the child to the thread that started it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
    ) -> None:
        self.name = name
        self.stdout = directory / f"{name}.out"
        self.stderr = directory / f"{name}.err"
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._working_directory = working_directory or directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program, again if it has ended. Raises RuntimeError while it runs or off the main thread."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{self.name} must be started from the main thread")
        tied = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self._command]
        with self.stdout.open("ab") as stdout, self.stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=self._environment,
                cwd=self._working_directory,
                start_new_session=True,
            )
        _alive.add(self)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._started.poll()

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process, without its children."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the process so far, all threads, without its children."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, as an orchestrator does."""
        self._started.send_signal(number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP for the whole group: its connections stay open, nothing answers. Returns when it has stopped."""
        os.killpg(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL for the whole group, paused or not; returns when the process is gone. Nothing if it has ended."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_REAP_TIMEOUT)
        _alive.discard(self)

    async def wait(self, timeout: float) -> int:
        """The exit code. Raises TimeoutError when it still runs after ``timeout`` seconds."""
        await until(lambda: not self.running, what=f"{self.name} has ended", timeout=timeout, every=0.01)
        _alive.discard(self)
        code = self.exit_code
        assert code is not None
        return code

    def output(self) -> str:
        """The last lines of both outputs, for messages."""
        shown = []
        for path in (self.stdout, self.stderr):
            if path.exists() and (text := path.read_text(errors="replace").strip()):
                lines = text.splitlines()[-_SHOWN_LINES:]
                shown.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(shown) or f"--- {self.name} printed nothing"

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process


def kill_all() -> None:
    """Kill every child of this process that still runs."""
    for child in list(_alive):
        child.kill()


atexit.register(kill_all)
