"""Handlers that outlive their timeout, are cancelled, run at once, or hold the event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import anyio
import pytest

from runner.functions import left_behind, steps, tasks
from runner.functions.python import PythonFunction
from runner.model import ErrorKind, Failed, Invocation, Outcome, Succeeded, Throttled

NewInvocation = Callable[..., Invocation]
OpenPython = Callable[..., Awaitable[PythonFunction]]


def _module(function: PythonFunction) -> ModuleType:
    return sys.modules[function._handler_name.partition(":")[0]]


def _failed(outcome: Outcome, kind: ErrorKind) -> str:
    assert isinstance(outcome, Failed), outcome
    assert outcome.error.kind is kind, outcome
    return outcome.error.text


async def test_an_async_handler_is_cancelled_at_its_timeout(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_UNWIND_SECONDS", 60.0)  # it does not resist, however late the loop is
    function = await open_python(
        """
        import asyncio
        async def handle(records, context):
            await asyncio.Event().wait()
    """,
        timeout=0.05,
    )
    assert "0.05 s" in _failed(await function.invoke(new_invocation()), ErrorKind.TIMEOUT)
    assert overdue.invocations == []


@pytest.mark.parametrize("ending", ["return None", "raise ValueError"])
async def test_an_async_handler_that_resists_keeps_its_invocation(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any, ending: str
) -> None:
    function = await open_python(
        f"""
        import asyncio
        async def handle(records, context):
            global RELEASE
            RELEASE = asyncio.Event()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await RELEASE.wait()
                {ending}
    """,
        timeout=0.05,
    )
    invocation = new_invocation()
    call = asyncio.ensure_future(function.invoke(invocation))
    await overdue.heard.wait()
    assert not call.done()
    _module(function).RELEASE.set()
    _failed(await call, ErrorKind.TIMEOUT)
    assert overdue.invocations == [invocation]


async def test_a_def_handler_that_outlives_its_timeout_keeps_its_invocation(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any
) -> None:
    function = await open_python(
        """
        import threading
        RELEASE = threading.Event()
        def handle(records, context):
            RELEASE.wait()
            return "discarded"
    """,
        timeout=0.05,
    )
    invocation = new_invocation()
    call = asyncio.ensure_future(function.invoke(invocation))
    await overdue.heard.wait()
    assert not call.done()
    _module(function).RELEASE.set()
    _failed(await call, ErrorKind.TIMEOUT)
    assert overdue.invocations == [invocation]
    assert left_behind.count() == 0


async def test_a_def_handler_is_left_behind_when_its_invocation_is_cancelled(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any
) -> None:
    function = await open_python("""
        import threading
        STARTED, RELEASE = threading.Event(), threading.Event()
        THREADS = []
        def handle(records, context):
            THREADS.append(threading.current_thread())
            STARTED.set()
            RELEASE.wait()
    """)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    module = _module(function)
    await anyio.to_thread.run_sync(module.STARTED.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert left_behind.count() == 1
    await function.close()
    (thread,) = module.THREADS
    assert thread.daemon
    module.RELEASE.set()
    await anyio.to_thread.run_sync(thread.join)
    assert left_behind.count() == 0
    assert overdue.invocations == []


async def test_an_anyio_scope_cancels_an_async_handler(open_python: OpenPython, new_invocation: NewInvocation) -> None:
    function = await open_python("""
        import asyncio
        async def handle(records, context):
            global STARTED
            STARTED.set()
            await asyncio.Event().wait()
    """)
    started = _module(function).__dict__.setdefault("STARTED", asyncio.Event())
    outcomes: list[Outcome] = []

    async def call() -> None:
        outcomes.append(await function.invoke(new_invocation()))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await started.wait()
        group.cancel_scope.cancel()
    assert outcomes == []


async def test_def_handlers_run_at_once_and_threads_are_used_again(
    open_python: OpenPython, new_invocation: NewInvocation
) -> None:
    function = await open_python("""
        import threading
        TOGETHER = threading.Barrier(3)
        NAMES = []
        def handle(records, context):
            NAMES.append(threading.current_thread().name)
            TOGETHER.wait()
    """)
    for _ in range(3):
        outcomes = await asyncio.gather(*[function.invoke(new_invocation()) for _ in range(3)])
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    names = _module(function).NAMES
    assert len(names) == 9
    assert len(set(names)) == 3
    assert all(name.startswith("function audit-") for name in names)
    assert threading.current_thread().name not in names


async def test_without_a_further_thread_no_attempt_is_used(
    open_python: OpenPython, new_invocation: NewInvocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = await open_python("""
        import threading
        STARTED, RELEASE = threading.Event(), threading.Event()
        def handle(records, context):
            STARTED.set()
            RELEASE.wait()
    """)
    module = _module(function)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    await anyio.to_thread.run_sync(module.STARTED.wait)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcome = await function.invoke(new_invocation())
    assert isinstance(outcome, Throttled)
    assert outcome.error.kind is ErrorKind.UNREACHABLE
    module.RELEASE.set()
    assert isinstance(await call, Succeeded)


async def test_a_handler_that_holds_the_loop_is_reported_once_a_minute(
    open_python: OpenPython,
    new_invocation: NewInvocation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(steps, "BLOCKING_SECONDS", 0.0)
    function = await open_python("async def handle(records, context): pass")
    with caplog.at_level(logging.WARNING, "runner.functions"):
        for _ in range(3):
            await function.invoke(new_invocation())
    (record,) = caplog.records
    assert record.name == "runner.functions"
    assert "handle held the event loop" in record.getMessage()


def test_reports_that_were_held_back_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    report = steps.BlockingReport("team:handle", lambda: now)
    for now in (0.0, 30.0, 59.0, 60.0):  # noqa: B007 - read by the lambda
        report(1.5)
    assert ["0 more" in caplog.messages[0], "2 more" in caplog.messages[1], len(caplog.messages)] == [True, True, 2]
