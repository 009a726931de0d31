"""What scripted functions answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import anyio

from runner.model import (
    SUCCEEDED,
    ErrorKind,
    Failed,
    FunctionError,
    Invocation,
    Outcome,
    PartlyFailed,
    Throttled,
)
from runner.testing.function import Script

FAILED = Failed(FunctionError(ErrorKind.ERROR, "ValueError", "poison"))
THROTTLED = Throttled(FunctionError(ErrorKind.THROTTLED, "429", "slow down"))
PARTIAL = FunctionError(ErrorKind.PARTIAL, "BatchItemFailures", "some failed")


def values(invocation: Invocation) -> list[bytes | None]:
    return [record.value for record in invocation.records]


def failing(*poison: bytes) -> Callable[[Invocation], Outcome]:
    """Fails whenever it sees one of these values."""
    return lambda invocation: FAILED if set(poison) & set(values(invocation)) else SUCCEEDED


def naming(*poison: bytes) -> Callable[[Invocation], Outcome]:
    """Names the records that have one of these values."""

    def script(invocation: Invocation) -> Outcome:
        positions = frozenset(record.position for record in invocation.records if record.value in poison)
        return PartlyFailed(positions, PARTIAL) if positions else SUCCEEDED

    return script


def in_turn(*outcomes: Outcome) -> Callable[[Invocation], Outcome]:
    """Answers with ``outcomes``, then succeeds for ever."""
    answers = iter(outcomes)
    return lambda _invocation: next(answers, SUCCEEDED)


def slow(seconds: float, script: Callable[[Invocation], Outcome] = lambda _: SUCCEEDED) -> Script:
    """Answers like ``script``, ``seconds`` later."""

    async def answer(invocation: Invocation) -> Outcome:
        await anyio.sleep(seconds)
        return script(invocation)

    return answer


def hanging_on(*stuck: bytes) -> Script:
    """Never answers to an invocation that holds one of these values."""

    async def hang() -> Outcome:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    def script(invocation: Invocation) -> Outcome | Awaitable[Outcome]:
        return hang() if set(stuck) & set(values(invocation)) else SUCCEEDED

    return script


def keys_in_lanes(lanes: Collection[int], factor: int) -> list[bytes]:
    """One key for each of ``lanes``, as this process places them."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < len(lanes):
        key = b"k%d" % number
        if (lane := hash(key) % factor) in lanes:
            found.setdefault(lane, key)
        number += 1
    return [found[lane] for lane in lanes]
