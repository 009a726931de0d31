"""What a running process says about its mappings, looked up by name."""

from __future__ import annotations

from typing import Any

from kafka_harness.runner_process import RunnerProcess
from kafka_harness.scrape import Scrape
from kafka_harness.waiting import until_async


async def mapping_view(runner: RunnerProcess, name: str) -> dict[str, Any]:
    """The mapping's entry in ``/mappings``. Raises LookupError when there is none."""
    shown = await runner.mappings()
    for view in shown["mappings"]:
        if view["mapping"] == name:
            found: dict[str, Any] = view
            return found
    raise LookupError(f"{runner.name} shows no mapping {name!r}")


async def problem_reason(runner: RunnerProcess, name: str) -> str | None:
    """The reason of the mapping's problem; None while it has none."""
    return _reason_in(await mapping_view(runner, name))


async def until_problem(
    runner: RunnerProcess, name: str, reason: str | None, *, timeout: float = 30.0
) -> dict[str, Any]:
    """Wait until the mapping has a problem with this reason, or none where it is None; returns its entry as it was
    then. Raises TimeoutError."""

    async def shown() -> dict[str, Any] | None:
        view = await mapping_view(runner, name)
        return view if _reason_in(view) == reason else None

    what = f"{runner.name} shows {reason or 'no problem'} for {name}"
    view = await until_async(shown, what=what, timeout=timeout)
    assert view is not None
    return view


async def waiting_for(runner: RunnerProcess, name: str, partition: int) -> str:
    """In words what the lanes of a partition wait for; empty while the partition is not assigned."""
    view = await mapping_view(runner, name)
    return next((str(each["waiting_for"] or "") for each in view["partitions"] if each["partition"] == partition), "")


def _reason_in(view: dict[str, Any]) -> str | None:
    problem = view["problem"]
    return None if problem is None else str(problem["reason"])


def lag_seconds(scrape: Scrape, mapping: str) -> dict[int, float]:
    """The lag of each partition of a mapping of one topic that has one, in seconds."""
    samples = scrape.matching("stream_runner_lag_seconds", mapping=mapping)
    return {int(sample.labels["partition"]): sample.value for sample in samples}


def lag_records(scrape: Scrape, mapping: str) -> dict[int, int]:
    """As ``lag_seconds``, in records."""
    samples = scrape.matching("stream_runner_lag_records", mapping=mapping)
    return {int(sample.labels["partition"]): int(sample.value) for sample in samples}
