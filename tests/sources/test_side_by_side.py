"""Works side by side: who ends first ends all, who fails is heard, and a cancellation takes nothing else with it."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from runner.model import Problem, Reason
from runner.sources.side_by_side import all_to_end, first_to_end, spawn


class Work:
    """Runs until it is told to end, or to fail."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ends = asyncio.Event()
        self.failure: Exception | None = None
        self.was_cancelled = False

    async def run(self) -> None:
        self.begun.set()
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.failure is not None:
            raise self.failure

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self.ends.set()


async def test_when_one_ends_the_others_are_cancelled() -> None:
    one, other = Work(), Work()
    async with anyio.create_task_group() as group:
        group.start_soon(first_to_end, one.run(), other.run())
        await other.begun.wait()
        one.ends.set()
    assert (one.was_cancelled, other.was_cancelled) == (False, True)


async def test_what_the_first_of_them_raises_is_raised() -> None:
    works = [Work() for _ in range(3)]
    works[2].fail(ValueError("second"))
    works[1].fail(KeyError("first"))
    with pytest.raises(KeyError):
        await first_to_end(*[work.run() for work in works])
    assert works[0].was_cancelled


async def test_cut_off_it_cancels_all_and_nobody_else() -> None:
    one, other = Work(), Work()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(first_to_end, one.run(), other.run())
            await other.begun.wait()
            one.ends.set()  # in the same turn
            scope.cancel()
    assert scope.cancelled_caught
    assert other.was_cancelled
    await asyncio.sleep(0)  # a stray cancellation would arrive here


async def test_who_fails_as_expected_keeps_nobody_from_his_end() -> None:
    failing, other = Work(), Work()
    failing.fail(OSError("expected"))
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await all_to_end([failing.run(), other.run()], expected=(OSError,))

        group.start_soon(run)
        await other.begun.wait()
        other.ends.set()
    assert not other.was_cancelled


async def test_a_task_that_fails_is_what_ends_its_source() -> None:
    told: list[Problem] = []
    failing, ending, cut_off = Work(), Work(), Work()
    tasks = [spawn(work.run(), told.append) for work in (failing, ending, cut_off)]
    await cut_off.begun.wait()
    failing.fail(ZeroDivisionError("unheard of"))
    ending.ends.set()
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await asyncio.sleep(0)  # what is done when a task has ended comes after it
    (problem,) = told
    assert problem.reason is Reason.INTERNAL_ERROR
    assert "unheard of" in problem.text
