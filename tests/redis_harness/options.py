"""A server's configuration: nothing on disk but what a test asks for, on the loopback interface only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_BASE = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    "logfile": '""',
    "save": '""',
    # Else a replica waits five seconds for others to share its first copy with.
    "repl-diskless-sync-delay": "0",
}


@dataclass(frozen=True)
class AclUser:
    """A user beside ``default``. ``rules`` is the server's own language: ``~orders.* +xadd +@read -@dangerous``."""

    name: str
    password: str
    rules: str


@dataclass(frozen=True)
class RedisOptions:
    """How a server differs from one that keeps everything in memory, has no limit and lets everybody in.

    ``aof`` turns the append-only file on and says when it is synced. ``maxmemory_bytes`` of 0 is no limit.
    ``password`` is that of the user ``default``. ``tls`` adds a listener that asks for a client certificate but does
    not insist. ``overrides`` are the server's own directives: ``{"save": "3600 1"}`` makes a clean stop store all.
    """

    aof: Literal["always", "everysec"] | None = None
    maxmemory_bytes: int = 0
    maxmemory_policy: str = "noeviction"
    password: str | None = None
    users: tuple[AclUser, ...] = ()
    tls: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)

    def user(self, name: str) -> AclUser:
        """Raises LookupError when there is no such user."""
        for user in self.users:
            if user.name == name:
                return user
        raise LookupError(f"no user {name}")


@dataclass(frozen=True)
class TlsListener:
    """Its port, and PEM files: the authority's certificate, the server's certificate and key."""

    port: int
    authority: Path
    certificate: Path
    key: Path


def server_configuration(options: RedisOptions, *, port: int, data: Path, tls: TlsListener | None) -> str:
    """The text of ``redis.conf``."""
    directives = {
        **_BASE,
        "port": str(port),
        "dir": quoted(str(data)),
        "maxmemory": str(options.maxmemory_bytes),
        "maxmemory-policy": options.maxmemory_policy,
        "appendonly": "no" if options.aof is None else "yes",
    }
    if options.aof is not None:
        directives["appendfsync"] = options.aof
    if options.password is not None:
        # The second is for replicas, as which a member of a group may come back.
        directives["requirepass"] = directives["masterauth"] = quoted(options.password)
    if tls is not None:
        directives |= {
            "tls-port": str(tls.port),
            "tls-ca-cert-file": quoted(str(tls.authority)),
            "tls-cert-file": quoted(str(tls.certificate)),
            "tls-key-file": quoted(str(tls.key)),
            "tls-auth-clients": "optional",
        }
    directives |= options.overrides
    lines = [f"{name} {value}" for name, value in directives.items()]
    lines += [f"user {user.name} on {quoted('>' + user.password)} {user.rules}" for user in options.users]
    return "".join(f"{line}\n" for line in lines)


def quoted(text: str) -> str:
    """One argument of a directive, whatever it holds."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'
