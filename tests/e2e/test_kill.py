"""``kill -9`` of the runner, again and again under load: nothing is lost, and no checkpoint was ever too far."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from e2e_support.configuration import http
from e2e_support.scale import FULL, MINUTE, scaled
from e2e_support.stream import Stream, committed_records, configuration, until_progress
from kafka_harness import oracle, producing
from kafka_harness.behaviour import Behaviour, Fault
from kafka_harness.broker import Broker
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.function_process import FunctionProcess
from kafka_harness.producing import Item
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until_async

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(15 * MINUTE if FULL else 3 * MINUTE)]

_KILLS = 10
_POISON_EVERY = 20
# Prime, so that poison comes to every key in its turn.
_KEYS = 997
_POISON = b'"poison": true'
_CATCH_UP_TIMEOUT = 8 * MINUTE if FULL else MINUTE
_EXIT_TIMEOUT = 15.0


@dataclass(frozen=True)
class _Killing:
    """``records`` to be settled, about ``calls`` for all of them; ``seed`` makes the moments of the kills."""

    records: int
    calls: int
    seed: int


async def test_kills_with_order_by_partition_and_bisect(
    kafka: Broker,
    new_topic: Callable[[], str],
    function: FunctionProcess,
    new_runner: Callable[..., RunnerProcess],
) -> None:
    stream = Stream(kafka, new_topic(), new_topic(), letters_topic=new_topic())
    mapping = stream.mapping(
        ordering="partition",
        batch_size=100,
        maximum_batching_window="20ms",
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=2,
    )
    runner = new_runner(configuration(http(function.url), (stream, mapping)))
    killing = _Killing(records=scaled(20_000, 100_000), calls=scaled(14_000, 70_000), seed=1)
    items = [_failing_twice(item) if n % 50 == 7 else item for n, item in enumerate(_with_poison(killing.records))]
    await _survive(stream, items, function, Behaviour(delay_ms=1), runner, killing, by="partition")


async def test_kills_with_order_by_key_and_partial_failures(
    kafka: Broker,
    new_topic: Callable[[], str],
    function: FunctionProcess,
    new_runner: Callable[..., RunnerProcess],
) -> None:
    stream = Stream(kafka, new_topic(), new_topic(), letters_topic=new_topic())
    mapping = stream.mapping(
        # A member that comes back under its own name does not wait for the end of the killed one's session.
        source={"group_instance_id": "the-same-in-every-life"},
        ordering="key",
        parallelization_factor=16,
        batch_size=20,
        maximum_batching_window="20ms",
        maximum_retry_attempts=3,
        function_response_types=["report_batch_item_failures"],
    )
    runner = new_runner(configuration(http(function.url), (stream, mapping)))
    killing = _Killing(records=scaled(20_000, 100_000), calls=scaled(5_000, 25_000), seed=2)
    behaviour = Behaviour(
        delay_ms=20,
        poison="report",
        faults=[Fault(rate=0.01), Fault(rate=0.005, kind="reset"), Fault(rate=0.01, status=429, retry_after=0.01)],
    )
    await _survive(stream, _with_poison(killing.records), function, behaviour, runner, killing, by="key")


async def _survive(
    stream: Stream,
    items: Sequence[Item],
    function: FunctionProcess,
    behaviour: Behaviour,
    runner: RunnerProcess,
    killing: _Killing,
    *,
    by: oracle.Unit,
) -> None:
    await stream.create()
    await stream.produce(items)
    await function.start(behaviour)
    began = time.monotonic()
    async with stream.watch() as watch:
        await _kill_repeatedly(stream, runner, function, watch, killing)
        await runner.start()
        await stream.caught_up(watch, timeout=_CATCH_UP_TIMEOUT)
        await runner.stop_cleanly(_EXIT_TIMEOUT)
    calls = function.calls()
    letters = await stream.assert_promises(watch, calls, by=by, poison=_POISON)
    again = oracle.duplicates(calls)
    stored = {oracle.origin_of(letter) for letter in letters}
    print(
        f"order by {by}: {killing.records} records, {_KILLS} kills, {len(calls)} calls, {len(watch.observations)} "
        f"commits seen, {len(again)} records handled again, {len(stored)} dead-lettered "
        f"({len(letters) - len(stored)} of them again), {time.monotonic() - began:.0f} s"
    )


async def _kill_repeatedly(
    stream: Stream, runner: RunnerProcess, function: FunctionProcess, watch: CommitWatch, killing: _Killing
) -> None:
    """Each life has committed before it is killed, some random number of calls later, in the middle of its work."""
    chooser = random.Random(killing.seed)
    longest = killing.calls // (_KILLS + 5)
    for _life in range(_KILLS):
        # Not what the watch saw last: the life before may have committed since.
        before = await stream.committed()
        runner.launch()
        await until_progress(watch, runner, beyond=before)
        await _until_calls(function, (await function.status()).calls + chooser.randrange(longest))
        runner.kill()
        assert committed_records(watch) < killing.records, "the work ended before the runner was killed"


async def _until_calls(function: FunctionProcess, number: int) -> None:
    async def reached() -> bool:
        return (await function.status()).calls >= number

    await until_async(reached, what=f"{number} calls have ended", every=0.005)


def _with_poison(records: int) -> list[Item]:
    return producing.numbered(records, keys=_KEYS, poison_every=_POISON_EVERY)


def _failing_twice(item: Item) -> Item:
    return item._replace(value=b'{"poison": 2}')
