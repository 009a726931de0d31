"""The Lambda function ``registering`` as tests use it: in the runner's process or hosted, and what it registered."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from kafka_harness.child import Child, ChildFailed
from kafka_harness.fetching import answers
from kafka_harness.ports import free_port
from kafka_harness.waiting import until_async

DIRECTORY: Final = Path(__file__).resolve().parent / "lambda_functions"
"""Where the function's module is: the runner's ``--app-dir``."""

HANDLER: Final = "registering.handler"
_PACKAGE_PARENT: Final = Path(__file__).resolve().parent.parent


class Received(NamedTuple):
    """A record as the function received it, its bytes decoded."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def environment(register: Path) -> dict[str, str]:
    """What the function needs to write to ``register``."""
    return {"REGISTER": str(register)}


def registered(register: Path) -> list[dict[str, Any]]:
    """The calls so far: ``event``, ``function_name``, ``request_id``, ``remaining_ms``, ``arn``."""
    return [json.loads(line) for line in register.read_text().splitlines()] if register.exists() else []


def received(register: Path) -> Iterator[Received]:
    """Every record of every call, in order."""
    for call in registered(register):
        for partition, records in call["event"]["records"].items():
            for record in records:
                assert partition == f"{record['topic']}-{record['partition']}"
                yield Received(
                    record["topic"],
                    record["partition"],
                    record["offset"],
                    record["timestamp"],
                    _decoded(record["key"]),
                    _decoded(record["value"]),
                    tuple((name, _unsigned(value)) for header in record["headers"] for name, value in header.items()),
                )


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _unsigned(value: list[int] | None) -> bytes | None:
    """AWS sends a header's bytes as Java has them, from -128 to 127."""
    return None if value is None else bytes(byte % 256 for byte in value)


class HostedFunction:
    """The function behind HTTP, in a process of its own that knows nothing but the Lambda-like runtime."""

    def __init__(self, directory: Path, name: str, register: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        command = [sys.executable, "-m", "e2e_support.lambda_host", "--port", str(port), "--name", name]
        command += ["--directory", str(DIRECTORY), "--handler", HANDLER]
        variables = {"PYTHONPATH": str(_PACKAGE_PARENT), **environment(register)}
        self.process = Child(name, command, directory=directory, environment=variables)

    async def start(self) -> None:
        """It answers when this returns. Raises ChildFailed with its output."""
        self.process.start()

        async def ready() -> bool:
            if not self.process.running:
                raise ChildFailed(f"{self.process.name} ended:\n{self.process.output()}")
            return await answers(self.url)

        await until_async(ready, what=f"{self.process.name} answers", every=0.02)
