"""Owners of Redis streams that act after their time: one that was frozen, one that was cut off from the server."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import pytest
from redis.asyncio import Redis

from e2e_support.looking import mapping_view, problem_reason, until_problem
from e2e_support.process_fixtures import NewRunner
from e2e_support.redis_group import (
    HEARTBEAT,
    LEASE,
    STREAMS,
    StreamGroup,
    assert_generations_never_fall,
    generations,
    refused,
    until_owned,
)
from e2e_support.redis_load import PacedLoad
from e2e_support.redis_owners import OwnershipWatch
from e2e_support.scale import MINUTE
from e2e_support.stream import metric, until_metric
from kafka_harness import oracle, producing
from kafka_harness.behaviour import Behaviour
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, entry_id
from kafka_harness.producing import Item
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async
from redis_harness.proxy import Proxy
from redis_harness.server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(2 * MINUTE)]

Unsettled: TypeAlias = dict[str, dict[bytes, int]]
"""By stream: the ids that are pending, with how often each was delivered."""

_FROZEN_SECONDS: Final = 3 * LEASE
_MARGIN: Final = 0.2 * LEASE
_SLACK: Final = 3.0
"""Seconds for a busy machine."""
_TAKEOVER_SECONDS: Final = LEASE + HEARTBEAT + _SLACK
_EXIT_TIMEOUT = 15.0
_HELD = "held"
_POISON = b'{"poison": true}'
# Longer than it takes to freeze a process, and over when it wakes up.
_RETRY_BACKOFF: Final = {"initial": "4s", "maximum": "4s"}


async def test_what_a_frozen_owner_learns_too_late_moves_nothing(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    # Nothing is acknowledged but by the next read, which comes when new entries do, or after two seconds.
    config = group.configuration(
        redis_server.url, function, ordering="partition", retry_backoff=_RETRY_BACKOFF, commit_interval="30s"
    )
    zombie, other = new_runner(config, name="zombie"), new_runner(config, name="other")
    await function.start(Behaviour(fenced=True))
    for stream in group.streams:
        await group.add(client, stream, producing.numbered(20, keys=7))
    async with OwnershipWatch(redis_server, group) as watch:
        await asyncio.gather(zombie.start(), other.start())
        owned = (await until_owned({zombie: STREAMS // 2, other: STREAMS // 2}, group))[zombie]
        await group.until_settled(client, function)

        late, frozen_at = await _freeze_in_the_middle(zombie, function, client, group, owned)
        await function.until_held(len(late), timeout=10.0)
        # This is how long the fault lasts, whatever the other has done by now.
        await asyncio.sleep(max(0.0, frozen_at + _FROZEN_SECONDS - time.monotonic()))
        before = await _pending(client, group)
        let_go = _let_go(zombie)
        zombie.resume()
        # Not that it has none: it soon gets others.
        await until(
            lambda: set(owned) <= {*(_let_go(zombie) - let_go)}, what="it knows that its streams are not its own"
        )
        # All but the one that waits for its retry: there is no result of that.
        assert await metric(zombie, "stale_records_total") >= len(late) - 1
        assert await _pending(client, group) == before, "what came too late moved something"

        await function.behave(Behaviour(poison="accept", fenced=True))
        await until_owned({zombie: STREAMS // 2, other: STREAMS // 2}, group)
        for stream in group.streams:
            await group.add(client, stream, producing.numbered(20, keys=7, start=20))
        await group.until_settled(client, function, acknowledged=False)
        stale = await metric(zombie, "stale_records_total")
        assert await metric(other, "stale_records_total") == 0
        await _stop(zombie, other)
    calls = function.calls()
    await group.assert_promises(client, calls, by="partition")
    assert_generations_never_fall(calls)
    watch.assert_one_owner_at_a_time()
    slowest = max(_takeover(calls, stream, frozen_at).taken_over for stream in late)
    assert slowest < _TAKEOVER_SECONDS
    print(
        f"frozen: taken over after {slowest:.2f} s, {stale:.0f} stale records, {len(refused(calls))} calls refused, "
        f"{len(oracle.duplicates(calls))} entries handled again"
    )


async def test_an_owner_that_is_cut_off_stops_before_another_begins(
    redis_server: RedisServer, client: Redis, group: StreamGroup, function: FunctionProcess, new_runner: NewRunner
) -> None:
    options: dict[str, Any] = {"ordering": "partition", "batch_size": 1}
    await function.start(Behaviour(delay_ms=50, fenced=True))
    # More than can be done in a lease: the owner has enough to go on with.
    for stream in group.streams:
        await group.add(client, stream, producing.numbered(200, keys=7))
    async with Proxy(redis_server.port) as proxy, OwnershipWatch(redis_server, group) as watch:
        cut_off = new_runner(group.configuration(proxy.url, function, **options), name="cut-off")
        other = new_runner(group.configuration(redis_server.url, function, **options), name="other")
        async with PacedLoad(group, client, a_second=10):
            await asyncio.gather(cut_off.start(), other.start())
            owned = (await until_owned({cut_off: STREAMS // 2, other: STREAMS // 2}, group))[cut_off]
            owned_at_ns = time.monotonic_ns()
            places = {f"{stream}-0" for stream in owned}
            await until(
                lambda: places <= {call.partition for call in function.calls() if call.start_ns > owned_at_ns},
                what="there were calls from all its streams",
            )
            await _until_busy(cut_off, group)
            proxy.stall()
            stalled_at = time.monotonic()
            await until_owned({other: STREAMS}, group)
        await function.behave(Behaviour(hang=True, fenced=True))
        await function.until_held(STREAMS, timeout=10.0)
        before = await _all_pending(client, group, function, other)
        await until_async(lambda: problem_reason(cut_off, group.base), what="it shows that it is cut off", timeout=10.0)
        await proxy.resume()
        await until_problem(cut_off, group.base, None, timeout=10.0)
        await until_metric(cut_off, "stale_records_total", least=1)
        assert await _pending(client, group) == before, "what came too late moved something"

        await function.behave(Behaviour(fenced=True))
        await group.until_settled(client, function)
        await until_owned({cut_off: STREAMS // 2, other: STREAMS // 2}, group)
        await _stop(cut_off, other)
    calls = function.calls()
    await group.assert_promises(client, calls, by="partition")
    assert_generations_never_fall(calls)
    assert refused(calls) == []
    watch.assert_one_owner_at_a_time()
    takeovers = [_takeover(calls, stream, stalled_at) for stream in owned]
    for takeover in takeovers:
        assert 0 < takeover.last_before < min(takeover.taken_over, LEASE - _MARGIN / 2), "it did not stop by itself"
    print(
        f"cut off: went on for {max(each.last_before for each in takeovers):.2f} s, taken over after "
        f"{min(each.taken_over for each in takeovers):.2f} s, {len(oracle.duplicates(calls))} entries handled again"
    )


async def _freeze_in_the_middle(
    runner: RunnerProcess, function: FunctionProcess, client: Redis, group: StreamGroup, owned: Sequence[str]
) -> tuple[list[str], float]:
    """SIGSTOP with an entry in flight in the first stream, one that waits for its retry in the second, and one that is
    settled and not acknowledged in at least one of the others. Returns these streams, and when that was.

    The call in flight is answered while its caller is frozen; all that are made from then on are held.
    """
    await function.behave(Behaviour(hang_keys=[_HELD], fenced=True))
    in_flight, waiting, *settled = owned
    await group.add(client, in_flight, [Item(b"{}", _HELD.encode())])
    await group.add(client, waiting, [Item(_POISON, b"key")])

    async def all_as_wanted() -> bool:
        shown = {each["topic"]: each for each in (await mapping_view(runner, group.base))["partitions"]}
        answered = {each.origin for each in group.placed[-len(settled) :]}
        return (
            (await function.status()).held == 1
            and "its next attempt" in str(shown[waiting]["waiting_for"])
            and not any(shown[stream]["unsettled_records"] for stream in settled)
            and answered <= set(oracle.handled_at(function.calls()))
        )

    while True:
        for stream in settled:
            await group.add(client, stream, [Item(b"{}", b"key")])
        await until_async(all_as_wanted, what="entries are in flight, wait for a retry, and are settled", every=0.01)
        frozen_at = time.monotonic()
        runner.pause()
        pending = await _pending(client, group)
        if not pending.keys().isdisjoint(settled):
            break
        runner.resume()  # what was settled was acknowledged just before
    assert {in_flight, waiting} <= set(pending) <= set(owned)
    await function.behave(Behaviour(fenced=True))
    (held,) = [each.origin for each in group.placed if each.key == _HELD.encode()]
    await until(
        lambda: held in oracle.handled_at(function.calls()), what="the call in flight is answered", timeout=LEASE / 2
    )
    await function.behave(Behaviour(hang=True, fenced=True))
    return sorted(pending), frozen_at


def _let_go(runner: RunnerProcess) -> Counter[str]:
    """How often the runner has said of each stream that it is not its own any more."""
    said = [line["partitions"] for line in runner.logs() if line["event"] == "partitions revoked"]
    return Counter(itertools.chain.from_iterable(said))


async def _pending(client: Redis, group: StreamGroup) -> Unsettled:
    found = await group.pending(client)
    return {stream: {entry.id: entry.deliveries for entry in entries} for stream, entries in found.items()}


async def _all_pending(client: Redis, group: StreamGroup, function: FunctionProcess, owner: RunnerProcess) -> Unsettled:
    """What is pending once ``owner``, to whom all streams belong, has read all that is left and acknowledged all that
    it has settled."""

    async def stable() -> Unsettled | None:
        shown = (await mapping_view(owner, group.base))["partitions"]
        handled = set(oracle.handled_at(function.calls()))
        found = await _pending(client, group)
        ids = {(f"{stream}-0", id_) for stream, entries in found.items() for id_ in entries}
        left = {(each.origin[0], entry_id(each.offset).encode()) for each in group.placed if each.origin not in handled}
        return found if left <= ids and len(ids) == sum(each["unsettled_records"] for each in shown) else None

    found = await until_async(stable, what="all that is left is pending", timeout=10.0)
    assert found is not None
    return found


async def _until_busy(runner: RunnerProcess, group: StreamGroup) -> None:
    """Wait until the runner has a call of every one of its streams in flight, and more to do there."""

    async def busy() -> bool:
        view = await mapping_view(runner, group.base)
        shown = view["partitions"]
        return bool(view["inflight"] == len(shown) and min(each["unsettled_records"] for each in shown) > 40)

    await until_async(busy, what=f"{runner.name} is busy with all its streams", timeout=10.0, every=0.01)


async def _stop(*runners: RunnerProcess) -> None:
    for runner in runners:
        await runner.stop_cleanly(_EXIT_TIMEOUT)


class _Takeover(NamedTuple):
    """Seconds after the fault: when the last call of the old owner began, and the first of the next."""

    last_before: float
    taken_over: float


def _takeover(calls: Sequence[Call], stream: str, fault_at: float) -> _Takeover:
    fault_ns = fault_at * 1e9
    of_generations = generations(calls, f"{stream}-0")
    place = max(number for number, each in enumerate(of_generations) if each[0].start_ns < fault_ns)
    old, new = of_generations[place : place + 2]
    return _Takeover(
        (max(call.start_ns for call in old) - fault_ns) / 1e9, (min(call.start_ns for call in new) - fault_ns) / 1e9
    )
