"""How long a suspended process may still believe that its partitions are its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.assembly import Assembly
from runner.clients.kafka import KafkaConnection
from runner.config.loading import loads
from runner.engine.clock import LoopClock
from runner.sources.kafka import KafkaSource, KafkaSourceSettings
from runner.sources.starting import StartingPosition
from runner.telemetry.telemetry import Telemetry

SESSIONS = [(6.0, 4.0), (7.5, 5.0), (9.0, 6.0), (45.0, 42.0), (1_800.0, 1_797.0)]
"""A session timeout, and what of it is left when the last heartbeat went out as long ago as it may have."""


def settings_of(session_timeout: float) -> KafkaSourceSettings:
    return KafkaSourceSettings(
        connection=KafkaConnection(bootstrap_servers=("localhost:9092",), client_id="test"),
        topics=("orders",),
        group="charge-card",
        drain_timeout=30.0,
        commit_timeout=5.0,
        starting=StartingPosition.TRIM_HORIZON,
        session_timeout=session_timeout,
    )


@pytest.mark.parametrize(("session_timeout", "lease"), SESSIONS)
def test_the_lease_ends_before_the_session_of_the_last_heartbeat(session_timeout: float, lease: float) -> None:
    settings = settings_of(session_timeout)
    assert settings.lease == lease
    options = KafkaSource(settings, now=lambda: 0.0)._consumer_options()
    assert options["session_timeout_ms"] == session_timeout * 1000
    assert options["heartbeat_interval_ms"] == (session_timeout - lease) * 1000


@pytest.mark.parametrize(("session_timeout", "lease"), SESSIONS)
async def test_a_mapping_of_kafka_has_its_sources_lease(tmp_path: Path, session_timeout: float, lease: float) -> None:
    source = f"kafka: {{bootstrap_servers: localhost:9092, topics: [orders], session_timeout: {session_timeout:g}s}}"
    assert await _lease_of(source, tmp_path) == lease


async def test_nobody_takes_files_away(tmp_path: Path) -> None:
    assert await _lease_of(f"file: {{path: {tmp_path}}}", tmp_path) is None


async def _lease_of(source: str, app_dir: Path) -> float | None:
    text = f"""
functions: {{audit: {{python: {{handler: "team.audit:handle"}}}}}}
mappings: {{orders: {{function: audit, source: {{{source}}}}}}}
"""
    assembly = Assembly(clock=LoopClock(), telemetry=Telemetry(version="1"), app_dir=app_dir)
    return assembly.desired(loads(text, name="test.yaml", environ={}))["orders"].build()._lease
