"""The sections that say where dead letters are stored."""

from __future__ import annotations

from pathlib import Path

from runner.config.addresses import AnyPath, Servers
from runner.config.connections import SaslConfig, TlsConfig
from runner.config.scalars import Duration
from runner.config.sections import Section, key, section
from runner.config.sources import TOPIC


@section()
class KafkaDestinationConfig:
    """A Kafka topic for dead letters."""

    topic: str = key(TOPIC, "Where dead letters are stored. It has to exist.")
    bootstrap_servers: tuple[str, ...] | None = key(
        Servers(), "A cluster of its own; without it, the source's cluster and its tls and sasl.", default=None
    )
    tls: TlsConfig | None = key(Section(TlsConfig), "TLS for a cluster of its own.", default=None)
    sasl: SaslConfig | None = key(Section(SaslConfig), "SASL for a cluster of its own.", default=None)
    timeout: float = key(Duration(0.1, 3600), "After this long a write is reported as overdue.", default=30.0)


@section()
class FileDestinationConfig:
    """A file for dead letters, one JSON line each."""

    path: Path = key(AnyPath(), "The .jsonl file, relative to the working directory or absolute.")


@section(exactly_one=("kafka", "file"))
class OnFailureConfig:
    """Where dead letters are stored."""

    kafka: KafkaDestinationConfig | None = key(Section(KafkaDestinationConfig), "A Kafka topic.", default=None)
    file: FileDestinationConfig | None = key(Section(FileDestinationConfig), "A local file.", default=None)
