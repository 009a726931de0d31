"""The contenders of the Redis benchmark, each a process of its own, and what they cost beside the server."""

from __future__ import annotations

import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.contenders import ROOT, Measured
from benchmarks.redis_store import KEY_FIELD, VALUE_FIELD, Store
from kafka_harness.child import Child
from kafka_harness.ports import free_port

BATCH = 100
_SCRAPE_INTERVAL = 1.0
_REQUEST_TIMEOUT = 10.0
_RUN_TIMEOUT = 600.0
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 60.0
_SETTLE_TIMEOUT = 60.0
_ASK_EVERY = 0.05


@dataclass(frozen=True)
class Cost:
    """What reading a stream cost: the client's process, and the CPU seconds of the server meanwhile."""

    client: Measured
    server_cpu_seconds: float

    @property
    def server_cpu_us(self) -> float:
        """A record."""
        return self.server_cpu_seconds / self.client.records * 1e6


@dataclass(frozen=True)
class Handover:
    """Milliseconds from the return of XADD to the invocation of the function."""

    median_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Idle:
    """Shares of one core."""

    client: float
    server: float


class Contenders:
    """Reads streams of ``store``; ``directory`` is for files of the run. Only from the main thread."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory

    def bare(self, stream: str, records: int, group: str) -> Cost:
        """redis-py's XREADGROUP with COUNT 100, an awaited no-op, one XACK for all of a reply."""
        options = {"url": self._store.url, "stream": stream, "group": group, "records": str(records)}
        command = [sys.executable, "-m", "benchmarks.redis_bare_loop"]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        child = Child(group, command, directory=self._directory, working_directory=ROOT)
        before = self._store.cpu_seconds
        with self._store.read_through(stream, group, records), _running(child):
            _await_end(child)
        return _cost(json.loads(child.stdout.read_text()), records, self._store.cpu_seconds - before)

    def ours(self, stream: str, records: int, group: str, delivery: str = "ordered") -> Cost:
        """Ours, with an in-process no-op, one batch after another, commits on, and metrics that are scraped once a
        second."""
        before = self._store.cpu_seconds
        with self._store.read_through(stream, group, records):
            config = self._config(group, [stream], "count", delivery)
            process = _Ours(self._directory, group, config, to_the_end=True)
            with _running(process.child):
                _await_end(process.child, process)
        return _cost(process.result(), records, self._store.cpu_seconds - before)

    def handover(self, streams: Sequence[str], group: str, entries: int, pause: float) -> Handover:
        """Single entries, one every ``pause`` seconds, in turn to each of the streams, with nothing else going on."""
        for stream in streams:
            self._store.make_group(stream, group)
        process = _Ours(self._directory, group, self._config(group, streams, "note"))
        added: dict[str, float] = {}
        with _running(process.child):
            process.await_ready()
            for number in range(entries):
                time.sleep(pause)
                stream = streams[number % len(streams)]
                entry_id = self._store.add(stream)
                added[f"{stream} {entry_id}"] = time.monotonic()
            for stream in streams:
                self._await_acknowledged(stream, group)
            process.stop()
        came = process.result()
        assert came.keys() == added.keys(), f"{entries} entries were added, {len(came)} came"
        delays = [(came[entry] - at) * 1e3 for entry, at in added.items()]
        return Handover(statistics.median(delays), statistics.quantiles(delays, n=100)[-1])

    def idle(self, streams: Sequence[str], group: str, seconds: float) -> Idle:
        """While ours follows the streams, is scraped once a second, and nothing comes."""
        for stream in streams:
            self._store.make_group(stream, group)
        config = self._config(group, streams, "note")
        process = _Ours(self._directory, group, config)
        with _running(process.child):
            process.await_ready()
            client, server, started = process.child.cpu_seconds, self._store.cpu_seconds, time.monotonic()
            while time.monotonic() < started + seconds:
                time.sleep(_SCRAPE_INTERVAL)
                assert process.scrape(), process.child.output()
            took = time.monotonic() - started
            client, server = process.child.cpu_seconds - client, self._store.cpu_seconds - server
            process.stop()
        return Idle(client / took, server / took)

    def _await_acknowledged(self, stream: str, group: str) -> None:
        """Raises AssertionError when entries are left after a minute."""
        until = time.monotonic() + _SETTLE_TIMEOUT
        while (state := self._store.state(stream, group))[1:] != (0, 0):
            assert time.monotonic() < until, f"{stream}: (given, pending, not given) are {state}"
            time.sleep(_ASK_EVERY)

    def _config(self, group: str, streams: Sequence[str], handler: str, delivery: str = "ordered") -> dict[str, object]:
        source = {"url": self._store.url, "streams": list(streams), "group": group, "delivery": delivery}
        source |= {"key_field": KEY_FIELD, "value_field": VALUE_FIELD}
        mapping = {
            "function": "measured",
            "source": {"redis_streams": source},
            "batch_size": BATCH,
            "maximum_batching_window": "0ms",
        }
        function = {"python": {"handler": f"benchmarks.redis_handlers:{handler}", "payload": "records"}}
        return {"functions": {"measured": function}, "mappings": {"benchmark": mapping}}


class _Ours:
    """One process of ours, not started yet."""

    def __init__(self, directory: Path, name: str, config: Mapping[str, object], *, to_the_end: bool = False) -> None:
        self._admin = f"127.0.0.1:{free_port()}"
        self._result = directory / f"{name}.json"
        file = directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"admin": {"listen": self._admin}, **config}), encoding="utf-8")
        command = [sys.executable, "-m", "runner", "run", str(file), "--log-level", "error"]
        self.child = Child(
            name,
            [*command, "--until-caught-up"] if to_the_end else command,
            directory=directory,
            environment={"BENCHMARK_RESULT": str(self._result)},
            working_directory=ROOT,
        )

    def scrape(self) -> bool:
        """False: nobody listens yet, or any more."""
        return b"stream_runner_lag_seconds" in self._get("/metrics")

    def await_ready(self) -> None:
        """Raises AssertionError when it is not within a minute."""
        until = time.monotonic() + _START_TIMEOUT
        while not self._get("/readyz"):
            assert self.child.running, self.child.output()
            assert time.monotonic() < until, f"not ready:\n{self.child.output()}"
            time.sleep(_ASK_EVERY)

    def stop(self) -> None:
        """SIGTERM; returns when it has drained. Raises AssertionError."""
        self.child.terminate()
        _await_end(self.child, timeout=_STOP_TIMEOUT)

    def result(self) -> dict[str, float]:
        """What its handler has written."""
        result: dict[str, float] = json.loads(self._result.read_text(encoding="utf-8"))
        return result

    def _get(self, path: str) -> bytes:
        """Nothing when nobody listens, and for an answer that is an error."""
        try:
            with urllib.request.urlopen(f"http://{self._admin}{path}", timeout=_REQUEST_TIMEOUT) as response:
                body: bytes = response.read()
                return body
        except OSError:  # it starts, or has ended
            return b""


@contextmanager
def _running(child: Child) -> Iterator[None]:
    child.start()
    try:
        yield
    finally:
        child.kill()


def _await_end(child: Child, scraped: _Ours | None = None, *, timeout: float = _RUN_TIMEOUT) -> None:
    """Until ``child`` has ended well; one that is ``scraped``, about once a second, must have answered. Raises
    AssertionError."""
    started = next_scrape = time.monotonic()
    answered = 0
    while child.running:
        now = time.monotonic()
        assert now < started + timeout, f"still running:\n{child.output()}"
        if scraped is not None and now >= next_scrape:
            answered += scraped.scrape()
            next_scrape = now + _SCRAPE_INTERVAL
        time.sleep(_ASK_EVERY)
    assert child.exit_code == 0, child.output()
    assert scraped is None or answered, "its metrics were never scraped: too few records"


def _cost(client: Mapping[str, float], records: int, server_cpu_seconds: float) -> Cost:
    assert client["records"] == records, f"{records} entries were there, {client['records']} came"
    return Cost(Measured(records, client["cpu_seconds"], client["wall_seconds"]), server_cpu_seconds)
