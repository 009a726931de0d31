"""``async def`` handlers that swallow their cancellation: cancelled once, then left behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import anyio
import pytest

from runner.functions import left_behind, tasks
from runner.functions.python import PythonFunction
from runner.model import ErrorKind, Failed, Invocation, Outcome, Succeeded

NewInvocation = Callable[..., Invocation]
OpenPython = Callable[..., Awaitable[PythonFunction]]

RESISTING = """
    import asyncio
    STARTED, SWALLOWED, RELEASE = asyncio.Event(), asyncio.Event(), asyncio.Event()
    CANCELLED = 0
    async def handle(records, context):
        global CANCELLED, TASK
        TASK = asyncio.current_task()
        STARTED.set()
        while not RELEASE.is_set():
            try:
                await RELEASE.wait()
            except asyncio.CancelledError:
                CANCELLED += 1
                SWALLOWED.set()
        {ending}
"""


def _module(function: PythonFunction) -> ModuleType:
    return sys.modules[function._handler_name.partition(":")[0]]


async def _release(module: ModuleType) -> None:
    """The handler returns; then nothing is left behind any more."""
    module.RELEASE.set()
    await asyncio.wait({module.TASK})
    assert left_behind.count() == 0


@pytest.mark.parametrize("ending", ["return None", "raise ValueError"])
async def test_it_is_cancelled_once_and_left_behind_when_its_result_no_longer_counts(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(tasks, "LEAVE_SECONDS", 0.05)
    function = await open_python(RESISTING.format(ending=ending))
    module = _module(function)
    outcomes: list[Outcome] = []

    async def call() -> None:
        outcomes.append(await function.invoke(new_invocation()))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await module.STARTED.wait()
        group.cancel_scope.cancel()
    assert outcomes == []
    assert module.CANCELLED == 1
    assert left_behind.count() == 1
    await function.close()
    await _release(module)
    assert overdue.invocations == []


async def test_after_its_timeout_it_keeps_its_invocation_until_that_is_cancelled_too(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LEAVE_SECONDS", 0.05)
    function = await open_python(RESISTING.format(ending="return None"), timeout=0.05)
    module = _module(function)
    invocation = new_invocation()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(function.invoke, invocation)
            await overdue.heard.wait()
            assert (module.CANCELLED, left_behind.count()) == (1, 0)
            scope.cancel()
    assert (module.CANCELLED, left_behind.count()) == (2, 1)
    assert overdue.invocations == [invocation]
    await _release(module)


async def test_one_that_unwinds_in_time_is_awaited(
    open_python: OpenPython, new_invocation: NewInvocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LEAVE_SECONDS", 60.0)
    function = await open_python("""
        import asyncio
        STARTED = asyncio.Event()
        UNWOUND = False
        async def handle(records, context):
            global UNWOUND
            STARTED.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                UNWOUND = True
    """)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    await _module(function).STARTED.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert _module(function).UNWOUND
    assert left_behind.count() == 0


async def test_a_second_cancellation_of_the_invocation_leaves_it_behind_at_once(
    open_python: OpenPython, new_invocation: NewInvocation
) -> None:
    function = await open_python(RESISTING.format(ending="return None"))
    module = _module(function)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    await module.STARTED.wait()
    call.cancel()
    await module.SWALLOWED.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert left_behind.count() == 1
    await _release(module)


async def test_a_handler_that_cancels_its_own_task_fails_and_takes_nothing_else_with_it(
    open_python: OpenPython, new_invocation: NewInvocation
) -> None:
    function = await open_python("""
        import asyncio
        async def handle(records, context):
            asyncio.current_task().cancel()
    """)
    outcome = await function.invoke(new_invocation())
    assert isinstance(outcome, Failed)
    assert (outcome.error.kind, outcome.error.type) == (ErrorKind.ERROR, "CancelledError")


async def test_its_cancel_scopes_and_timeouts_are_its_own(
    open_python: OpenPython, new_invocation: NewInvocation
) -> None:
    function = await open_python("""
        import asyncio, anyio
        async def handle(records, context):
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                return
            raise AssertionError
    """)
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
