"""A server of the suite as a process: started until it serves, killed, frozen, restarted, ended."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka_harness.child import Child, ChildFailed


class ServerProcess(ABC):
    """One process with a directory of its own. Ports and data stay over ``kill`` and ``restart``, until ``stop``.

    ``start_timeout`` is how many seconds it may take until it serves, ``ask_every`` how often it is asked whether it
    does. Usable as a context manager.
    """

    def __init__(self, name: str, *, start_timeout: float, ask_every: float) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"stream-runner-{name}-"))
        self._name = name
        self._start_timeout = start_timeout
        self._ask_every = ask_every
        self._child: Child | None = None

    @abstractmethod
    def serves(self, *, timeout: float = 2.0) -> bool:
        """Whether it answers as one that is whole. Blocks for ``timeout`` seconds at most."""

    @abstractmethod
    def start(self) -> None:
        """Write what it needs, start it, return when it serves. Only from the main thread.

        Raises ComponentMissing without the program, ChildFailed with the end of its output when it does not start.
        """

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    @property
    def process(self) -> Child:
        """The process; its ``start`` starts it again without waiting. Raises RuntimeError before ``start``."""
        if self._child is None:
            raise RuntimeError(f"{self._name} was never started")
        return self._child

    def kill(self) -> None:
        """``kill -9``, paused or not. Ports and directory stay."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    async def restart(self) -> None:
        """Start again on the same ports and directory, after ``kill`` or ``shut_down``; returns when it serves."""
        self.process.start()
        await asyncio.to_thread(self._await_service)

    async def shut_down(self, timeout: float = 15.0) -> None:
        """SIGTERM, as an orchestrator stops it. Ports and directory stay. Raises TimeoutError after so many seconds."""
        self.process.terminate()
        await self.process.wait(timeout)

    def stop(self) -> None:
        """End it at once and remove its directory. Nothing when it never started."""
        if self._child is not None:
            self._child.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def output(self) -> str:
        """The end of what it printed, for messages."""
        return self._child.output() if self._child is not None else f"--- {self._name} was never started"

    def _launch(self, command: Sequence[str]) -> None:
        """Start ``command`` in the directory; returns when it serves. Raises ChildFailed."""
        self._child = Child(self._name, command, directory=self.directory)
        self._child.start()
        self._await_service()

    def _await_service(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not self.serves():
            if not self.running or time.monotonic() > deadline:
                what = "does not serve" if self.running else f"ended with {self.process.exit_code}"
                raise ChildFailed(f"{self._name} {what}:\n{self.output()}")
            time.sleep(self._ask_every)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
