"""The sections that say where records come from."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Final

from runner.clients.redis_url import RedisUrl
from runner.clients.secret import Secret
from runner.config.addresses import AnyPath, DirectoryPath, RedisAddress, Servers
from runner.config.connections import SaslConfig, TlsConfig
from runner.config.scalars import Choice, Duration, Flag, Size, Text
from runner.config.secrets import SecretText
from runner.config.sections import Items, Section, derived_key, key, section
from runner.config.streams import StreamKeys

GROUP_PATTERN: Final = r"[a-zA-Z0-9\-/*:_+=.@]+"
TOPIC: Final = Text(
    "a topic name",
    r"[a-zA-Z0-9_-][a-zA-Z0-9._-]*",
    longest=249,
    hint="letters, digits, '.', '_' and '-' make a topic's name, which does not begin with a dot",
)
_MEMBER_PATTERN: Final = r"[a-zA-Z0-9_-][a-zA-Z0-9._-]*"


@section()
class KafkaSourceConfig:
    """Topics of one Kafka cluster, read as a consumer group."""

    bootstrap_servers: tuple[str, ...] = key(
        Servers(), "The first servers to ask: a list of host:port, or one text with commas."
    )
    topics: tuple[str, ...] = key(Items(TOPIC, 1, 1000), "What to read. Topics are never created.")
    consumer_group_id: str = derived_key(
        Text("a consumer group", GROUP_PATTERN, longest=200),
        "Under which name checkpoints are kept; a group belongs to one mapping.",
        derived="the mapping's name",
    )
    group_instance_id: str | None = key(
        Text("a group instance id", _MEMBER_PATTERN, longest=249),
        "Static membership: unique in the group, the same after a restart, which then causes no rebalance.",
        default=None,
    )
    client_id: str | None = key(
        Text("a client id", _MEMBER_PATTERN, longest=249), "Shown in the brokers' logs and quotas.", default=None
    )
    session_timeout: float = key(
        Duration(6, 1800), "Without a heartbeat for this long, the group gives our partitions to others.", default=45.0
    )
    tls: TlsConfig | None = key(Section(TlsConfig), "Connect with TLS; {} for its defaults.", default=None)
    sasl: SaslConfig | None = key(Section(SaslConfig), "Authenticate with SASL.", default=None)
    maximum_partition_fetch: int = key(
        Size(1000, 1 << 30),
        "How much one fetch brings of one partition; a larger record comes alone.",
        default=1_000_000,
    )


class RedisDelivery(enum.StrEnum):
    """Who of a group reads a stream: one process at a time, in order, or all, each some of its entries."""

    ORDERED = "ordered"
    SHARED = "shared"


@section()
class RedisStreamsSourceConfig:
    """Streams of Redis or Valkey, read in order by one process of the group at a time, or shared by all of them."""

    url: RedisUrl = key(
        RedisAddress(),
        "redis://host:port/db, redis+sentinel://host:port/service/db, redis+cluster://host:port; rediss.",
    )
    streams: tuple[str, ...] = key(
        StreamKeys(), "What to read: keys of streams, in which {0..15} stands for each of these numbers."
    )
    group: str = derived_key(
        Text("a consumer group", longest=200),
        "Under which name is kept what is acknowledged; a group belongs to one mapping.",
        derived="the mapping's name",
    )
    delivery: RedisDelivery = key(
        Choice(RedisDelivery),
        "ordered: one process of the group at a time reads a stream; shared: all read it, without any order.",
        default=RedisDelivery.ORDERED,
    )
    key_field: str | None = key(
        Text("a field's name"), "The field that is the record's key; records have none without it.", default=None
    )
    value_field: str | None = key(
        Text("a field's name"),
        "The field that is the record's value, the others being its headers; without it the value is all fields.",
        default=None,
    )
    lease: float = key(
        Duration(1, 300),
        "For how long a process that is not heard of keeps its streams, or its entries of shared ones.",
        default=10.0,
    )
    heartbeat: float = derived_key(
        Duration(0.1, 100),
        "How often a lease is renewed, and what others have left is looked for.",
        derived="a fifth of the lease",
    )
    trim: bool = key(
        Flag(), "Remove entries from the streams once every group of theirs has acknowledged them.", default=False
    )
    username: str | None = key(
        Text("a user name", longest=256), "The user; without it, the one named default.", default=None
    )
    password: Secret | None = key(
        SecretText(), "The user's password; one in a file is read again at every connection.", default=None
    )
    allow_plaintext: bool = key(Flag(), "Send the password over a connection without TLS.", default=False)
    tls: TlsConfig | None = key(Section(TlsConfig), "How to use TLS with a rediss:// URL.", default=None)


@section()
class FileSourceConfig:
    """A directory as a topic; its files ``<n>.jsonl`` are the partitions, their lines the records."""

    path: Path = key(DirectoryPath("a directory"), "The directory, relative to the working directory or absolute.")
    checkpoint_file: Path | None = key(
        AnyPath(), "Where checkpoints are kept, instead of beside the files.", default=None
    )
    poll_interval: float = key(Duration(0.01, 60), "How often to look for new lines and files.", default=0.2)


@section(exactly_one=("kafka", "redis_streams", "file"))
class SourceConfig:
    """Where a mapping's records come from."""

    kafka: KafkaSourceConfig | None = key(Section(KafkaSourceConfig), "Kafka topics.", default=None)
    redis_streams: RedisStreamsSourceConfig | None = key(
        Section(RedisStreamsSourceConfig), "Redis streams.", default=None
    )
    file: FileSourceConfig | None = key(Section(FileSourceConfig), "Local files.", default=None)
