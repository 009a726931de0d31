"""The limiter of repeated log messages, on a clock that the test turns."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from runner.telemetry.repeats import LogCounts, MessageKey, RepeatLimiter


class Hands:
    """A monotonic clock set by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def key(
    event: str = "invocation failed", mapping: str | None = "orders", level: int = logging.WARNING, kind: str = ""
) -> MessageKey:
    return MessageKey("runner.mapping", event, mapping, level, kind)


def message(text: str = "x") -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text})


def test_the_first_few_are_admitted_then_summed_up() -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, burst=3, interval=10.0)
    assert [limiter.admit(key(), message) for _ in range(8)] == [True, True, True, False, False, False, False, False]
    assert limiter.pending
    assert limiter.due() == []
    clock.time += 10
    assert [(each.key, each.suppressed, each.seconds) for each in limiter.due()] == [(key(), 5, 10.0)]
    assert not limiter.pending
    assert limiter.due() == []


def test_while_it_repeats_there_is_a_summary_an_interval_and_nothing_else() -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, burst=3, interval=10.0)
    admitted, summed = 0, []
    for _ in range(100):
        admitted += limiter.admit(key(), message)
        summed += limiter.due()
        clock.time += 1
    summed += limiter.drain()
    assert admitted == 3
    assert sum(summary.suppressed for summary in summed) == 97
    assert len(summed) <= 10


def test_after_silence_a_key_starts_anew() -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, burst=2, interval=10.0)
    assert [limiter.admit(key(), message) for _ in range(3)] == [True, True, False]
    clock.time += 10
    limiter.due()
    clock.time += 10
    assert limiter.admit(key(), message)


def test_what_is_rare_is_always_admitted() -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, burst=1, interval=10.0)
    for _ in range(20):
        assert limiter.admit(key(), message)
        clock.time += 10


def test_another_event_mapping_or_level_is_no_repeat() -> None:
    limiter = RepeatLimiter(Hands(), burst=1)
    assert limiter.admit(key(), message)
    assert limiter.admit(key(event="partition paused"), message)
    assert limiter.admit(key(mapping="returns"), message)
    assert limiter.admit(key(mapping=None), message)
    assert limiter.admit(key(level=logging.ERROR), message)
    assert not limiter.admit(key(), message)


def test_another_kind_is_no_repeat_and_each_has_a_summary_with_its_newest_message() -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, burst=1, interval=10.0)
    for number in range(5):
        for kind in ("throttled 429", "error 404"):
            text = f"{kind}: {number}"
            assert limiter.admit(key(kind=kind), lambda text=text: message(text)) == (number == 0)  # type: ignore[misc]
    clock.time += 10
    assert [(each.key.kind, each.suppressed, each.newest.msg) for each in limiter.due()] == [
        ("throttled 429", 4, "throttled 429: 4"),
        ("error 404", 4, "error 404: 4"),
    ]


def test_kinds_are_bounded_and_those_that_are_too_many_are_one() -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, burst=1, interval=10.0, kinds=4)
    admitted = sum(limiter.admit(key(kind=f"Error{number}"), message) for number in range(10_000))
    assert admitted == 4 + 1
    assert limiter.admit(key(mapping="returns", kind="Error5000"), message), "another mapping has kinds of its own"
    clock.time += 10
    assert [(each.key.kind, each.suppressed) for each in limiter.due()] == [("", 10_000 - 5)]
    clock.time += 10
    limiter.due()
    assert limiter.admit(key(kind="Error5000"), message), "silence makes room for another kind"
    assert not limiter.admit(key(kind="Error5000"), message)


def test_a_burst_may_be_larger_than_the_usual() -> None:
    limiter = RepeatLimiter(Hands(), burst=1)
    assert sum(limiter.admit(key(), message, burst=7) for _ in range(20)) == 7


def test_memory_is_bounded_and_what_makes_room_is_summed_up() -> None:
    limiter = RepeatLimiter(Hands(), burst=1, capacity=10)
    limiter.admit(key("first"), message)
    limiter.admit(key("first"), message)
    for number in range(10_000):
        limiter.admit(key(f"event {number}"), message)
    assert len(limiter._keys) == len(limiter._kinds) == 10
    assert [(summary.key.event, summary.suppressed) for summary in limiter.due()] == [("first", 1)]


def test_silent_keys_are_dropped() -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, interval=10.0)
    for number in range(100):
        limiter.admit(key(f"event {number}"), message)
    clock.time += 10
    assert limiter.due() == []
    assert len(limiter._keys) == len(limiter._kinds) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y", "z"]), st.floats(min_value=0, max_value=15)),
        max_size=200,
    ),
    st.integers(min_value=1, max_value=4),
)
def test_every_message_is_admitted_or_in_exactly_one_summary(
    steps: list[tuple[str, str, float]], capacity: int
) -> None:
    clock = Hands()
    limiter = RepeatLimiter(clock, burst=2, interval=10.0, capacity=capacity, kinds=2)
    written = 0
    for event, kind, pause in steps:
        written += limiter.admit(key(event, kind=kind), message)
        written += sum(summary.suppressed for summary in limiter.due())
        clock.time += pause
    written += sum(summary.suppressed for summary in limiter.drain())
    assert written == len(steps)


def test_counts_go_by_level() -> None:
    counts = LogCounts()
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, logging.CRITICAL + 5):
        counts.count(level)
    assert counts.by_level == {"warning": 1, "error": 1, "critical": 2}
