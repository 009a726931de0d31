"""Apache Kafka's jars, resolved once from the Maven registry into a cache that parallel test runs share."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from kafka_harness.component import ComponentMissing, find_program

KAFKA_VERSION = "4.3.0"
_DEPENDENCIES = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
_OLDEST_JAVA = 17
_JAVA_ADVICE = f"install a Java {_OLDEST_JAVA} runtime or newer (Debian: openjdk-17-jre-headless)"
_JAVA_TIMEOUT = 30.0
_DOWNLOAD_TIMEOUT = 900.0
_OUTPUT_SHOWN = 4000


def java() -> str:
    """The path of the Java launcher. Raises ComponentMissing, also when it is too old for Kafka."""
    program = find_program("java", _JAVA_ADVICE)
    told = subprocess.run([program, "-version"], check=False, capture_output=True, text=True, timeout=_JAVA_TIMEOUT)
    version = re.search(r'version "(\d+)', told.stderr)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        raise ComponentMissing(f"Java {_OLDEST_JAVA}", f"{program} is not that new; {_JAVA_ADVICE}")
    return program


def class_path() -> str:
    """Kafka's class path; the jars are fetched at the first call on a machine, which takes some ten seconds.

    Raises ComponentMissing when Maven is needed and not there, or cannot reach the registry.
    """
    home = _cache() / f"kafka-{KAFKA_VERSION}"
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with (home.parent / f"{home.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not home.is_dir():
                _resolve(home)
    return f"{home}/libs/*"


def _cache() -> Path:
    configured = os.environ.get("STREAM_RUNNER_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "stream-runner"


def _resolve(home: Path) -> None:
    """Fill a directory beside ``home`` and rename it: ``home`` exists only when it is complete."""
    maven = find_program("mvn", "install Apache Maven (Debian: maven); it fetches the Kafka broker of the tests")
    work = Path(tempfile.mkdtemp(prefix=f"{home.name}.", dir=home.parent))
    try:
        (work / "pom.xml").write_text(_pom())
        command = [maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={work / 'libs'}"]
        result = subprocess.run(
            command, cwd=work, check=False, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT
        )
        if result.returncode != 0:
            output = (result.stdout + result.stderr)[-_OUTPUT_SHOWN:]
            raise ComponentMissing(f"Apache Kafka {KAFKA_VERSION}", f"mvn could not fetch its jars:\n{output}")
        work.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _pom() -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        for group, artifact, version in _DEPENDENCIES
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>stream-runner.tests</groupId><artifactId>kafka</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>\n"
    )
