"""The monitor of the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from runner.telemetry.loop_monitor import LoopMonitor


def test_nothing_measured_is_no_lag() -> None:
    assert LoopMonitor().lag_seconds() == 0.0


def test_the_worst_of_the_window_is_shown_until_it_leaves_it() -> None:
    monitor = LoopMonitor(period=1.0, window=3.0)
    for late in (0.5, 0.1, 0.2):
        monitor.measured(late)
    assert monitor.lag_seconds() == 0.5
    monitor.measured(-0.001)
    assert monitor.lag_seconds() == 0.2


async def test_a_blocked_loop_is_seen_while_the_timer_is_still_overdue() -> None:
    monitor = LoopMonitor(period=0.001)
    task = asyncio.create_task(monitor.run())
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251 - blocking the loop is what this test is about
    assert monitor.lag_seconds() >= 0.04
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_block_is_remembered_and_a_stopped_monitor_is_not_overdue() -> None:
    times = [0.0, 5.0]  # set to sleep at 0.0, awake at 5.0
    slept = asyncio.Event()

    def monotonic() -> float:
        if times:
            return times.pop(0)
        slept.set()
        return 5.0

    monitor = LoopMonitor(period=0.001, monotonic=monotonic)
    task = asyncio.create_task(monitor.run())
    await slept.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert monitor.lag_seconds() == pytest.approx(4.999)
