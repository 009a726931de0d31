"""What is wanted, runs: started, replaced, removed; and what did not change sees nothing."""

from __future__ import annotations

import pytest

from engine_harness.fleet import Fleet
from engine_harness.scripts import hanging_on, slow
from runner.model import MappingState


async def test_an_unchanged_mapping_sees_nothing() -> None:
    fleet = Fleet()
    fleet.fill("same", 50)
    same = fleet.desired("same", script=slow(0.5), batch_size=1)
    async with fleet.running(same, fleet.desired("other")):
        for version in range(2, 22):
            await fleet.pass_time(1)
            fleet.reconcile(fleet.desired("same", script=slow(0.5)), fleet.desired("other", version=version))
        await fleet.pass_time(10)
        assert len(fleet.built["same"]) == 1
        assert len(fleet.built["other"]) == 21
        assert fleet.checkpoint("same") == 50
        assert fleet.observer("same").calls["assigned"] == 1
        assert fleet.observer("same").calls["revoked"] == 0
        assert "same 1 leaves" not in fleet.diary


async def test_a_changed_mapping_is_drained_and_out_before_its_successor_joins() -> None:
    fleet = Fleet()
    fleet.fill("m", 4)
    async with fleet.running(fleet.desired("m", script=slow(3), batch_size=1)):
        await fleet.pass_time(1)
        fleet.reconcile(fleet.desired("m", version=2, batch_size=1))
        assert fleet.told_of("m") == (MappingState.DISABLING, None)
        await fleet.pass_time(20)
        assert fleet.diary == ["m 1 joins", "m 1 leaves", "m 2 joins"]
        assert fleet.checkpoint("m") == 4
    assert len(fleet.functions["m"].calls) == 4, "nothing was repeated"
    assert [repeated for _, repeated in fleet.observer("m").repeated] == [0, 0]


async def test_a_reload_says_what_it_changes() -> None:
    fleet = Fleet()
    desired = fleet.desired
    async with fleet.running(desired("same"), desired("other"), desired("old")):
        changes = fleet.reconcile(desired("new"), desired("same"), desired("other", version=2))
        assert changes == (["new"], ["old"], ["other"])
        assert fleet.reconcile(desired("new"), desired("same"), desired("other", version=2)) == ([], [], [])


async def test_a_removed_mapping_drains_and_is_gone() -> None:
    fleet = Fleet()
    fleet.fill("m", 2)
    async with fleet.running(fleet.desired("m", script=slow(3)), fleet.desired("stays")):
        await fleet.pass_time(1)
        fleet.reconcile(fleet.desired("stays"))
        assert [slot.shown.name for slot in fleet.supervisor.slots] == ["stays", "m"]
        await fleet.pass_time(5)
        assert [slot.shown.name for slot in fleet.supervisor.slots] == ["stays"]
        assert fleet.checkpoint("m") == 2


async def test_a_renamed_mapping_waits_until_its_predecessor_has_left() -> None:
    fleet = Fleet()
    fleet.fill("orders", 4)
    async with fleet.running(fleet.desired("old", script=slow(3), batch_size=1, stream="orders")):
        await fleet.pass_time(1)
        fleet.reconcile(fleet.desired("new", stream="orders", batch_size=1))
        assert fleet.told_of("new") == (MappingState.CREATING, None)
        await fleet.pass_time(10)
        assert fleet.diary == ["old 1 joins", "old 1 leaves", "new 1 joins"]
        assert fleet.checkpoint("orders") == 4
    calls = [*fleet.functions["old"].calls, *fleet.functions["new"].calls]
    assert [call.invocation.records[0].value for call in calls] == [b"0", b"1", b"2", b"3"]


async def test_two_mappings_that_swap_their_groups_wait_for_each_other() -> None:
    fleet = Fleet()
    fleet.fill("one", 2)
    first = fleet.desired("a", script=slow(5), stream="one")
    async with fleet.running(first, fleet.desired("b", stream="two")):
        await fleet.pass_time(1)
        fleet.reconcile(
            fleet.desired("a", version=2, stream="two"),
            fleet.desired("b", version=2, stream="one"),
        )
        await fleet.pass_time(20)
        assert sorted(fleet.diary[:4]) == ["a 1 joins", "a 1 leaves", "b 1 joins", "b 1 leaves"]
        assert sorted(fleet.diary[4:]) == ["a 2 joins", "b 2 joins"]
        assert fleet.checkpoint("one") == 2


async def test_a_mapping_that_comes_back_while_it_drains_is_started_again() -> None:
    fleet = Fleet()
    fleet.fill("m", 4)
    async with fleet.running(fleet.desired("m", script=slow(3), batch_size=1)):
        await fleet.pass_time(1)
        fleet.reconcile()
        await fleet.pass_time(1)
        fleet.reconcile(fleet.desired("m", batch_size=1))
        await fleet.pass_time(20)
        assert fleet.diary == ["m 1 joins", "m 1 leaves", "m 1 joins"]
        assert fleet.checkpoint("m") == 4


async def test_many_reloads_in_a_row_end_with_the_last() -> None:
    fleet = Fleet()
    fleet.fill("m", 10)
    async with fleet.running(fleet.desired("m", script=slow(1), batch_size=1)):
        for version in range(2, 12):
            fleet.reconcile(fleet.desired("m", version=version, batch_size=1))
            await fleet.pass_time(0.1)
        await fleet.pass_time(30)
        assert fleet.diary == ["m 1 joins", "m 1 leaves", "m 11 joins"]
        assert fleet.checkpoint("m") == 10


async def test_disabling_drains_and_enabling_goes_on() -> None:
    fleet = Fleet()
    fleet.fill("m", 4)
    async with fleet.running(fleet.desired("m", script=slow(3), batch_size=1)):
        await fleet.pass_time(1)
        fleet.reconcile(fleet.desired("m", enabled=False))
        await fleet.pass_time(10)
        assert fleet.told_of("m") == (MappingState.DISABLED, None)
        assert fleet.checkpoint("m") == 1
        fleet.reconcile(fleet.desired("m", batch_size=1))
        await fleet.pass_time(20)
        assert fleet.told_of("m") == (MappingState.ENABLED, None)
        assert fleet.checkpoint("m") == 4


async def test_readiness_is_kept_once_it_was_reached() -> None:
    fleet = Fleet()
    fleet.fill("m", 1)
    async with fleet.running(fleet.desired("m", script=slow(5))):
        await fleet.pass_time(1)
        fleet.reconcile(fleet.desired("m", version=2))
        for _ in range(10):
            mapping = fleet.slot("m").mapping
            assert fleet.slot("m").is_ready or (mapping is not None and mapping.source.joined)
            await fleet.pass_time(1)


async def test_a_problem_of_the_old_configuration_is_not_told_of_the_new_one() -> None:
    fleet = Fleet()

    def build() -> None:
        raise RuntimeError("a defect")

    async with fleet.running(fleet.desired("m", build=build)):  # type: ignore[arg-type]
        await fleet.pass_time(1)
        fleet.reconcile(fleet.desired("m", version=2))
        await fleet.pass_time(0)
        await fleet.pass_time(0.1)
        assert fleet.told_of("m") == (MappingState.ENABLED, None)


async def test_once_it_stops_nothing_is_started_any_more() -> None:
    fleet = Fleet()
    fleet.fill("m", 1)
    async with fleet.running(fleet.desired("m", script=slow(5))):
        await fleet.pass_time(1)
        fleet.supervisor.stop()
        fleet.reconcile(fleet.desired("m", version=2), fleet.desired("new"))
        await fleet.pass_time(10)
    assert fleet.diary == ["m 1 joins", "m 1 leaves"]


async def test_what_had_caught_up_is_run_again_when_it_is_changed() -> None:
    fleet = Fleet()
    fleet.fill("done", 1)
    fleet.fill("busy", 30)
    busy = fleet.desired("busy", script=slow(1), batch_size=1, until_caught_up=True)
    async with fleet.running(fleet.desired("done", until_caught_up=True), busy):
        await fleet.pass_time(5)
        assert fleet.slot("done").is_finished
        fleet.fill("done", 1)
        fleet.reconcile(fleet.desired("done", version=2, until_caught_up=True), busy)
        await fleet.pass_time(5)
        assert fleet.checkpoint("done") == 2
        fleet.reconcile(busy)
        assert [slot.shown.name for slot in fleet.supervisor.slots] == ["busy"]


@pytest.mark.parametrize("count", [0, 1])
async def test_without_a_mapping_that_runs_it_waits_for_one(count: int) -> None:
    fleet = Fleet()
    disabled = [fleet.desired(f"m{number}", enabled=False) for number in range(count)]
    async with fleet.running(*disabled):
        await fleet.pass_time(100)
        fleet.fill("new", 2)
        fleet.reconcile(*disabled, fleet.desired("new"))
        await fleet.pass_time(2)
        assert fleet.checkpoint("new") == 2


async def test_stopping_lasts_no_longer_than_the_slowest_drain() -> None:
    fleet = Fleet()
    desired = []
    for number in range(5):
        fleet.fill(f"m{number}", 1)
        desired.append(fleet.desired(f"m{number}", script=hanging_on(b"0"), drain_timeout=4))
    async with fleet.running(*desired):
        await fleet.pass_time(1)
        stopped_at = fleet.clock.now()
    assert fleet.clock.now() - stopped_at == pytest.approx(4, abs=0.05)
