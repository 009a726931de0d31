"""What acts after its time: a runner that was frozen until its partitions had another owner, a handler that stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

import e2e_support
from e2e_support import stuck_handler
from e2e_support.configuration import SESSION_TIMEOUT, http, python
from e2e_support.load import Load
from e2e_support.looking import mapping_view
from e2e_support.process_fixtures import NewRunner
from e2e_support.scale import MINUTE
from e2e_support.stream import (
    PARTITIONS,
    Stream,
    announced,
    configuration,
    metric,
    repeated,
    until_assigned,
    until_metric,
    until_progress,
)
from kafka_harness import oracle, producing
from kafka_harness.behaviour import Behaviour
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, JournalReader, key_id
from kafka_harness.runner_process import REPOSITORY, RunnerProcess
from kafka_harness.waiting import until, until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(3 * MINUTE)]

_SESSION_SECONDS: Final = float(SESSION_TIMEOUT.removesuffix("s"))
_FROZEN_SECONDS: Final = 2 * _SESSION_SECONDS
_KEYS = 101
_BATCH = 20
_DRAIN_TIMEOUT: Final = 4.0
_COMMIT_TIMEOUT: Final = 3.0
_TIMES: Final[Mapping[str, Any]] = {
    "drain_timeout": f"{_DRAIN_TIMEOUT:g}s",
    "commit_timeout": f"{_COMMIT_TIMEOUT:g}s",
    "maximum_batching_window": "20ms",
}
_EXIT_TIMEOUT = 15.0
_STUCK_KEY = b"key-17"
_TESTS = Path(e2e_support.__file__).parent.parent


async def test_what_a_frozen_runner_learns_too_late_moves_no_checkpoint(
    stream: Stream, function: FunctionProcess, new_runner: NewRunner
) -> None:
    mapping = stream.mapping(ordering="partition", batch_size=_BATCH, **_TIMES)
    config = configuration(http(function.url, timeout="30s"), (stream, mapping))
    zombie, other = new_runner(config, name="zombie"), new_runner(config, name="other")
    await stream.create()
    await function.start(Behaviour(delay_ms=20))
    async with stream.watch() as watch:
        async with Load(stream, watch, backlog=4_000, keys=_KEYS):
            await asyncio.gather(zombie.start(), other.start())
            await until_assigned({zombie: PARTITIONS // 2, other: PARTITIONS // 2})
            await until_progress(watch, zombie, beyond=PARTITIONS * _BATCH)
            late = await _freeze_with_calls_in_flight(zombie, function, watch, stream.group)
            frozen_at = time.monotonic()
            await until_assigned({other: PARTITIONS})
            await _until_passed(watch, late)
            # This is how long the fault lasts, whatever the others have done by now.
            await asyncio.sleep(max(0.0, frozen_at + _FROZEN_SECONDS - time.monotonic()))
            zombie.resume()
            late_records = sum(len(call.offsets) for call in late)
            await until_metric(zombie, "stale_records_total", least=late_records)
            await until_assigned({zombie: PARTITIONS // 2, other: PARTITIONS // 2}, timeout=MINUTE)
        await stream.caught_up(watch)
        assert await metric(other, "stale_records_total") == 0
        for runner in (zombie, other):
            await runner.stop_cleanly(_EXIT_TIMEOUT)
    calls = function.calls()
    await stream.assert_promises(watch, calls, by="partition")
    watch.assert_never_back()
    again = oracle.duplicates(calls)
    assert set(again) == {(call.partition, offset) for call in late for offset in call.offsets}
    print(f"frozen runner: {len(stream.placed)} records, {len(again)} handled again, all of them late results")


async def test_a_handler_that_never_returns_keeps_its_key_and_not_the_process(
    stream: Stream, new_runner: NewRunner, tmp_path: Path
) -> None:
    mapping = stream.mapping(
        ordering="key",
        parallelization_factor=4,
        batch_size=5,
        **_TIMES,
    )
    # Long enough that no other call is overdue when the machine is busy.
    config = configuration(python(f"{stuck_handler.__name__}:handle", timeout="4s"), (stream, mapping))
    journal_file = tmp_path / "handler.journal"
    environment = {
        stuck_handler.JOURNAL_VARIABLE: str(journal_file),
        "PYTHONPATH": f"{REPOSITORY}:{_TESTS}",
    }
    journal = JournalReader(journal_file)
    stuck = new_runner(
        config, name="stuck", environment={**environment, stuck_handler.KEY_VARIABLE: _STUCK_KEY.decode()}
    )
    await stream.create()
    await stream.produce(producing.numbered(2_000, keys=_KEYS))
    async with stream.watch() as watch:
        await stuck.start()
        await until_metric(stuck, "invocations_overdue_total", least=1)
        # While these are handled, the lane of the stuck call goes on waiting.
        await stream.produce(producing.numbered(2_000, keys=_KEYS, start=2_000))
        await _until_only_one_lane_waits(stuck, stream)
        before = journal.calls()
        began = time.monotonic()
        await stuck.stop_cleanly(_DRAIN_TIMEOUT + _COMMIT_TIMEOUT)
        assert time.monotonic() - began >= _DRAIN_TIMEOUT / 2, "the call that hangs was not waited for"
        first_life = journal.calls()
        assert first_life == before
        assert sum(key_id(_STUCK_KEY) in call.keys for call in first_life) == 1
        oracle.assert_no_overlap(first_life, by="key")

        healthy = new_runner(config, name="healthy", environment=environment)
        await healthy.start()
        await stream.caught_up(watch)
        await healthy.stop_cleanly(_EXIT_TIMEOUT)
    ended = [call for call in journal.calls() if call.end_ns != stuck_handler.NEVER_NS]
    await stream.assert_promises(watch, ended, by="key")
    assert repeated(ended) == announced(stuck)
    assert announced(healthy) == {}


async def _freeze_with_calls_in_flight(
    runner: RunnerProcess, function: FunctionProcess, watch: CommitWatch, mapping: str
) -> list[Call]:
    """SIGSTOP while a call of each partition is in the function, which then answers: the late results.

    Everything that was settled before is committed.
    """
    await function.behave(Behaviour(hang=True))
    await function.until_held(PARTITIONS)
    owned: set[str] = set()

    async def all_committed() -> bool:
        shown = (await mapping_view(runner, mapping))["partitions"]
        owned.update(f"{each['topic']}-{each['partition']}" for each in shown)
        return all(watch.newest.get(f"{each['topic']}-{each['partition']}") == each["checkpoint"] for each in shown)

    await until_async(all_committed, what="everything that was settled is committed")
    assert len(owned) == PARTITIONS // 2
    known = len(function.calls())
    runner.pause()
    await function.behave(Behaviour(delay_ms=20))

    def late() -> list[Call]:
        found = {call.partition: call for call in reversed(function.calls()[known:]) if call.partition in owned}
        return list(found.values()) if len(found) == len(owned) else []

    return await until(late, what="the calls of the frozen runner are answered", timeout=_SESSION_SECONDS / 2)


async def _until_passed(watch: CommitWatch, calls: Collection[Call]) -> None:
    """Wait until the other owner has committed beyond these calls: committing them now would go back."""

    def passed() -> bool:
        return all(watch.newest[call.partition] > call.offsets[-1] for call in calls)

    await until(passed, what="the late results are behind the checkpoints")


async def _until_only_one_lane_waits(runner: RunnerProcess, stream: Stream) -> None:
    async def only_one() -> bool:
        shown = (await mapping_view(runner, stream.group))["partitions"]
        waiting = [partition["waiting_for"] for partition in shown if partition["waiting_for"]]
        fetched = sum(partition["checkpoint"] or 0 for partition in shown if not partition["waiting_for"])
        stuck = [partition["partition"] for partition in shown if partition["waiting_for"]]
        expected = sum(placed.partition not in stuck for placed in stream.placed)
        return waiting == ["1 lane waits for the function"] and fetched == expected

    await until_async(only_one, what="only the lane of the stuck call waits")
