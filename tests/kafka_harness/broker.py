"""A real Apache Kafka broker in a child process, to be killed, frozen, restarted and corrupted by tests."""

from __future__ import annotations

import base64
import ssl
import subprocess
import uuid
from pathlib import Path

from kafka_harness import install, segments, wire
from kafka_harness.certificates import Authority
from kafka_harness.child import ChildFailed
from kafka_harness.ports import free_port
from kafka_harness.properties import BrokerOptions, TlsFiles, server_properties
from kafka_harness.server_process import ServerProcess

_START_TIMEOUT = 60.0
_FORMAT_TIMEOUT = 60.0
_ASK_EVERY = 0.05
_SCRAM_ITERATIONS = 4096


class Broker(ServerProcess):
    """One broker and controller. ``bootstrap`` is the plain-text listener; ``address_of`` gives the others."""

    def __init__(self, options: BrokerOptions | None = None) -> None:
        super().__init__("broker", start_timeout=_START_TIMEOUT, ask_every=_ASK_EVERY)
        self.options = options or BrokerOptions()
        self._ports = {name: free_port() for name in (*self.options.listeners, "CONTROLLER")}
        self._data = self.directory / "data"
        self._properties = self.directory / "server.properties"
        self._authority = Authority(self.directory / "tls") if self.options.tls else None

    @property
    def bootstrap(self) -> str:
        return self.address_of("PLAINTEXT")

    def address_of(self, listener: str) -> str:
        """``host:port`` of PLAINTEXT, SASL_PLAINTEXT, SSL or SASL_SSL. Raises KeyError when it is not offered."""
        return f"127.0.0.1:{self._ports[listener]}"

    @property
    def authority(self) -> Authority:
        """Who signed the broker's certificate and signs those of clients. Raises RuntimeError without ``tls``."""
        if self._authority is None:
            raise RuntimeError("this broker offers no TLS")
        return self._authority

    def client_context(self, client: str | None = None) -> ssl.SSLContext:
        """A context that trusts this broker, with a certificate for ``client`` (its principal) when one is named."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        if client is not None:
            context.load_cert_chain(*self.authority.issue(client))
        return context

    def serves(self, *, timeout: float = 2.0) -> bool:
        """Whether it answers within ``timeout`` seconds. Blocks for as long."""
        return wire.serves("127.0.0.1", self._ports["PLAINTEXT"], timeout=timeout)

    def start(self) -> None:
        """Format the storage, start the broker, return when it serves: some five seconds.

        Raises ComponentMissing without Java or the jars, ChildFailed with the end of the log when it does not start.
        """
        java, jars = install.java(), install.class_path()
        self._properties.write_text(
            server_properties(self.options, ports=self._ports, data=self._data, tls_files=self._tls_files())
        )
        self._format(java, jars)
        self._launch(self._command(java, jars))

    def segment_files(self, topic: str, partition: int) -> list[Path]:
        """The log segments of a partition, oldest first."""
        return sorted((self._data / f"{topic}-{partition}").glob("*.log"))

    def flip_byte(self, topic: str, partition: int, offset: int) -> segments.StoredBatch:
        """Corrupt the value of one stored record (again: repair it); returns the batch that no client can read now.

        A broker that is killed afterwards cuts the log at a batch whose checksum is wrong when it recovers.
        Raises LookupError when there is no such record.
        """
        return segments.flip_value_byte(self.segment_files(topic, partition), offset)

    def _tls_files(self) -> TlsFiles | None:
        if self._authority is None:
            return None
        certificate, key = self._authority.issue("broker")
        key_store = self.directory / "tls" / "broker-store.pem"
        key_store.write_bytes(key.read_bytes() + certificate.read_bytes())
        key_store.chmod(0o600)
        return TlsFiles(authority=self._authority.certificate, key_store=key_store)

    def _format(self, java: str, jars: str) -> None:
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        if identity.startswith("-"):
            identity = f"a{identity[1:]}"
        command = [java, "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", jars, "kafka.tools.StorageTool", "format"]
        command += ["-t", identity, "-c", str(self._properties)]
        for user, password in self.options.users.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                command += [
                    "--add-scram",
                    f"{mechanism}=[name={user},password={password},iterations={_SCRAM_ITERATIONS}]",
                ]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT)
        if result.returncode != 0:
            raise ChildFailed(f"formatting the broker's storage failed:\n{result.stdout}{result.stderr}")

    def _command(self, java: str, jars: str) -> list[str]:
        return [
            java,
            f"-Xmx{self.options.heap_mb}m",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            jars,
            "kafka.Kafka",
            str(self._properties),
        ]
