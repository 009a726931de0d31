"""The test's function as a process: started, told how to behave, killed, and its journal read."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from kafka_harness.behaviour import Behaviour, Status
from kafka_harness.child import Child, ChildFailed
from kafka_harness.fetching import answers, fetch
from kafka_harness.function_server import CONTROL_PATH
from kafka_harness.journal import Call, JournalReader
from kafka_harness.ports import free_port
from kafka_harness.waiting import until_async

_PACKAGE_PARENT = Path(__file__).resolve().parent.parent


class FunctionProcess:
    """One HTTP function at ``url``. It keeps port and journal over ``kill`` and another ``start``."""

    def __init__(self, directory: Path, name: str = "function") -> None:
        self._port = free_port()
        self._directory = directory
        self._name = name
        self._journal_path = directory / f"{name}.journal"
        self._reader = JournalReader(self._journal_path)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    @property
    def process(self) -> Child:
        """Raises RuntimeError before ``start``."""
        if self._child is None:
            raise RuntimeError(f"{self._name} was never started")
        return self._child

    async def start(self, behaviour: Behaviour | None = None) -> None:
        """Start it; it answers when this returns. Raises ChildFailed with its output."""
        script = msgspec.json.encode(behaviour or Behaviour()).decode()
        command = [sys.executable, "-m", "kafka_harness.function_server", "--port", str(self._port)]
        command += ["--journal", str(self._journal_path), "--script", script]
        environment = {"PYTHONPATH": str(_PACKAGE_PARENT)}
        self._child = Child(self._name, command, directory=self._directory, environment=environment)
        self._child.start()

        async def ready() -> bool:
            if not self.process.running:
                raise ChildFailed(f"{self._name} ended:\n{self.process.output()}")
            return await answers(self._control)

        await until_async(ready, what=f"{self._name} answers", every=0.02)

    async def behave(self, behaviour: Behaviour) -> None:
        """Replace what it does, for the calls from now on and those that are held."""
        status, body = await fetch(self._control, method="PUT", body=msgspec.json.encode(behaviour))
        if status != 200:
            raise ChildFailed(f"{self._name} refused a behaviour: {body.decode()}")

    async def status(self) -> Status:
        _status, body = await fetch(self._control)
        return msgspec.json.decode(body, type=Status)

    async def until_held(self, calls: int, *, timeout: float = 30.0) -> None:
        """Wait until exactly so many calls hang in it. Raises TimeoutError."""

        async def held() -> bool:
            return (await self.status()).held == calls

        await until_async(held, what=f"{calls} calls are held by {self._name}", timeout=timeout)

    def calls(self) -> list[Call]:
        """The calls that have ended so far, over all lives of the process."""
        return self._reader.calls()

    def kill(self) -> None:
        """``kill -9``: calls that it had not answered are not in the journal."""
        self.process.kill()

    def stop(self) -> None:
        """End it. Nothing when it never started."""
        if self._child is not None:
            self._child.kill()

    @property
    def _control(self) -> str:
        return f"http://127.0.0.1:{self._port}{CONTROL_PATH}"
