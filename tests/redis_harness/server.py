"""A real Redis or Valkey server in a child process."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from kafka_harness.certificates import Authority
from kafka_harness.ports import free_port
from redis_harness.flavour import Flavour, server_program
from redis_harness.instance import Instance
from redis_harness.options import RedisOptions, TlsListener, server_configuration


class RedisServer(Instance):
    """One server of ``flavour``, on ``port`` or a free one. Raises ValueError when TLS is asked of one without it.

    ``url`` is that of the user ``default`` without TLS, its password included.
    """

    def __init__(self, flavour: Flavour, *, options: RedisOptions | None = None, port: int | None = None) -> None:
        self.flavour = flavour
        self.options = options or RedisOptions()
        if self.options.tls and not flavour.has_tls:
            raise ValueError(f"{flavour} is built without TLS")
        super().__init__(flavour, port=port, password=self.options.password)
        self._tls_port = free_port() if self.options.tls else None
        self._authority = Authority(self.directory / "tls") if self.options.tls else None

    @property
    def url(self) -> str:
        return f"redis://{_login('', self.options.password)}{self.address}"

    @property
    def tls_url(self) -> str:
        """As ``url``, of the TLS listener. Raises RuntimeError without ``tls``."""
        return f"rediss://{_login('', self.options.password)}127.0.0.1:{self.tls_port}"

    def url_of(self, user: str, *, tls: bool = False) -> str:
        """The URL with the name and the password of one of the ``users``. Raises LookupError, or as ``tls_url``."""
        login = _login(user, self.options.user(user).password)
        return f"rediss://{login}127.0.0.1:{self.tls_port}" if tls else f"redis://{login}{self.address}"

    @property
    def tls_port(self) -> int:
        """Raises RuntimeError without ``tls``."""
        if self._tls_port is None:
            raise RuntimeError("this server offers no TLS")
        return self._tls_port

    @property
    def authority(self) -> Authority:
        """Who signed the server's certificate and issues those of clients. Raises RuntimeError without ``tls``."""
        if self._authority is None:
            raise RuntimeError("this server offers no TLS")
        return self._authority

    def _command(self, configuration: Path) -> list[str]:
        return [server_program(self.flavour), str(configuration)]

    def _configuration(self) -> str:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        return server_configuration(self.options, port=self.port, data=data, tls=self._tls_listener())

    def _tls_listener(self) -> TlsListener | None:
        if self._authority is None:
            return None
        certificate, key = self._authority.issue("server")
        return TlsListener(self.tls_port, self._authority.certificate, certificate, key)


def _login(user: str, password: str | None) -> str:
    return "" if password is None else f"{quote(user, safe='')}:{quote(password, safe='')}@"
