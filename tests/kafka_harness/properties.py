"""The broker's configuration: one KRaft node with short time limits, a listener for each way to log in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NODE_ID = 1
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_QUICK = {
    "auto.create.topics.enable": "false",
    "background.threads": "2",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.backoff.ms": "200",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.initial.task.delay.ms": "500",
    "log.retention.check.interval.ms": "500",
    "log.segment.delete.delay.ms": "500",
    "num.io.threads": "4",
    "num.network.threads": "2",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
}


@dataclass(frozen=True)
class BrokerOptions:
    """What a broker offers beside plain text.

    ``users`` (name to password) may log in by PLAIN and SCRAM on the SASL listeners. ``tls`` adds SASL_SSL (when
    there are users) and SSL with client certificates. With ``acls`` everything is allowed to everybody until an ACL
    names the resource; the plain-text listener always may do all. ``overrides`` are Kafka's own properties.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    tls: bool = False
    acls: bool = False
    heap_mb: int = 512
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def listeners(self) -> tuple[str, ...]:
        names = ["PLAINTEXT"]
        if self.users:
            names.append("SASL_PLAINTEXT")
        if self.tls:
            names.append("SSL")
        if self.users and self.tls:
            names.append("SASL_SSL")
        return tuple(names)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of the broker: the authority's certificate; key and certificate in one."""

    authority: Path
    key_store: Path


def server_properties(
    options: BrokerOptions, *, ports: Mapping[str, int], data: Path, tls_files: TlsFiles | None
) -> str:
    """The text of ``server.properties``. ``ports`` holds one for each listener, and one for CONTROLLER."""
    properties = {**_QUICK, **_topology(options, ports), "log.dirs": str(data)}
    if options.users:
        properties.update(_sasl(options))
    if tls_files is not None:
        properties.update(_tls(tls_files))
    if options.acls:
        properties.update(
            {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "allow.everyone.if.no.acl.found": "true",
                "super.users": "User:ANONYMOUS",
            }
        )
    properties.update(options.overrides)
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _topology(options: BrokerOptions, ports: Mapping[str, int]) -> dict[str, str]:
    addresses = {name: f"{name}://127.0.0.1:{ports[name]}" for name in (*options.listeners, "CONTROLLER")}
    return {
        "process.roles": "broker,controller",
        "node.id": str(NODE_ID),
        "controller.quorum.voters": f"{NODE_ID}@127.0.0.1:{ports['CONTROLLER']}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(addresses.values()),
        "advertised.listeners": ",".join(addresses[name] for name in options.listeners),
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": ",".join(
            ["CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in options.listeners)]
        ),
    }


def _sasl(options: BrokerOptions) -> dict[str, str]:
    users = " ".join(f'user_{name}="{password}"' for name, password in options.users.items())
    plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {"sasl.enabled.mechanisms": ",".join(MECHANISMS)}
    for listener in options.listeners:
        if listener.startswith("SASL"):
            for mechanism in MECHANISMS:
                name = f"listener.name.{listener.lower()}.{mechanism.lower()}.sasl.jaas.config"
                properties[name] = plain if mechanism == "PLAIN" else scram
    return properties


def _tls(files: TlsFiles) -> dict[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(files.key_store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(files.authority),
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
    }
