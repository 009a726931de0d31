"""Redis URLs: which servers, how they are found, which database, with TLS or without."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_LAST_PORT: Final = 65_535
_MOST_ADDRESSES: Final = 20
_LAST_DATABASE: Final = 1_000_000

_URL: Final = re.compile(r"(?P<scheme>[a-z+]+)://(?P<addresses>[^/]*)(?:/(?P<path>.*))?", re.ASCII)
_HOST: Final = r"(?:\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9]+)?\]|[A-Za-z0-9_][A-Za-z0-9._-]{0,252})"
_ADDRESS: Final = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_DATABASE: Final = re.compile(r"[0-9]{1,7}", re.ASCII)


class Finding(enum.StrEnum):
    """How the server that is asked is found: it is named, sentinels know it, or its cluster says by slot."""

    STANDALONE = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


class Address(NamedTuple):
    """``host`` without the brackets of IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class RedisUrl:
    """A URL's parts. ``addresses`` are the server, the sentinels, or some of the cluster's nodes.

    ``service`` is the name that sentinels have for the master; None without them.
    """

    finding: Finding
    addresses: tuple[Address, ...]
    uses_tls: bool
    database: int = 0
    service: str | None = None

    def __str__(self) -> str:
        scheme = self.finding.replace("redis", "rediss", 1) if self.uses_tls else str(self.finding)
        service = "" if self.service is None else f"/{self.service}"
        database = f"/{self.database}" if self.database or self.service else ""
        return f"{scheme}://{','.join([str(address) for address in self.addresses])}{service}{database}"


def parse_redis_url(text: str) -> RedisUrl:
    """``redis://host:port/db``, ``redis+sentinel://host:port,host:port/service/db``, ``redis+cluster://host:port,...``.

    With ``rediss`` for ``redis`` TLS is used. Ports are 6379, of sentinels 26379, and the database 0, where they are
    not said. Raises ValueError: what is wrong, a colon, what to do; it repeats nothing that may be a password.
    """
    if "@" in text:
        raise ValueError("must not hold a user or a password: use username and password beside it")
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError("must be a Redis URL: write redis://host:6379/0")
    finding = _finding_of(match["scheme"])
    addresses = _addresses_of(match["addresses"], finding)
    service, database = _path_of(match["path"] or "", finding)
    return RedisUrl(
        finding=finding,
        addresses=addresses,
        uses_tls=match["scheme"].startswith("rediss"),
        database=database,
        service=service,
    )


def _finding_of(scheme: str) -> Finding:
    try:
        return Finding(scheme.replace("rediss", "redis", 1))
    except ValueError:
        raise ValueError(
            f"must not have the scheme '{scheme}': write redis://, redis+sentinel:// or redis+cluster://, "
            "or rediss instead of redis for TLS"
        ) from None


def _addresses_of(text: str, finding: Finding) -> tuple[Address, ...]:
    default = SENTINEL_PORT if finding is Finding.SENTINEL else REDIS_PORT
    addresses = tuple([_address_of(part.strip(), default) for part in text.split(",")])
    if finding is Finding.STANDALONE and len(addresses) > 1:
        raise ValueError("must name one server: for several write redis+sentinel:// or redis+cluster://")
    if len(addresses) > _MOST_ADDRESSES:
        raise ValueError(
            f"must not name more than {_MOST_ADDRESSES} servers: a few are enough, the others are learnt from them"
        )
    if len(set(addresses)) < len(addresses):
        raise ValueError("must not name a server twice: remove one of them")
    return addresses


def _address_of(text: str, default_port: int) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"must name servers as host:port: write for example localhost:{default_port}")
    port = default_port if match["port"] is None else int(match["port"])
    if not 1 <= port <= _LAST_PORT:
        raise ValueError(f"must have a port between 1 and {_LAST_PORT}: the usual one is {default_port}")
    return Address(match["host"].strip("[]"), port)


def _path_of(text: str, finding: Finding) -> tuple[str | None, int]:
    """The service, with sentinels, and the database."""
    if "?" in text or "#" in text:
        raise ValueError("must not have a query or a fragment: settings are keys beside it")
    parts = text.split("/") if text else []
    if finding is Finding.CLUSTER:
        if parts:
            raise ValueError("must end after the servers: a cluster has one database only")
        return None, 0
    service = None
    if finding is Finding.SENTINEL:
        service = parts.pop(0) if parts else ""
        if not _SERVICE.fullmatch(service):
            raise ValueError(
                "must name the service that the sentinels watch: write redis+sentinel://host:26379/mymaster/0"
            )
    return service, _database_of(parts)


def _database_of(parts: list[str]) -> int:
    if not parts or parts == [""]:
        return 0
    if len(parts) > 1 or not _DATABASE.fullmatch(parts[0]) or int(parts[0]) > _LAST_DATABASE:
        raise ValueError("must end with the number of a database: write for example /0")
    return int(parts[0])
