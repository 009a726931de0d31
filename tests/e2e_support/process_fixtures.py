"""Fixtures for functions and runners that are processes: they end with their test, and show why it failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from e2e_support.configuration import http, process
from kafka_harness.function_process import FunctionProcess
from kafka_harness.runner_process import RunnerProcess

NewRunner: TypeAlias = Callable[..., RunnerProcess]
"""Takes a configuration, and by keyword what else a ``RunnerProcess`` does."""

RunMappings: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[RunnerProcess]]

_SHOWN_CALLS = 3


@pytest.fixture
def new_function(tmp_path: Path, failed: Callable[[], bool]) -> Iterator[Callable[[], FunctionProcess]]:
    """Builds functions, which the test starts with the behaviour it wants."""
    functions: list[FunctionProcess] = []

    def build() -> FunctionProcess:
        function = FunctionProcess(tmp_path, name=f"function-{len(functions) + 1}")
        functions.append(function)
        return function

    yield build
    for function in functions:
        function.stop()
        if failed():
            calls = function.calls()
            print(f"{len(calls)} calls of {function.url} were journaled; the last: {calls[-_SHOWN_CALLS:]}")


@pytest.fixture
def function(new_function: Callable[[], FunctionProcess]) -> FunctionProcess:
    """The one function of a test that needs no other."""
    return new_function()


@pytest.fixture
def new_runner(tmp_path: Path, failed: Callable[[], bool]) -> Iterator[NewRunner]:
    """Builds runners, which the test starts."""
    runners: list[RunnerProcess] = []

    def build(config: Mapping[str, Any], **options: Any) -> RunnerProcess:
        options.setdefault("name", f"runner-{len(runners) + 1}")
        runner = RunnerProcess(config, directory=tmp_path, **options)
        runners.append(runner)
        return runner

    yield build
    for runner in runners:
        runner.kill()
        if failed():
            print(runner.process.output())


@pytest.fixture
def run_mappings(function: FunctionProcess, new_runner: NewRunner) -> RunMappings:
    """Starts the function, and a runner of the given mappings, which call it ``function``; returns it when ready."""

    async def run(mappings: Mapping[str, Any]) -> RunnerProcess:
        await function.start()
        runner = new_runner(process({"function": http(function.url)}, mappings))
        await runner.start()
        return runner

    return run
