"""What contradicts itself between a mapping's source, its checkpoints and its destination."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from runner.config.codes import Code
from runner.config.destinations import FileDestinationConfig, KafkaDestinationConfig
from runner.config.judgement import JudgedMapping
from runner.config.sources import FileSourceConfig
from runner.config.units import format_duration
from runner.config.wording import quoted

LONGEST_REBALANCE: Final = 1800.0
"""Seconds: the longest rebalance timeout that brokers grant."""
REBALANCE_MARGIN: Final = 10.0
"""Seconds beyond drain and commit timeouts that the rebalance timeout is given."""

_ON_FAILURE: Final = "destination_config.on_failure"
_PARTITION_FILE: Final = re.compile(r"[0-9]+\.jsonl", re.ASCII)


def check(mapping: JudgedMapping) -> None:
    """Report what contradicts itself around the source of ``mapping``."""
    if mapping.kafka is not None:
        _check_rebalance(mapping)
        _check_session(mapping, mapping.kafka.session_timeout)
    if mapping.file is not None:
        _check_checkpoint_file(mapping, mapping.file)
    destination = mapping.on_failure
    if destination is not None and destination.kafka is not None:
        _check_kafka_destination(mapping, destination.kafka)
    if destination is not None and destination.file is not None:
        _check_file_destination(mapping, destination.file)


def _share_servers(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two lists of bootstrap servers certainly are of one cluster."""
    return not {server.lower() for server in first}.isdisjoint([server.lower() for server in second])


def _check_rebalance(mapping: JudgedMapping) -> None:
    config = mapping.mapping
    derived_from = ("drain_timeout", "commit_timeout")
    if not mapping.known(*derived_from) or (not mapping.written("drain_timeout") and mapping.function is None):
        return
    longest = config.drain_timeout + config.commit_timeout + REBALANCE_MARGIN
    if longest > LONGEST_REBALANCE:
        source = "" if mapping.written("drain_timeout") else ", which is the function's timeout,"
        mapping.report(
            Code.REBALANCE_TIMEOUT_TOO_LONG,
            "drain_timeout" if mapping.written("drain_timeout") else "function",
            f"drain_timeout {format_duration(config.drain_timeout)}{source} and commit_timeout "
            f"{format_duration(config.commit_timeout)} do not fit into a rebalance, which may last 30 minutes",
            "write a drain_timeout of 29m at most",
        )


def _check_session(mapping: JudgedMapping, session_timeout: float) -> None:
    commit_timeout = mapping.mapping.commit_timeout
    if not mapping.known("source.kafka.session_timeout", "commit_timeout") or commit_timeout < session_timeout:
        return
    mapping.report(
        Code.COMMIT_TIMEOUT_OVER_SESSION,
        "commit_timeout" if mapping.written("commit_timeout") else "source.kafka.session_timeout",
        f"commit_timeout {format_duration(commit_timeout)} is not shorter than session_timeout "
        f"{format_duration(session_timeout)}",
        "the partitions could have another owner before the commit ends: lower commit_timeout",
    )


def checkpoint_file(mapping: JudgedMapping, file: FileSourceConfig) -> Path:
    """Where the mapping keeps its checkpoints, without symbolic links."""
    return _real(file.checkpoint_file or file.path / ".stream-runner" / f"{mapping.name}.json")


def _check_checkpoint_file(mapping: JudgedMapping, file: FileSourceConfig) -> None:
    if not mapping.known("source.file.path", "source.file.checkpoint_file"):
        return
    if _is_partition_file(checkpoint_file(mapping, file), file.path):
        mapping.report(
            Code.DESTINATION_IS_SOURCE,
            "source.file.checkpoint_file",
            "checkpoint_file would be read as a partition of the source",
            "give it another name or another directory",
        )


def _check_kafka_destination(mapping: JudgedMapping, destination: KafkaDestinationConfig) -> None:
    section = f"{_ON_FAILURE}.kafka"
    if not mapping.known(f"{section}.bootstrap_servers"):
        return
    if destination.bootstrap_servers is None:
        _check_borrowed_cluster(mapping, section)
    source = mapping.kafka
    if source is None or not mapping.known("source.kafka.bootstrap_servers", "source.kafka.topics", f"{section}.topic"):
        return
    servers = destination.bootstrap_servers
    same_cluster = servers is None or _share_servers(servers, source.bootstrap_servers)
    if same_cluster and destination.topic in source.topics:
        mapping.report(
            Code.DESTINATION_IS_SOURCE,
            f"{section}.topic",
            f"topic {quoted(destination.topic)} is a source of the mapping: its dead letters would come again for ever",
            "use another topic",
        )


def _check_borrowed_cluster(mapping: JudgedMapping, section: str) -> None:
    if mapping.file is not None or mapping.redis_streams is not None:
        mapping.report(
            Code.CLUSTER_MISSING,
            section,
            "a Kafka destination needs bootstrap_servers here: the source is no Kafka cluster that it could share",
            "add bootstrap_servers",
            points_at_key=True,
        )
        return
    for key in ("tls", "sasl"):
        if mapping.written(f"{section}.{key}"):
            mapping.report(
                Code.SECURITY_WITHOUT_CLUSTER,
                f"{section}.{key}",
                f"{key} without bootstrap_servers: the source's cluster is used, with the source's {key}",
                f"add bootstrap_servers, or remove {key}",
                points_at_key=True,
            )


def _check_file_destination(mapping: JudgedMapping, destination: FileDestinationConfig) -> None:
    source = mapping.file
    if source is None or not mapping.known("source.file.path", f"{_ON_FAILURE}.file.path"):
        return
    if _is_partition_file(destination.path, source.path):
        mapping.report(
            Code.DESTINATION_IS_SOURCE,
            f"{_ON_FAILURE}.file.path",
            "the file is a partition of the source: its dead letters would come again for ever",
            "give it another name or another directory",
        )


def _is_partition_file(path: Path, directory: Path) -> bool:
    return _PARTITION_FILE.fullmatch(path.name) is not None and _real(path).parent == _real(directory)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
