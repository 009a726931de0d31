"""A server process with its own port and directory, to be killed, frozen and restarted by tests."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka_harness.child import Child, ChildFailed
from kafka_harness.ports import free_port
from redis_harness import ping

_START_TIMEOUT = 20.0
_PING_TIMEOUT = 2.0
_ASK_EVERY = 0.01


class Instance(ABC):
    """One process on 127.0.0.1. Port, configuration and data stay over ``kill`` and ``restart``, until ``stop``.

    Usable as a context manager.
    """

    def __init__(self, name: str, *, port: int | None = None, password: str | None = None) -> None:
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="stream-runner-redis-"))
        self._name = f"{name}-{self.port}"
        self._password = password
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """``host:port`` without TLS."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def serves(self, *, timeout: float = _PING_TIMEOUT) -> bool:
        """Whether it answers a PING; not while it loads its data. Blocks for ``timeout`` seconds at most."""
        return ping.answers(self.port, password=self._password, timeout=timeout)

    @property
    def process(self) -> Child:
        """The process; its ``start`` starts it again without waiting. Raises RuntimeError before ``start``."""
        if self._child is None:
            raise RuntimeError(f"{self._name} was never started")
        return self._child

    def start(self) -> None:
        """Write the configuration, start, return when it serves: well under a second. Only from the main thread.

        Raises ComponentMissing without the program, ChildFailed with the end of its output when it does not start.
        """
        configuration = self.directory / "server.conf"
        command = self._command(configuration)
        configuration.write_text(self._configuration())
        self._child = Child(self._name, command, directory=self.directory)
        self._child.start()
        self._await_service()

    def kill(self) -> None:
        """``kill -9``, paused or not. Port and directory stay."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    async def restart(self) -> None:
        """Start again on the same port and directory, after ``kill`` or ``shut_down``; returns when it serves."""
        self.process.start()
        await asyncio.to_thread(self._await_service)

    async def shut_down(self, timeout: float = 15.0) -> None:
        """SIGTERM, as an orchestrator stops it. Port and directory stay. Raises TimeoutError after so many seconds."""
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

    @abstractmethod
    def _command(self, configuration: Path) -> list[str]:
        """Raises ComponentMissing."""

    @abstractmethod
    def _configuration(self) -> str: ...

    def _await_service(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.serves():
            if not self.running or time.monotonic() > deadline:
                what = "does not serve" if self.running else f"ended with {self.process.exit_code}"
                raise ChildFailed(f"{self._name} {what}:\n{self.output()}")
            time.sleep(_ASK_EVERY)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
