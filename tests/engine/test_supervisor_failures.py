"""One failing mapping takes no other down, says what its problem is, and is started again with backoff."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable

import anyio
import pytest

from engine_harness.fleet import Fleet
from engine_harness.scripts import slow
from runner.engine.mapping import Mapping
from runner.model import SUCCEEDED, Invocation, MappingState, Outcome, Problem, Reason
from runner.ports import FunctionNotValid, SourceError

GONE = Problem(Reason.EVENT_SOURCE_NOT_FOUND, "no topic 'ordres'", "did you mean 'orders'?")


def failing_to_open(fleet: Fleet, name: str, error: Exception, times: list[float], successes_after: int) -> None:
    """The source of ``name`` fails to open, ``successes_after`` times."""
    stream = fleet.stream(name)

    class Failing(type(fleet.world.source())):  # type: ignore[misc]
        async def open(self, listener: object) -> None:
            times.append(fleet.clock.now())
            if len(times) <= successes_after:
                raise error
            await super().open(listener)

    fleet.world.source = lambda **options: Failing(stream, now=fleet.clock.now)  # type: ignore[method-assign]


async def test_a_source_that_cannot_be_opened_is_a_problem_until_it_can_and_others_go_on() -> None:
    fleet = Fleet()
    fleet.fill("good", 3)
    fleet.fill("bad", 3)
    times: list[float] = []
    failing_to_open(fleet, "bad", SourceError(GONE), times, successes_after=4)
    bad = fleet.desired("bad", build=lambda: fleet.world.mapping(observer=fleet.observer("bad"), name="bad"))
    async with fleet.running(fleet.desired("good"), bad):
        await fleet.pass_time(0.3)
        assert fleet.told_of("bad") == (MappingState.PROBLEM, Reason.EVENT_SOURCE_NOT_FOUND)
        assert fleet.slot("bad").current_problem == GONE
        assert fleet.slot("bad").is_ready, "a problem is for people to see, not for the probe"
        await fleet.pass_time(2)
        assert fleet.checkpoint("good") == 3
        assert fleet.told_of("good") == (MappingState.ENABLED, None)
        await fleet.pass_time(10)
        assert fleet.told_of("bad") == (MappingState.ENABLED, None)
        assert fleet.checkpoint("bad") == 3
    waits = [round(later - earlier, 2) for earlier, later in itertools.pairwise(times)]
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert fleet.observer("bad").states[0] == (MappingState.PROBLEM, GONE)
    assert fleet.observer("bad").crashes == []


async def test_a_problem_is_told_while_the_next_try_is_under_way() -> None:
    fleet = Fleet()
    times: list[float] = []
    failing_to_open(fleet, "bad", SourceError(GONE), times, successes_after=1)
    function = fleet.world.function()

    async def open_slowly() -> None:
        await anyio.sleep(5)

    function.open = open_slowly  # type: ignore[method-assign]
    bad = fleet.desired("bad", build=lambda: fleet.world.mapping(function=function, name="bad"))
    async with fleet.running(bad):
        assert fleet.told_of("bad") == (MappingState.CREATING, None)
        await fleet.pass_time(6)
        assert fleet.slot("bad").mapping is not None
        assert fleet.told_of("bad") == (MappingState.PROBLEM, Reason.EVENT_SOURCE_NOT_FOUND)
        await fleet.pass_time(6)
        assert fleet.told_of("bad") == (MappingState.ENABLED, None)


async def test_a_source_that_fails_while_it_runs_is_opened_again() -> None:
    fleet = Fleet()
    fleet.fill("m", 2)
    async with fleet.running(fleet.desired("m", script=slow(0.5), batch_size=1)):
        await fleet.pass_time(0.2)
        [first] = fleet.built["m"]
        first.source.fetch_faults.append(SourceError(GONE))  # type: ignore[attr-defined]
        fleet.fill("m", 1)
        await fleet.pass_time(0.5)
        assert fleet.told_of("m") == (MappingState.PROBLEM, Reason.EVENT_SOURCE_NOT_FOUND)
        await fleet.pass_time(10)
        assert len(fleet.built["m"]) == 2
        assert fleet.checkpoint("m") == 3
        assert fleet.told_of("m") == (MappingState.ENABLED, None)
    assert [len(call.invocation.records) for call in fleet.functions["m"].calls] == [1, 1, 1]


async def test_a_function_that_cannot_be_built_is_a_problem() -> None:
    fleet = Fleet()

    def build() -> Mapping:
        raise FunctionNotValid("no module named 'team'")

    async with fleet.running(fleet.desired("m", build=build)):
        await fleet.pass_time(0.1)
        assert fleet.told_of("m") == (MappingState.PROBLEM, Reason.FUNCTION_CONFIG_NOT_VALID)
    assert fleet.observer("m").crashes == []


async def test_a_defect_of_an_adapter_is_reported_and_the_mapping_restarted() -> None:
    fleet = Fleet()
    fleet.fill("m", 3)
    fleet.fill("good", 30)
    calls = 0

    def script(_invocation: Invocation) -> Outcome | Awaitable[Outcome]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError("a defect")
        return SUCCEEDED

    good = fleet.desired("good", script=slow(0.2), batch_size=1)
    async with fleet.running(fleet.desired("m", script=script), good):
        await fleet.pass_time(0.1)
        assert fleet.told_of("m") == (MappingState.PROBLEM, Reason.INTERNAL_ERROR)
        problem = fleet.slot("m").current_problem
        assert problem is not None
        assert "a defect" in problem.text
        [traceback] = fleet.observer("m").crashes
        assert "ZeroDivisionError: a defect" in traceback
        await fleet.pass_time(10)
        assert fleet.checkpoint("m") == 3
        assert fleet.checkpoint("good") == 30
        assert len(fleet.built["good"]) == 1
    assert fleet.world.permits.in_use == 0
    assert fleet.world.budget.used == 0


async def test_after_a_minute_of_health_the_backoff_begins_anew() -> None:
    fleet = Fleet()
    failures: list[float] = []

    def break_it() -> None:
        fleet.built["m"][-1].source.fetch_faults.append(SourceError(GONE))  # type: ignore[attr-defined]
        failures.append(fleet.clock.now())

    async with fleet.running(fleet.desired("m")):
        for seconds in (1, 8, 8, 100):
            break_it()
            await fleet.pass_time(seconds)
        restarts = len(fleet.built["m"])
        break_it()
        await fleet.pass_time(2)
        assert len(fleet.built["m"]) == restarts + 1, "0.5 s and the turn of a fetch"


async def test_a_mapping_in_its_backoff_stops_at_once() -> None:
    fleet = Fleet()

    def build() -> Mapping:
        raise SourceError(GONE)

    async with fleet.running(fleet.desired("m", build=build)):
        await fleet.pass_time(60)
        stopped_at = fleet.clock.now()
    assert fleet.clock.now() - stopped_at < 0.1


@pytest.mark.parametrize("mappings", [1, 3])
async def test_the_supervisor_ends_when_every_mapping_has_caught_up(mappings: int) -> None:
    fleet = Fleet()
    names = [f"m{number}" for number in range(mappings)]
    for name in names:
        fleet.fill(name, 25)
    fleet.reconcile(
        *[fleet.desired(name, script=slow(1), until_caught_up=True) for name in names],
        fleet.desired("off", enabled=False),
    )
    with anyio.fail_after(60):
        await fleet.supervisor.run()
    assert [fleet.checkpoint(name) for name in names] == [25] * mappings
    assert {slot.state for slot in fleet.supervisor.slots} == {MappingState.DISABLED}


async def test_what_cannot_begin_for_a_reason_that_stays_ends_a_run_to_the_end_and_others_finish() -> None:
    fleet = Fleet()
    fleet.fill("good", 5)

    def build() -> Mapping:
        raise SourceError(GONE)

    good = fleet.desired("good", script=slow(2), batch_size=1, until_caught_up=True)
    fleet.reconcile(fleet.desired("bad", build=build, until_caught_up=True), good)
    with anyio.fail_after(60):
        await fleet.supervisor.run()
    assert fleet.checkpoint("good") == 5
    assert fleet.told_of("bad") == (MappingState.PROBLEM, Reason.EVENT_SOURCE_NOT_FOUND)
    assert fleet.observer("bad").not_begun == [(GONE, False)]


async def test_what_cannot_begin_yet_is_tried_again_until_it_has_caught_up() -> None:
    fleet = Fleet()
    fleet.fill("m", 3)
    absent = Problem(Reason.EVENT_SOURCE_UNREACHABLE, "connection refused")
    failures = iter([SourceError(absent), SourceError(absent)])
    desired = fleet.desired("m", until_caught_up=True)

    def build() -> Mapping:
        for failure in failures:
            raise failure
        return desired.build()

    fleet.reconcile(fleet.desired("m", build=build, until_caught_up=True))
    with anyio.fail_after(60):
        await fleet.supervisor.run()
    assert fleet.checkpoint("m") == 3
    assert fleet.observer("m").not_begun == [(absent, True)] * 2
    assert fleet.told_of("m") == (MappingState.DISABLED, None)
