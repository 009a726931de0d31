"""What the probes' reports follow from."""

from __future__ import annotations

import pytest

from runner.admin.health import liveness, readiness
from runner.model import MappingState, Problem, Reason
from runner.telemetry.snapshot import MappingSnapshot


def mapping(state: MappingState, *, joined: bool = False, name: str = "orders") -> MappingSnapshot:
    problem = Problem(Reason.EVENT_SOURCE_NOT_FOUND, "no topic") if state is MappingState.PROBLEM else None
    return MappingSnapshot(name, "charge", state, problem, "", joined)


def test_pollers_are_alive_up_to_the_limit() -> None:
    assert liveness({"orders": 40.0, "returns": 99.0}, now=100.0, limit=60.0).ok
    report = liveness({"returns": 99.0, "orders": 39.0}, now=100.0, limit=60.0)
    assert not report.ok
    assert report.faults == ("the poller of orders last turned 61.0 s ago (limit 60 s)",)


def test_a_process_without_pollers_is_alive_and_ready() -> None:
    assert liveness({}, now=100.0, limit=60.0).ok
    assert readiness([]).ok


@pytest.mark.parametrize(
    ("state", "joined", "ready"),
    [
        (MappingState.CREATING, False, False),
        (MappingState.CREATING, True, True),
        (MappingState.ENABLED, True, True),
        (MappingState.ENABLED, False, False),
        (MappingState.IDLE, True, True),
        (MappingState.PROBLEM, False, True),
        (MappingState.DISABLING, False, True),
        (MappingState.DISABLED, False, True),
    ],
)
def test_ready_is_joined_once_or_a_problem_or_not_meant_to_run(state: MappingState, joined: bool, ready: bool) -> None:
    assert readiness([mapping(state, joined=joined)]).ok is ready


def test_every_mapping_that_has_not_joined_is_named() -> None:
    report = readiness([mapping(MappingState.CREATING, name="b"), mapping(MappingState.CREATING, name="a")])
    assert report.faults == ("mapping a has not joined yet", "mapping b has not joined yet")
