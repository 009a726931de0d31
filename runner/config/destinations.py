"""The sections that say where dead letters are stored."""

from __future__ import annotations

from pathlib import Path

from runner.clients.redis_url import RedisUrl
from runner.clients.secret import Secret
from runner.config.addresses import AnyPath, RedisAddress, Servers
from runner.config.connections import SaslConfig, TlsConfig
from runner.config.scalars import Duration, Flag, Text, WholeNumber
from runner.config.secrets import SecretText
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


@section()
class RedisStreamsDestinationConfig:
    """A Redis stream for dead letters."""

    url: RedisUrl | None = key(
        RedisAddress(),
        "A server of its own, as redis://host:port/db, redis+sentinel://host:port/service/db or "
        "redis+cluster://host:port; without it, the source's server and its credentials and tls.",
        default=None,
    )
    stream: str = key(Text("the key of a stream"), "The key of the stream, which the first dead letter creates.")
    maxlen: int | None = key(
        WholeNumber(1, 1 << 53),
        "About how many dead letters are kept, the newest; all of them without it.",
        default=None,
    )
    username: str | None = key(
        Text("a user name", longest=256), "The user; without it, the one named default.", default=None
    )
    password: Secret | None = key(
        SecretText(), "The user's password; one in a file is read again at every connection.", default=None
    )
    allow_plaintext: bool = key(Flag(), "Send the password over a connection without TLS.", default=False)
    tls: TlsConfig | None = key(Section(TlsConfig), "How to use TLS with a rediss:// URL.", default=None)
    timeout: float = key(Duration(0.1, 3600), "After this long a write is reported as overdue.", default=30.0)
    marker_ttl: float = key(
        Duration(60, 365 * 24 * 3600),
        "For how long a stored dead letter is known, so that a retry or another process does not store it again.",
        default=24 * 3600.0,
    )


@section(exactly_one=("kafka", "redis_streams", "file"))
class OnFailureConfig:
    """Where dead letters are stored."""

    kafka: KafkaDestinationConfig | None = key(Section(KafkaDestinationConfig), "A Kafka topic.", default=None)
    redis_streams: RedisStreamsDestinationConfig | None = key(
        Section(RedisStreamsDestinationConfig), "A Redis stream.", default=None
    )
    file: FileDestinationConfig | None = key(Section(FileDestinationConfig), "A local file.", default=None)
