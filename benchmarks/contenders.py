"""The contenders, each a process of its own that reads one topic to its end."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from kafka_harness.ports import free_port

ROOT = Path(__file__).parents[1]
BATCH = 500
FACTOR = 8
_SCRAPE_INTERVAL = 1.0
_IDLE_SCRAPE_INTERVAL = 15.0
"""As Prometheus is usually set up: a scrape of many partitions costs more than their idling."""
_SCRAPE_TIMEOUT = 10.0
_RUN_TIMEOUT = 900.0


@dataclass(frozen=True)
class Measured:
    """What reading cost. CPU is that of all threads of the contender's process."""

    records: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def cpu_us(self) -> float:
        return self.cpu_seconds / self.records * 1e6

    @property
    def rate(self) -> float:
        return self.records / self.wall_seconds


@dataclass(frozen=True)
class Task:
    """``records`` lie in ``topic`` with ``partitions``; ``directory`` is for files of the run."""

    bootstrap: str
    topic: str
    partitions: int
    records: int
    directory: Path


def bare(task: Task, group: str) -> Measured:
    """aiokafka's ``getmany(500)``, an awaited no-op, a commit once a second."""
    command = [sys.executable, "-m", "benchmarks.bare_loop", "--bootstrap", task.bootstrap, "--topic", task.topic]
    command += ["--group", group, "--records", str(task.records)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    return Measured(**json.loads(made.stdout))


def in_process(task: Task, group: str, payload: str, *, profile: Path | None = None) -> Measured:
    """Ours, with an in-process no-op, lanes by key, lag, commits, and metrics that are scraped once a second."""
    handler = "records" if payload == "records" else "event"
    config = _config(
        task,
        group,
        {"python": {"handler": f"benchmarks.noop_handler:{handler}", "payload": payload}},
        {"batch_size": BATCH, "parallelization_factor": FACTOR, "ordering": "key"},
    )
    result = task.directory / f"{group}.json"
    environment = {
        **os.environ,
        "BENCHMARK_RECORDS": str(task.records),
        "BENCHMARK_UNCOUNTED": str(min(task.records // 10, BATCH * FACTOR * task.partitions)),
        "BENCHMARK_RESULT": str(result),
    }
    _run(config, environment, profile)
    return Measured(**json.loads(result.read_text(encoding="utf-8")))


def one_post_a_record(task: Task, group: str, url: str) -> Measured:
    """Ours, ``payload: raw``, one POST a record, 64 at once; the start of the process is not taken off."""
    config = _config(
        task,
        group,
        {"http": {"url": url, "payload": "raw"}},
        {"batch_size": 1, "parallelization_factor": 64, "ordering": "key", "maximum_concurrency": 64},
    )
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    _run(config, dict(os.environ), None)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(task.records, cpu, time.monotonic() - started)


def idle(task: Task, group: str, seconds: float) -> float:
    """The share of one core that ours takes while it follows ``task``'s partitions and nothing comes."""
    config = _config(task, group, {"python": {"handler": "benchmarks.idle_handler:handle", "payload": "records"}}, {})
    with subprocess.Popen(
        [sys.executable, "-m", "runner", "run", str(config), "--log-level", "error"], cwd=ROOT
    ) as process:
        try:
            watched = psutil.Process(process.pid)
            time.sleep(15)  # it starts, joins and looks its partitions up
            before = watched.cpu_times()
            _scraped_while(process, config, seconds, min(_IDLE_SCRAPE_INTERVAL, seconds / 2))
            after = watched.cpu_times()
            assert process.poll() is None, "it ended by itself"
        finally:
            process.terminate()
            process.wait(60)
    return (after.user + after.system - before.user - before.system) / seconds


def _config(task: Task, group: str, function: dict[str, object], mapping: dict[str, object]) -> Path:
    source = {"kafka": {"bootstrap_servers": task.bootstrap, "topics": [task.topic], "consumer_group_id": group}}
    config = {
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
        "functions": {"measured": function},
        "mappings": {"benchmark": {"function": "measured", "source": source, **mapping}},
    }
    path = task.directory / f"{group}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _run(config: Path, environment: dict[str, str], profile: Path | None) -> None:
    command = [sys.executable]
    if profile is not None:
        command += ["-m", "cProfile", "-o", str(profile)]
    command += ["-m", "runner", "run", "--until-caught-up", "--deadline", "10m", "--log-level", "error", str(config)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            _scraped_while(process, config, _RUN_TIMEOUT, _SCRAPE_INTERVAL)
            code = process.wait(0)
        finally:
            process.kill()
    if code != 0:
        raise subprocess.CalledProcessError(code, command)


def _scraped_while(process: subprocess.Popen[bytes], config: Path, seconds: float, interval: float) -> None:
    """Scrape ``process`` every ``interval`` until it ends, for ``seconds`` at most; it must have answered."""
    listen = yaml.safe_load(config.read_text(encoding="utf-8"))["admin"]["listen"]
    answered = 0
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            process.wait(min(interval, left))
            break
        except subprocess.TimeoutExpired:  # it runs, which is what is wanted
            answered += _scrape(f"http://{listen}/metrics")
    assert answered, "its metrics were never scraped: too few records, or too short"


def _scrape(url: str) -> bool:
    """False: nobody listens yet, or any more."""
    try:
        with urllib.request.urlopen(url, timeout=_SCRAPE_TIMEOUT) as response:
            return b"stream_runner_lag_seconds" in response.read()
    except OSError:
        return False
