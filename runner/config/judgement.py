"""What the checks across keys see of a configuration, some of whose values may be invalid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.config.codes import Code
from runner.config.destinations import OnFailureConfig
from runner.config.functions import FunctionConfig
from runner.config.mappings import MappingConfig
from runner.config.models import Config
from runner.config.reading import Reading
from runner.config.sources import FileSourceConfig, KafkaSourceConfig, RedisStreamsSourceConfig
from runner.config.wording import Path


@dataclass(frozen=True, slots=True)
class Judged:
    """One section, at ``path``, and the means to say something about it. Keys are given with dots."""

    config: Config
    reading: Reading
    path: Path

    def known(self, *keys: str) -> bool:
        """Whether the values of ``keys``, written or defaulted, can be relied on."""
        return all(self.reading.known(self.at(key)) for key in keys)

    def written(self, key: str) -> bool:
        return self.at(key) in self.reading.places

    def at(self, key: str) -> Path:
        return (*self.path, *key.split(".")) if key else self.path

    def report(self, code: Code, key: str, message: str, hint: str, *, points_at_key: bool = False) -> None:
        """Points at the value of ``key``; where it was not written, at the key of the closest section around it."""
        path = self.at(key)
        written = self.reading.places.get(path)
        located = written or self.reading.nearest_place(path)
        span = None if located is None else located.telling if written and not points_at_key else located.key
        self.reading.findings.add(code, message, span=span, hint=hint)


@dataclass(frozen=True, slots=True)
class JudgedFunction(Judged):
    name: str
    function: FunctionConfig


@dataclass(frozen=True, slots=True)
class JudgedMapping(Judged):
    """``mapping``'s values are to be looked at only where they are known."""

    name: str
    mapping: MappingConfig

    @property
    def function(self) -> FunctionConfig | None:
        """The function that it invokes, None when that is unknown or invalid."""
        found = self.config.functions.get(self.mapping.function) if self.known("function") else None
        return found if found is not None and (found.http or found.python) else None

    @property
    def kafka(self) -> KafkaSourceConfig | None:
        return self.mapping.source.kafka if self.known("source.kafka") else None

    @property
    def redis_streams(self) -> RedisStreamsSourceConfig | None:
        return self.mapping.source.redis_streams if self.known("source.redis_streams") else None

    @property
    def file(self) -> FileSourceConfig | None:
        return self.mapping.source.file if self.known("source.file") else None

    @property
    def on_failure(self) -> OnFailureConfig | None:
        return self.mapping.on_failure if self.known("destination_config.on_failure") else None


def functions(config: Config, reading: Reading) -> Iterator[JudgedFunction]:
    for name, function in config.functions.items():
        yield JudgedFunction(config, reading, ("functions", name), name, function)


def mappings(config: Config, reading: Reading) -> Iterator[JudgedMapping]:
    for name, mapping in config.mappings.items():
        yield JudgedMapping(config, reading, ("mappings", name), name, mapping)
