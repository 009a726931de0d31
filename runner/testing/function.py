"""A function whose outcomes a test writes, and which keeps a journal of its invocations."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from runner.model import SUCCEEDED, Invocation, Outcome, Record

Script: TypeAlias = Callable[[Invocation], Outcome | Awaitable[Outcome]]


@dataclass
class Call:
    """One invocation as the function saw it; times are the clock's seconds. ``outcome`` is None while it runs, and for
    ever if it was cancelled."""

    invocation: Invocation
    started_at: float
    ended_at: float | None = None
    outcome: Outcome | None = None


class ScriptedFunction:
    """Answers each invocation with what ``script`` says; without one it succeeds. ``calls`` is its journal.

    The encoded body is the records' bytes, ``overhead_bytes`` for each of them, and ``fixed_size`` once.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        now: Callable[[], float],
        name: str = "scripted",
        timeout: float = 30.0,
        fixed_size: int = 0,
        overhead_bytes: int = 0,
    ) -> None:
        self.calls: list[Call] = []
        self.running = 0
        self.most_running = 0
        self._script = script
        self._now = now
        self._name = name
        self._timeout = timeout
        self._fixed_size = fixed_size
        self._overhead_bytes = overhead_bytes

    @property
    def name(self) -> str:
        return self._name

    @property
    def timeout(self) -> float:
        return self._timeout

    @property
    def fixed_size(self) -> int:
        return self._fixed_size

    @property
    def largest_expansion(self) -> tuple[float, int]:
        return 1.0, self._overhead_bytes

    def size_of(self, record: Record) -> int:
        return record.size + self._overhead_bytes

    async def open(self) -> None:
        """Nothing is needed."""

    async def invoke(self, invocation: Invocation) -> Outcome:
        call = Call(invocation, self._now())
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            answer = SUCCEEDED if self._script is None else self._script(invocation)
            call.outcome = await answer if inspect.isawaitable(answer) else answer
            return call.outcome
        finally:
            self.running -= 1
            call.ended_at = self._now()

    async def close(self) -> None:
        """Nothing is held."""
