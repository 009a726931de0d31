"""The values that nobody wrote and that follow from others."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from runner.config.functions import FunctionConfig
from runner.config.mappings import MappingConfig
from runner.config.models import Config
from runner.config.reading import Reading
from runner.config.sources import RedisDelivery, RedisStreamsSourceConfig, SourceConfig
from runner.config.wording import Path
from runner.core.lanes import Ordering

_CONNECT_TIMEOUT: Final = 5.0
_FOR_EVER: Final = -1
_ATTEMPTS_BEFORE_DESTINATION: Final = 10
_DRAIN_TIMEOUT_OF_UNKNOWN_FUNCTION: Final = 30.0
_HEARTBEATS_OF_A_LEASE: Final = 5


def derive(config: Config, reading: Reading) -> Config:
    """``config`` with every derived key filled in. Where what it follows from is invalid, the usual value stands in."""
    functions = {name: _function(function, ("functions", name), reading) for name, function in config.functions.items()}
    mappings = {
        name: _mapping(name, mapping, functions.get(mapping.function), reading)
        for name, mapping in config.mappings.items()
    }
    return replace(config, functions=functions, mappings=mappings)


def _is_written(path: Path, reading: Reading) -> bool:
    return path in reading.places and path not in reading.invalid


def _function(function: FunctionConfig, path: Path, reading: Reading) -> FunctionConfig:
    http = function.http
    if http is None or _is_written((*path, "http", "connect_timeout"), reading):
        return function
    return replace(function, http=replace(http, connect_timeout=min(_CONNECT_TIMEOUT, http.timeout)))


def _mapping(name: str, mapping: MappingConfig, function: FunctionConfig | None, reading: Reading) -> MappingConfig:
    path = ("mappings", name)
    if not _is_written((*path, "ordering"), reading):
        mapping = replace(mapping, ordering=_ordering(mapping, path, reading))
    if not _is_written((*path, "maximum_retry_attempts"), reading):
        attempts = _FOR_EVER if mapping.on_failure is None else _ATTEMPTS_BEFORE_DESTINATION
        mapping = replace(mapping, maximum_retry_attempts=attempts)
    if not _is_written((*path, "drain_timeout"), reading):
        usable = function is not None and (function.http or function.python)
        mapping = replace(mapping, drain_timeout=usable.timeout if usable else _DRAIN_TIMEOUT_OF_UNKNOWN_FUNCTION)
    if reading.known((*path, "source")):
        mapping = replace(mapping, source=_source(name, mapping.source, (*path, "source"), reading))
    return mapping


def _ordering(mapping: MappingConfig, path: Path, reading: Reading) -> Ordering:
    redis = mapping.source.redis_streams if reading.known((*path, "source")) else None
    if redis is not None and redis.delivery is RedisDelivery.SHARED:
        return Ordering.NONE
    return Ordering.PARTITION if mapping.parallelization_factor == 1 else Ordering.KEY


def _source(name: str, source: SourceConfig, path: Path, reading: Reading) -> SourceConfig:
    if source.redis_streams is not None:
        redis = _redis_streams(name, source.redis_streams, (*path, "redis_streams"), reading)
        source = replace(source, redis_streams=redis)
    kafka = source.kafka
    if kafka is None or _is_written((*path, "kafka", "consumer_group_id"), reading):
        return source
    return replace(source, kafka=replace(kafka, consumer_group_id=name))


def _redis_streams(
    name: str, redis: RedisStreamsSourceConfig, path: Path, reading: Reading
) -> RedisStreamsSourceConfig:
    if not _is_written((*path, "group"), reading):
        redis = replace(redis, group=name)
    if not _is_written((*path, "heartbeat"), reading):
        redis = replace(redis, heartbeat=redis.lease / _HEARTBEATS_OF_A_LEASE)
    return redis
