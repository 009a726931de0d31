"""A partition pauses at its high marks and resumes at half of the one that paused it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.flow import ByteBudget, Flow, FlowLimits, PauseReason

LIMITS = FlowLimits(records=100, bytes=1_000, ahead=50)


def a_flow(*, budget: ByteBudget | None = None) -> Flow:
    return Flow(LIMITS, ByteBudget(1_000_000) if budget is None else budget)


@pytest.mark.parametrize(
    ("below", "at", "half", "reason"),
    [
        ((99, 1, 0), (100, 1, 0), (50, 1, 0), PauseReason.BUFFER_RECORDS),
        ((1, 999, 0), (1, 1_000, 0), (1, 500, 0), PauseReason.BUFFER_BYTES),
        ((1, 1, 49), (1, 1, 50), (1, 1, 25), PauseReason.MAXIMUM_AHEAD),
    ],
)
def test_each_mark_pauses_and_half_of_it_resumes(
    below: tuple[int, int, int], at: tuple[int, int, int], half: tuple[int, int, int], reason: PauseReason
) -> None:
    flow = a_flow()
    assert not _update(flow, *below)
    assert flow.reason is None
    assert _update(flow, *at)
    assert flow.reason is reason
    assert not _update(flow, *at), "it is paused already"
    above_half = tuple(one + (one != other) for one, other in zip(half, at, strict=True))
    assert not _update(flow, *above_half)
    assert flow.reason is reason
    assert _update(flow, *half)
    assert flow.reason is None


def _update(flow: Flow, records: int, size: int, ahead: int) -> bool:
    return flow.update(records=records, size=size, ahead=ahead)


def test_only_the_mark_that_paused_must_be_low_again() -> None:
    flow = a_flow()
    _update(flow, 100, 1, 1)
    assert not _update(flow, 51, 999, 49)
    assert _update(flow, 50, 999, 49), "a lane that blocks keeps what is settled ahead of it high"
    assert flow.reason is None


def test_a_pause_names_the_mark_that_keeps_it() -> None:
    flow = a_flow()
    told = []
    for records, ahead in [(100, 1), (60, 49), (60, 50), (100, 26), (100, 25)]:
        changed = _update(flow, records, 1, ahead)
        told.append((changed, flow.reason))
    assert told == [
        (True, PauseReason.BUFFER_RECORDS),
        (False, PauseReason.BUFFER_RECORDS),
        (True, PauseReason.MAXIMUM_AHEAD),
        (False, PauseReason.MAXIMUM_AHEAD),
        (True, PauseReason.BUFFER_RECORDS),
    ]


def test_the_full_budget_of_the_process_pauses_who_holds_something() -> None:
    budget = ByteBudget(1_000)
    flow = a_flow(budget=budget)
    budget.used = 999
    assert not _update(flow, 10, 10, 0)
    budget.used = 1_000
    assert _update(flow, 10, 10, 0)
    assert flow.reason is PauseReason.PROCESS_BUFFER
    budget.used = 501
    assert not _update(flow, 10, 10, 0)
    budget.used = 500
    assert _update(flow, 10, 10, 0)


def test_who_holds_nothing_resumes_though_the_budget_is_full() -> None:
    budget = ByteBudget(1_000)
    flow = a_flow(budget=budget)
    budget.used = 5_000
    _update(flow, 10, 10, 0)
    assert _update(flow, 0, 0, 0)
    assert flow.reason is None


@given(st.integers(0, 10_000), st.integers(1, 1_000))
def test_the_budget_never_pauses_who_holds_nothing(used: int, limit: int) -> None:
    budget = ByteBudget(limit)
    budget.used = used
    flow = a_flow(budget=budget)
    assert not _update(flow, 0, 0, 0)
    assert flow.reason is None


situations = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 200), st.integers(0, 20), st.integers(0, 2_000)), max_size=30
)


@given(st.builds(FlowLimits, st.integers(1, 12), st.integers(1, 150), st.integers(1, 12)), situations)
def test_it_pauses_exactly_at_a_mark_and_goes_on_exactly_when_that_mark_is_low(
    limits: FlowLimits, situations: list[tuple[int, int, int, int]]
) -> None:
    budget = ByteBudget(1_000)
    flow = Flow(limits, budget)
    for records, size, ahead, used in situations:
        before = flow.reason
        budget.used = used
        reached = {
            PauseReason.BUFFER_RECORDS: records >= limits.records,
            PauseReason.BUFFER_BYTES: size >= limits.bytes,
            PauseReason.MAXIMUM_AHEAD: ahead >= limits.ahead,
            PauseReason.PROCESS_BUFFER: records > 0 and used >= 1_000,
        }
        low = {
            PauseReason.BUFFER_RECORDS: records <= limits.records // 2,
            PauseReason.BUFFER_BYTES: size <= limits.bytes // 2,
            PauseReason.MAXIMUM_AHEAD: ahead <= limits.ahead // 2,
            PauseReason.PROCESS_BUFFER: records == 0 or used <= 500,
        }
        changed = _update(flow, records, size, ahead)
        assert changed is (flow.reason is not before)
        if reached[PauseReason.MAXIMUM_AHEAD]:
            assert flow.reason is PauseReason.MAXIMUM_AHEAD, "what it holds back is what fills the buffers"
        elif before is not None and not low[before]:
            assert not changed
        elif flow.reason is None:
            assert not any(reached.values())
        else:
            assert reached[flow.reason]
