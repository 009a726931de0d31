"""What the probes answer, derived from heartbeats and states alone: never from a broker, a function or the lag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runner.admin.views import MappingView
from runner.model import MappingState

_MEANT_TO_RUN = frozenset(MappingState) - {MappingState.DISABLING, MappingState.DISABLED}


@dataclass(frozen=True, slots=True)
class HealthReport:
    """``faults`` says in words what keeps the answer from being yes; none: all is well."""

    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults


def liveness(heartbeats: Mapping[str, float], now: float, limit: float) -> HealthReport:
    """Alive while each poller's last turn (by name, in seconds of ``now``'s clock) is at most ``limit`` seconds old.

    That the loop turns needs no check: otherwise nobody would answer.
    """
    late = [(name, now - beat) for name, beat in sorted(heartbeats.items()) if now - beat > limit]
    return HealthReport(
        tuple(f"the poller of {name} last turned {age:.1f} s ago (limit {limit:g} s)" for name, age in late)
    )


def readiness(mappings: Iterable[MappingView]) -> HealthReport:
    """Ready once each mapping that is meant to run has joined once, or says what its problem is."""
    waiting = [
        each.mapping
        for each in mappings
        if each.state in _MEANT_TO_RUN and each.state is not MappingState.PROBLEM and not each.joined
    ]
    return HealthReport(tuple(f"mapping {name} has not joined yet" for name in sorted(waiting)))
