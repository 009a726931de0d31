"""What waits for a time is called at that time, and the clock never steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import anyio
import pytest

from runner.engine.clock import LoopClock
from runner.engine.timers import Timers


async def test_the_clock_begins_at_the_wall_clocks_time_and_goes_with_the_loop() -> None:
    before = time.time()
    clock = LoopClock()
    assert before <= clock.now() <= time.time()
    began = clock.now()
    await anyio.sleep(1_000)
    assert clock.now() - began == pytest.approx(1_000)
    assert time.time() - before < 100, "virtual"


async def test_sleeping_until_a_time_ends_at_it() -> None:
    clock = LoopClock(epoch=500.0)
    await clock.sleep_until(512.5)
    assert clock.now() == pytest.approx(512.5, abs=1e-3)
    await clock.sleep_until(400)
    assert clock.now() == pytest.approx(512.5, abs=1e-3)


class Ringing:
    """Timers that run, and when each of them rang."""

    def __init__(self) -> None:
        self.clock = LoopClock(epoch=0.0)
        self.timers = Timers(self.clock)
        self.rang: list[tuple[str, float]] = []

    def note(self, name: str) -> Callable[[], None]:
        return partial(self._note, name)

    def _note(self, name: str) -> None:
        self.rang.append((name, round(self.clock.now(), 2)))


async def test_timers_ring_in_the_order_of_their_times() -> None:
    ringing = Ringing()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ringing.timers.run)
        ringing.timers.at(3, ringing.note("third"))
        ringing.timers.at(1, ringing.note("first"))
        ringing.timers.at(2, ringing.note("second"))
        ringing.timers.at(-5, ringing.note("past"))
        await anyio.sleep(2.5)
        ringing.timers.at(2.6, ringing.note("sooner than the rest"))
        await anyio.sleep(5)
        ringing.timers.at(9, ringing.note("after nothing waited"))
        await anyio.sleep(5)
        tasks.cancel_scope.cancel()
    assert ringing.rang == [
        ("past", 0),
        ("first", 1),
        ("second", 2),
        ("sooner than the rest", 2.6),
        ("third", 3),
        ("after nothing waited", 9),
    ]


async def test_equal_times_ring_in_the_order_of_their_setting() -> None:
    ringing = Ringing()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ringing.timers.run)
        for name in "abc":
            ringing.timers.at(1, ringing.note(name))
        await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    assert [name for name, _ in ringing.rang] == ["a", "b", "c"]


async def test_a_cancelled_timer_does_not_ring_and_may_be_cancelled_again() -> None:
    ringing = Ringing()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ringing.timers.run)
        cancelled = ringing.timers.at(1, ringing.note("cancelled"))
        rung = ringing.timers.at(1, ringing.note("rung"))
        cancelled.cancel()
        cancelled.cancel()
        await anyio.sleep(2)
        assert (cancelled.is_over, rung.is_over) == (True, True)
        rung.cancel()
        tasks.cancel_scope.cancel()
    assert [name for name, _ in ringing.rang] == ["rung"]


async def test_a_timer_may_set_and_cancel_others_while_it_rings() -> None:
    ringing = Ringing()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ringing.timers.run)
        other = ringing.timers.at(1, ringing.note("cancelled by the first"))

        def ring() -> None:
            other.cancel()
            ringing.timers.at(1, ringing.note("at once"))
            ringing.timers.at(2, ringing.note("later"))

        ringing.timers.at(0.5, ring)
        await anyio.sleep(3)
        tasks.cancel_scope.cancel()
    assert ringing.rang == [("at once", 1), ("later", 2)]


async def test_cancelled_timers_do_not_pile_up_until_their_time() -> None:
    ringing = Ringing()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ringing.timers.run)
        ringing.timers.at(300, ringing.note("kept"))
        for _ in range(10_000):
            ringing.timers.at(300, ringing.note("cancelled")).cancel()
        assert len(ringing.timers) < 200
        await anyio.sleep(301)
        assert len(ringing.timers) == 0
        tasks.cancel_scope.cancel()
    assert ringing.rang == [("kept", 300)]


async def test_what_a_callback_raises_ends_the_task_that_runs_the_timers() -> None:
    ringing = Ringing()

    def fail() -> None:
        raise RuntimeError("a defect")

    ringing.timers.at(1, fail)
    with pytest.raises(RuntimeError, match="a defect"):
        await ringing.timers.run()
