"""What contradicts itself, or is risky, in how Redis is reached."""

from __future__ import annotations

from typing import Protocol

from runner.clients.redis_url import RedisUrl
from runner.clients.secret import Secret
from runner.config.codes import Code
from runner.config.connection_checks import check_tls
from runner.config.connections import TlsConfig
from runner.config.judgement import Judged, JudgedMapping


class ReachesRedis(Protocol):
    """The keys of a section by which Redis is reached. Without ``url``, another section says it all."""

    @property
    def url(self) -> RedisUrl | None: ...

    @property
    def password(self) -> Secret | None: ...

    @property
    def allow_plaintext(self) -> bool: ...

    @property
    def tls(self) -> TlsConfig | None: ...


def check(mapping: JudgedMapping) -> None:
    """Report what is wrong or risky around the Redis servers of ``mapping``."""
    if mapping.redis_streams is not None:
        check_connection(mapping, "source.redis_streams", mapping.redis_streams)
    destination = mapping.on_failure.redis_streams if mapping.on_failure else None
    if destination is not None:
        check_connection(mapping, "destination_config.on_failure.redis_streams", destination)


def check_connection(judged: Judged, section: str, reached: ReachesRedis) -> None:
    """``section`` is where ``reached`` stands."""
    check_tls(judged, f"{section}.tls", reached.tls)
    if reached.url is None or not judged.known(f"{section}.url") or reached.url.uses_tls:
        return
    if judged.written(f"{section}.tls"):
        judged.report(
            Code.TLS_WITHOUT_REDISS,
            f"{section}.tls",
            "tls with a URL that does not use it",
            f"write {_with_tls(reached.url)}, or remove tls",
            points_at_key=True,
        )
    elif judged.written(f"{section}.password") and judged.known(f"{section}.allow_plaintext"):
        _check_plaintext(judged, section, reached, reached.url)


def _with_tls(url: RedisUrl) -> str:
    return str(url).replace("redis", "rediss", 1)


def _check_plaintext(judged: Judged, section: str, reached: ReachesRedis, url: RedisUrl) -> None:
    if reached.allow_plaintext:
        judged.report(
            Code.PASSWORD_PLAINTEXT,
            f"{section}.allow_plaintext",
            "the password is sent over a connection that is not encrypted",
            "use a rediss:// URL",
            points_at_key=True,
        )
    else:
        judged.report(
            Code.PASSWORD_WITHOUT_TLS,
            f"{section}.password",
            "a password would be sent over a connection that is not encrypted",
            f"write {_with_tls(url)}, or say allow_plaintext: true",
            points_at_key=True,
        )
