"""A real Apache Kafka broker in a child process, to be killed, frozen, restarted and corrupted by tests."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka_harness import install, segments, wire
from kafka_harness.certificates import Authority
from kafka_harness.child import Child, ChildFailed
from kafka_harness.ports import free_port
from kafka_harness.properties import BrokerOptions, TlsFiles, server_properties

_START_TIMEOUT = 60.0
_FORMAT_TIMEOUT = 60.0
_ASK_EVERY = 0.05
_SCRAM_ITERATIONS = 4096


class Broker:
    """One broker and controller with its own ports and data, which it keeps over ``kill`` and ``restart``.

    ``bootstrap`` is the plain-text listener; ``address_of`` gives the others. Usable as a context manager.
    """

    def __init__(self, options: BrokerOptions | None = None) -> None:
        self.options = options or BrokerOptions()
        self._ports = {name: free_port() for name in (*self.options.listeners, "CONTROLLER")}
        self._home = Path(tempfile.mkdtemp(prefix="stream-runner-kafka-"))
        self._data = self._home / "data"
        self._properties = self._home / "server.properties"
        self._authority = Authority(self._home / "tls") if self.options.tls else None
        self._child: Child | None = None

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

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def serves(self, *, timeout: float = 2.0) -> bool:
        """Whether it answers within ``timeout`` seconds. Blocks for as long."""
        return wire.serves("127.0.0.1", self._ports["PLAINTEXT"], timeout=timeout)

    @property
    def process(self) -> Child:
        """The broker's process. Raises RuntimeError before ``start``."""
        if self._child is None:
            raise RuntimeError("the broker was never started")
        return self._child

    def start(self) -> None:
        """Format the storage, start the broker, return when it serves: some five seconds.

        Raises ComponentMissing without Java or the jars, ChildFailed with the end of the log when it does not start.
        """
        java, jars = install.java(), install.class_path()
        self._properties.write_text(
            server_properties(self.options, ports=self._ports, data=self._data, tls_files=self._tls_files())
        )
        self._format(java, jars)
        self._child = Child("broker", self._command(java, jars), directory=self._home)
        self._child.start()
        self._await_service()

    def kill(self) -> None:
        """``kill -9``. Data and ports stay."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    async def restart(self) -> None:
        """Start again on the same ports and data, after ``kill`` or ``shut_down``; returns when it serves."""
        self.process.start()
        await asyncio.to_thread(self._await_service)

    async def shut_down(self, timeout: float = 30.0) -> None:
        """A controlled shutdown. Data and ports stay."""
        self.process.terminate()
        await self.process.wait(timeout)

    def stop(self) -> None:
        """End it at once and remove its data. Nothing when it never started."""
        if self._child is not None:
            self._child.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def segment_files(self, topic: str, partition: int) -> list[Path]:
        """The log segments of a partition, oldest first."""
        return sorted((self._data / f"{topic}-{partition}").glob("*.log"))

    def flip_byte(self, topic: str, partition: int, offset: int) -> segments.StoredBatch:
        """Corrupt the value of one stored record (again: repair it); returns the batch that no client can read now.

        A broker that is killed afterwards cuts the log at a batch whose checksum is wrong when it recovers.
        Raises LookupError when there is no such record.
        """
        return segments.flip_value_byte(self.segment_files(topic, partition), offset)

    def log_tail(self) -> str:
        return self._child.output() if self._child is not None else "--- the broker was never started"

    def _tls_files(self) -> TlsFiles | None:
        if self._authority is None:
            return None
        certificate, key = self._authority.issue("broker")
        key_store = self._home / "tls" / "broker-store.pem"
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

    def _await_service(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.serves():
            if not self.running or time.monotonic() > deadline:
                what = "does not serve" if self.running else f"ended with {self.process.exit_code}"
                raise ChildFailed(f"the broker {what}:\n{self.log_tail()}")
            time.sleep(_ASK_EVERY)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
