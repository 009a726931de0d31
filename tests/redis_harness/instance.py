"""A server process with its own port and directory, to be killed, frozen and restarted by tests."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from kafka_harness.ports import free_port
from kafka_harness.server_process import ServerProcess
from redis_harness import ping

_START_TIMEOUT = 20.0
_PING_TIMEOUT = 2.0
_ASK_EVERY = 0.01


class Instance(ServerProcess):
    """One process on 127.0.0.1, started with a file of configuration: well under a second until it serves."""

    def __init__(self, name: str, *, port: int | None = None, password: str | None = None) -> None:
        self.port = port or free_port()
        super().__init__(f"{name}-{self.port}", start_timeout=_START_TIMEOUT, ask_every=_ASK_EVERY)
        self._password = password

    @property
    def address(self) -> str:
        """``host:port`` without TLS."""
        return f"127.0.0.1:{self.port}"

    def serves(self, *, timeout: float = _PING_TIMEOUT) -> bool:
        """Whether it answers a PING; not while it loads its data. Blocks for ``timeout`` seconds at most."""
        return ping.answers(self.port, password=self._password, timeout=timeout)

    def start(self) -> None:
        configuration = self.directory / "server.conf"
        command = self._command(configuration)
        configuration.write_text(self._configuration())
        self._launch(command)

    @abstractmethod
    def _command(self, configuration: Path) -> list[str]:
        """Raises ComponentMissing."""

    @abstractmethod
    def _configuration(self) -> str: ...
