"""Stream Runner itself as a process: configured from a dict, started from the checkout, watched from outside."""

from __future__ import annotations

import copy
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kafka_harness.child import Child, ChildFailed
from kafka_harness.fetching import answers, fetch
from kafka_harness.ports import free_port
from kafka_harness.scrape import Scrape
from kafka_harness.waiting import until_async

REPOSITORY = Path(__file__).resolve().parent.parent.parent


class RunnerProcess:
    """One ``stream-runner run``. Several may share a directory when their names differ.

    ``config`` is the configuration without ``admin``, which is added here: its port is this runner's own.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        directory: Path,
        name: str = "runner",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._port = free_port()
        self.config_file = directory / f"{name}.yaml"
        self.write_config(config)
        command = [sys.executable, "-m", "runner", "run", str(self.config_file), *arguments]
        self.process = Child(
            name,
            command,
            directory=directory,
            environment={"PYTHONPATH": str(REPOSITORY), **(environment or {})},
        )

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace the file; a running process reads it at ``reload``."""
        complete = {**copy.deepcopy(dict(config)), "admin": {"listen": f"127.0.0.1:{self._port}"}}
        self.config_file.write_text(yaml.safe_dump(complete, sort_keys=False))

    def launch(self) -> None:
        """Start, again after an end, and wait for nothing."""
        self.process.start()

    async def start(self, timeout: float = 30.0) -> None:
        """Start; ``/readyz`` answers 200 when this returns. Raises ChildFailed, TimeoutError with its output."""
        self.launch()
        await self.until_ready(timeout)

    async def until_ready(self, timeout: float = 30.0) -> None:
        async def ready() -> bool:
            if not self.process.running:
                raise ChildFailed(f"{self.name} ended with {self.process.exit_code}:\n{self.process.output()}")
            return await answers(f"{self.admin_url}/readyz")

        try:
            await until_async(ready, what=f"{self.name} is ready", timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.process.output()}") from error

    async def scrape(self) -> Scrape:
        return Scrape((await self._get("/metrics")).decode())

    async def mappings(self) -> dict[str, Any]:
        """What ``/mappings`` says."""
        found: dict[str, Any] = json.loads(await self._get("/mappings"))
        return found

    async def healthy(self) -> bool:
        return await answers(f"{self.admin_url}/healthz")

    def logs(self) -> list[dict[str, Any]]:
        """The JSON lines that it has logged, over all its lives; other lines are in ``process.output()``."""
        if not self.process.stderr.exists():
            return []
        lines = []
        for line in self.process.stderr.read_text(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                entry: dict[str, Any] = json.loads(line)
                lines.append(entry)
        return lines

    def terminate(self) -> None:
        """SIGTERM, to the process alone."""
        self.process.terminate()

    def reload(self) -> None:
        """SIGHUP."""
        self.process.signal(signal.SIGHUP)

    def kill(self) -> None:
        """``kill -9``, with the worker processes that it has."""
        self.process.kill()

    def pause(self) -> None:
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    async def stopped(self, timeout: float = 30.0) -> int:
        """The exit code, once it has ended. Raises TimeoutError with its output."""
        try:
            return await self.process.wait(timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.process.output()}") from error

    async def stop_cleanly(self, timeout: float = 30.0) -> None:
        """SIGTERM; returns when it has ended with 0. Raises ChildFailed when by anything else, TimeoutError, both with
        its output."""
        self.terminate()
        if (code := await self.stopped(timeout)) != 0:
            raise ChildFailed(f"{self.name} ended with {code}:\n{self.process.output()}")

    async def _get(self, path: str) -> bytes:
        status, body = await fetch(f"{self.admin_url}{path}")
        if status != 200:
            raise ChildFailed(f"{self.name} answers {status} at {path}: {body.decode(errors='replace')}")
        return body
