"""Handlers of leased partitions: they learn the generation, and none starts whose lease is over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from runner.functions.python import PythonFunction
from runner.model import ErrorKind, Failed, Invocation, Lease, Outcome, Record, Succeeded, Throttled

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
OpenPython = Callable[..., Awaitable[PythonFunction]]

NEVER = "{definition} handle(records, context): raise AssertionError"
KINDS = [("async def", "auto"), ("def", "auto"), ("def", "process"), ("async def", "process")]


class SlowRecords(list[Record]):
    """Takes six seconds to go through."""

    def __init__(self, clock: Any, *records: Record) -> None:
        super().__init__(records)
        self._clock = clock

    def __iter__(self) -> Iterator[Record]:
        self._clock.time += 6.0
        return super().__iter__()


def _expired(outcome: Outcome) -> None:
    assert isinstance(outcome, Throttled), outcome
    assert (outcome.error.kind, outcome.error.type) == (ErrorKind.UNREACHABLE, "LeaseExpired")
    assert "orders-0, generation 7" in outcome.error.text
    assert outcome.retry_after is None


@pytest.mark.parametrize(("definition", "executor"), KINDS)
@pytest.mark.parametrize("lease", [None, Lease(2**60, 10.0)])
async def test_the_context_says_the_generation(
    open_python: OpenPython,
    new_invocation: NewInvocation,
    definition: str,
    executor: str,
    lease: Lease | None,
    clock: Any,
) -> None:
    source = f"{definition} handle(records, context): raise LookupError(repr(context.generation))"
    function = await open_python(source, executor=executor, now=clock.now)
    outcome = await function.invoke(new_invocation(lease=lease))
    assert isinstance(outcome, Failed), outcome
    assert outcome.error.text == ("None" if lease is None else str(2**60))


@pytest.mark.parametrize(("definition", "executor"), KINDS)
@pytest.mark.parametrize("until", [0.0, -1.0])
async def test_a_handler_whose_lease_is_over_does_not_start(
    open_python: OpenPython, new_invocation: NewInvocation, definition: str, executor: str, until: float, clock: Any
) -> None:
    function = await open_python(NEVER.format(definition=definition), executor=executor, now=clock.now)
    _expired(await function.invoke(new_invocation(lease=Lease(7, until))))


@pytest.mark.parametrize(("definition", "executor"), KINDS[1:])
async def test_threads_and_processes_look_at_the_lease_themselves(
    open_python: OpenPython, new_invocation: NewInvocation, definition: str, executor: str, clock: Any
) -> None:
    """By the clock the lease lasts one more nanosecond, which is over when the handler is to start there."""
    function = await open_python(NEVER.format(definition=definition), executor=executor, now=clock.now)
    _expired(await function.invoke(new_invocation(lease=Lease(7, 1e-9))))


@pytest.mark.parametrize(("definition", "executor"), KINDS)
async def test_without_a_clock_no_lease_ends(
    open_python: OpenPython, new_invocation: NewInvocation, definition: str, executor: str
) -> None:
    function = await open_python(f"{definition} handle(records, context): pass", executor=executor)
    assert isinstance(await function.invoke(new_invocation(lease=Lease(7, 0.0))), Succeeded)


async def test_a_lease_that_ends_while_the_event_is_made_is_noticed(
    open_python: OpenPython, new_record: NewRecord, new_invocation: NewInvocation, clock: Any
) -> None:
    """Six seconds for the size, six for the event: only a check after both sees the end."""
    function = await open_python(NEVER.format(definition="async def"), now=clock.now)
    invocation = new_invocation(lease=Lease(7, 10.0))
    invocation.records = SlowRecords(clock, new_record())
    _expired(await function.invoke(invocation))
    assert clock.time == 12.0


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many workers as processors, of which only one may be used."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})


@pytest.mark.usefixtures("one_worker")
async def test_a_lease_that_ends_while_it_waits_for_a_worker_is_noticed(
    open_python: OpenPython, new_invocation: NewInvocation, tmp_path: Path, clock: Any
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    function = await open_python(
        f"""
        import pathlib
        def handle(records, context):
            if context.generation == 7:
                pathlib.Path({str(gate)!r}).read_text()
            with open({str(tmp_path / "started")!r}, "a") as started:
                started.write(f"{{context.attempt}} ")
    """,
        executor="process",
        now=clock.now,
    )
    lease = Lease(7, 10.0)
    first = asyncio.ensure_future(function.invoke(new_invocation(lease=lease, attempt=1)))
    second = asyncio.ensure_future(function.invoke(new_invocation(lease=lease, attempt=2)))
    await anyio.wait_all_tasks_blocked()
    clock.time = 10.0
    await asyncio.to_thread(gate.write_text, "go on")
    assert isinstance(await first, Succeeded)
    _expired(await second)
    assert isinstance(await function.invoke(new_invocation(lease=Lease(8, 20.0), attempt=3)), Succeeded)
    assert (tmp_path / "started").read_text() == "1 3 "


@pytest.mark.usefixtures("one_worker")
async def test_a_worker_that_refused_is_used_again(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any, clock: Any
) -> None:
    source = """
        import os
        def handle(records, context): raise LookupError(os.getpid())
    """
    function = await open_python(source, executor="process", now=clock.now)
    before = await function.invoke(new_invocation(lease=Lease(7, 1_000.0)))
    assert isinstance(before, Failed)
    _expired(await function.invoke(new_invocation(lease=Lease(7, 1e-9))))
    worker = int(before.error.text)
    os.kill(worker, signal.SIGSTOP)  # what is over already is not even sent, so that nobody need answer
    _expired(await function.invoke(new_invocation(lease=Lease(7, 0.0))))
    os.kill(worker, signal.SIGCONT)
    after = await function.invoke(new_invocation(lease=Lease(7, 1_000.0)))
    assert isinstance(after, Failed)
    assert before.error.text == after.error.text
    assert overdue.invocations == []
