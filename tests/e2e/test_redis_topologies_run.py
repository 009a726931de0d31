"""Runners under load while slots of a cluster move, a node hangs, a replica is promoted; and with the least rights."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from e2e_support.process_fixtures import NewRunner
from e2e_support.redis_group import LEASE, origin_of, refused
from e2e_support.redis_spread import (
    MAPPING,
    SpreadStreams,
    SteadyLoad,
    generations,
    origin,
    stop,
    until_enabled,
    until_spread,
)
from e2e_support.redis_topology import (
    ANY,
    Sharded,
    Standalone,
    Topology,
    Watched,
    move_slowly,
    name_at,
    published_rights,
)
from e2e_support.scale import FULL, MINUTE, scaled
from e2e_support.stream import metric
from kafka_harness import oracle
from kafka_harness.behaviour import Behaviour
from kafka_harness.function_process import FunctionProcess
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, pending, raw
from redis_harness.cluster import RedisCluster
from redis_harness.fixtures import NewRedis, NewRedisCluster, NewSentinel
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.sentinel import Sentinel
from redis_harness.server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(5 * MINUTE if FULL else MINUTE)]

BOTH = pytest.mark.parametrize("flavour", [Flavour.VALKEY, Flavour.REDIS_7_0])
RECOVERY: Final = 10.0
"""Seconds after the cause of a fault is gone."""

_ODD_NAMES: Final = (
    f"{{open{ANY}",
    f"a}}{ANY}b{{c",
    f"{{}}empty{ANY}",
    f"close}}{ANY}",
    f"plain{ANY}",
    f"two{{a{ANY}}}{{b}}",
    f"{{tagged{ANY}}}.0",
)
"""Stream names by which a hash tag is easily got wrong."""
_ODD_LETTERS: Final = f"letters}}{ANY}{{"

_REPLICAS: Final = 2
_ENTRIES_A_SECOND: Final = 20.0  # of each stream
_POISON_EVERY: Final = 10
_HANDED_OUT: Final = 5  # entries of each stream, when a replica hears its last
_ROUNDS: Final = scaled(1, 5)
_DELAY_MS: Final = 20.0
_FREEZE: Final = 3 * LEASE  # two leases of those frozen, which a busy machine makes nobody lose
_LOOKS: Final = 4  # while a node is frozen
_NODE_TIMEOUT_MS: Final = 15_000  # the server's default: who is silent for less is not taken for dead
_USER: Final = "runner"
_PASSWORD: Final = "right-secret"


async def _started(
    streams: SpreadStreams, function: FunctionProcess, new_runner: NewRunner, **source: Any
) -> list[RunnerProcess]:
    """Two replicas, once they have shared the streams out and each is read."""
    await function.start(Behaviour(delay_ms=_DELAY_MS, fenced=True))
    runners = [new_runner(streams.configuration(function, **source)) for _ in range(_REPLICAS)]
    await asyncio.gather(*[runner.start() for runner in runners])
    await until_spread(runners, streams.streams)
    await streams.until_handled(function, streams.streams)
    return runners


# --- a cluster


@BOTH
async def test_slots_of_a_stream_and_of_dead_letters_move_under_load(
    flavour: Flavour, new_redis_cluster: NewRedisCluster, function: FunctionProcess, new_runner: NewRunner
) -> None:
    cluster = await new_redis_cluster(flavour)
    *sources, third = cluster.nodes
    names = [await name_at(cluster, *each) for each in zip(_ODD_NAMES, itertools.cycle(sources))]
    streams = SpreadStreams(Sharded(cluster), names, await name_at(cluster, _ODD_LETTERS, third))
    async with SteadyLoad(streams, a_second=_ENTRIES_A_SECOND, poison_every=_POISON_EVERY) as load:
        runners = await _started(streams, function, new_runner)
        for _, key in itertools.product(range(_ROUNDS), (names[0], streams.letters_stream)):
            await _until_more_letters(streams)
            await _move_to_next(cluster, key, streams, function)
            await streams.until_handled(function, names, times=3)
        await _until_more_letters(streams)
    placed = await streams.until_settled(function)
    await until_enabled(runners)
    await stop(runners)
    calls, letters = function.calls(), await streams.letters()
    assert load.accepted <= {each.origin for each in placed}
    streams.assert_promises(placed, calls, letters)
    assert refused(calls) == []
    again = oracle.duplicates(calls)
    print(f"{2 * _ROUNDS} slots moved: {len(placed)} entries, {len(letters)} dead letters, {len(again)} handled again")


async def _until_more_letters(streams: SpreadStreams) -> None:
    before = len(await streams.letters())

    async def more() -> bool:
        return len(await streams.letters()) > before

    await until_async(more, what="dead letters are stored", timeout=RECOVERY)


async def _move_to_next(cluster: RedisCluster, key: str, streams: SpreadStreams, function: FunctionProcess) -> None:
    """While the slot of ``key`` is on its way, the streams in other slots go on."""
    slot = await cluster.slot_of(key)
    owner = await cluster.owner_of(slot)
    target = cluster.nodes[(cluster.nodes.index(owner) + 1) % len(cluster.nodes)]
    others = [name for name in streams.streams if await cluster.slot_of(name) != slot]
    # A stream whose dead letter waits for the slot waits with it: of some stream, then, not of each.
    await move_slowly(cluster, key, target, meanwhile=partial(_until_any_handled, function, others))


async def _until_any_handled(function: FunctionProcess, names: Collection[str]) -> None:
    since_ns = time.monotonic_ns()
    partitions = {f"{name}-0" for name in names}

    def handled() -> bool:
        return any(
            call.succeeded and call.start_ns > since_ns and call.partition in partitions for call in function.calls()
        )

    await until(handled, what=f"any of {names} goes on", every=0.02)


async def test_a_node_that_hangs_holds_up_only_its_own_streams(
    new_redis_cluster: NewRedisCluster, function: FunctionProcess, new_runner: NewRunner
) -> None:
    cluster = await new_redis_cluster(node_timeout_ms=_NODE_TIMEOUT_MS)
    at = {f"{number}": node for number, node in enumerate(2 * cluster.nodes)}
    names = {await name_at(cluster, f"frozen-{number}-{ANY}", node): node for number, node in at.items()}
    streams = SpreadStreams(Sharded(cluster), list(names), "frozen-letters")
    async with SteadyLoad(streams, a_second=_ENTRIES_A_SECOND) as load:
        runners = await _started(streams, function, new_runner, lease=f"{_FREEZE / 2:g}s")
        with_registry = await _node_of_the_registry(cluster)
        others = [node for node in cluster.nodes if node is not with_registry]
        for node in (with_registry, *others)[: scaled(2, 3)]:
            own = [name for name, server in names.items() if server is node]
            await _freeze(node, own, [name for name in names if name not in own], streams, function)
            await until_enabled(runners)
            await until_spread(runners, streams.streams)
    placed = await streams.until_settled(function)
    await stop(runners)
    calls = function.calls()
    assert load.accepted <= {each.origin for each in placed}
    streams.assert_promises(placed, calls, [])
    print(
        f"frozen for {_FREEZE:g} s: {len(placed)} entries, {len(oracle.duplicates(calls))} handled again, "
        f"{len(refused(calls))} calls refused; the producer was told {dict(load.failures)}"
    )


async def _node_of_the_registry(cluster: RedisCluster) -> RedisServer:
    for node in cluster.nodes:
        async with connect(node.url) as client:
            if await raw(client, "KEYS", f"stream-runner:members:{MAPPING}:*"):
                return node
    raise LookupError("no node has the registry of the group's members")


async def _freeze(
    node: RedisServer,
    own: Collection[str],
    elsewhere: Collection[str],
    streams: SpreadStreams,
    function: FunctionProcess,
) -> None:
    """SIGSTOP for two leases: ``elsewhere`` is read on all the time by who had it, ``own`` soon after SIGCONT."""
    node.pause()
    frozen_ns = time.monotonic_ns()
    try:
        for look in range(_LOOKS):
            since_ns = frozen_ns + round(look * _FREEZE / _LOOKS * 1e9)
            await asyncio.sleep(max(0.0, (since_ns - time.monotonic_ns()) / 1e9 + _FREEZE / _LOOKS))
            await streams.until_handled(function, elsewhere, since_ns=since_ns, timeout=_FREEZE / 2)
    finally:
        node.resume()
    resumed_ns = time.monotonic_ns()
    await streams.until_handled(function, own, since_ns=resumed_ns, timeout=RECOVERY)
    meanwhile = [call for call in function.calls() if frozen_ns < call.start_ns < resumed_ns]
    owners = generations(meanwhile, elsewhere)
    assert {name: len(each) for name, each in owners.items()} == dict.fromkeys(elsewhere, 1), "nobody lost these"
    print(f"{node.address}: read again after {(time.monotonic_ns() - resumed_ns) / 1e9:.1f} s")


# --- sentinels


@BOTH
async def test_a_replica_that_is_promoted_under_load_has_its_entries_delivered_again(
    flavour: Flavour, new_sentinel: NewSentinel, function: FunctionProcess, new_runner: NewRunner
) -> None:
    sentinel = await new_sentinel(flavour)
    streams = SpreadStreams(Watched(sentinel), [f"orders.{number}" for number in range(4)], "orders.letters")
    async with SteadyLoad(streams, a_second=_ENTRIES_A_SECOND, poison_every=_POISON_EVERY) as load:
        runners = await _started(streams, function, new_runner)
        # What one had read and handed to the other is to be over: a replica hears of first readings only.
        await _until_acknowledged(streams, {stream: set(await streams.pending(stream)) for stream in streams.streams})
        lost = await _lose_acknowledgements(sentinel, streams, function)
        counted = await _counted(runners)
        before_ns = time.monotonic_ns()
        await sentinel.failover()
        promoted_ns = time.monotonic_ns()
        await streams.until_handled(function, streams.streams, since_ns=promoted_ns, timeout=RECOVERY)
        recovered_ns = time.monotonic_ns()
        await streams.until_handled(function, streams.streams, times=scaled(5, 100), timeout=MINUTE)
    kept = await streams.until_settled(function)
    await until_enabled(runners)
    counted = {name: value - counted[name] for name, value in (await _counted(runners)).items()}
    await stop(runners)
    calls, letters = function.calls(), await streams.letters()
    again = oracle.duplicates(calls)
    assert len(lost) > len(streams.streams)
    assert lost <= again.keys(), "what was acknowledged and is not any more comes again"
    there = {each.origin for each in kept}
    assert again.keys() <= there
    assert counted["records_redelivered_total"] >= len(lost)
    # What the promoted server never had may have been dealt with before, by the dead one.
    done = set(oracle.handled_at(calls)) | {origin_of(letter) for letter in letters}
    gone = [each for each in load.attempted if each.origin in done and each.origin not in there]
    streams.assert_promises([*kept, *gone], calls, letters)
    print(
        f"promoted after {(promoted_ns - before_ns) / 1e9:.1f} s, read again after another "
        f"{(recovered_ns - promoted_ns) / 1e9:.1f} s: {len(kept)} entries, {len(load.accepted - there)} accepted ones "
        f"gone, {len(lost)} acknowledgements certainly lost, {len(again)} entries handled again, {len(refused(calls))} "
        f"calls refused; counted: {counted}; the producer was told {dict(load.failures)}"
    )


async def _lose_acknowledgements(
    sentinel: Sentinel, streams: SpreadStreams, function: FunctionProcess
) -> set[oracle.Origin]:
    """Cut the replica off while calls are in flight, and wait until the master has the acknowledgements of what they
    hold; returns what was handled of that."""
    await function.behave(Behaviour(hang=True, fenced=True))

    async def held() -> bool:
        return (await function.status()).held == len(streams.streams)

    await until_async(held, what="every stream has a call in flight", every=0.02)
    async with connect((await sentinel.replica()).url) as replica:

        async def given() -> dict[str, set[oracle.Origin]]:
            return {
                stream: {origin(stream, each.id) for each in await pending(replica, stream, MAPPING)}
                for stream in streams.streams
            }

        async def replicated() -> bool:
            return all(len(each) >= _HANDED_OUT for each in (await given()).values())

        await until_async(replicated, what="the replica knows what was handed out", every=0.02)
        await sentinel.cut_off_replica()
        known = await given()
    await function.behave(Behaviour(delay_ms=_DELAY_MS, fenced=True))
    await _until_acknowledged(streams, known)
    return set().union(*known.values()) & oracle.handled_at(function.calls()).keys()


async def _until_acknowledged(streams: SpreadStreams, entries: Mapping[str, set[oracle.Origin]]) -> None:
    """Wait until the master has the acknowledgements of ``entries``, which are by stream."""

    async def acknowledged() -> bool:
        return not any([each & set(await streams.pending(stream)) for stream, each in entries.items()])

    await until_async(acknowledged, what="what was handed out is acknowledged", every=0.05)


async def _counted(runners: Sequence[RunnerProcess]) -> dict[str, float]:
    """What the runners' counters say about entries that come again, or may."""
    names = ("records_redelivered_total", "records_repeated_total", "stale_records_total")
    return {name: sum([await metric(runner, name) for runner in runners]) for name in names}


# --- the least rights


async def test_the_least_rights_over_tls_with_a_client_certificate(
    new_redis: NewRedis, function: FunctionProcess, new_runner: NewRunner, tmp_path: Path
) -> None:
    options = RedisOptions(tls=True, overrides={"tls-auth-clients": "yes"})
    server = new_redis(Flavour.REDIS_7_0, _with_the_least_rights(options, cluster=False))
    certificate, key = server.authority.issue("client")
    tls = {"ca_file": server.authority.certificate, "certificate_file": certificate, "key_file": key}
    files = {name: str(path) for name, path in tls.items()}
    await _work_with_the_least_rights(Standalone(server), function, new_runner, tmp_path, tls=files)


@BOTH
async def test_the_least_rights_on_a_cluster(
    flavour: Flavour,
    new_redis_cluster: NewRedisCluster,
    function: FunctionProcess,
    new_runner: NewRunner,
    tmp_path: Path,
) -> None:
    cluster = await new_redis_cluster(flavour, options=_with_the_least_rights(RedisOptions(), cluster=True))
    await _work_with_the_least_rights(
        Sharded(cluster),
        function,
        new_runner,
        tmp_path,
        afterwards=partial(_move_while_used, cluster),
        allow_plaintext=True,
    )


async def _move_while_used(cluster: RedisCluster) -> None:
    """Move the slot of a stream, and wait in the middle until somebody was sent on to where its keys are by then."""
    slot = await cluster.slot_of("orders.0")
    owner = await cluster.owner_of(slot)
    move = await cluster.slot_move(slot, cluster.nodes[cluster.nodes.index(owner) - 1])
    await move.begin()
    while await move.move_keys(10):
        pass
    async with connect(move.target.url) as client:

        async def asked() -> bool:
            return "cmdstat_asking" in await client.info("commandstats")

        await until_async(asked, what="somebody asks where the slot goes")
    await move.end()


def _with_the_least_rights(options: RedisOptions, *, cluster: bool) -> RedisOptions:
    """Who does not log in may do nothing."""
    user = AclUser(_USER, _PASSWORD, published_rights(cluster=cluster))
    return replace(options, password="of-the-owner", users=(user,))


async def _nothing() -> None:
    """What comes afterwards where there are no slots."""


async def _work_with_the_least_rights(
    topology: Topology,
    function: FunctionProcess,
    new_runner: NewRunner,
    directory: Path,
    *,
    afterwards: Callable[[], Awaitable[None]] = _nothing,
    **source: Any,
) -> None:
    """Two replicas take, read, dead-letter, share out and give back, and the servers refuse them nothing, nor what one
    of them does ``afterwards``. Their leases are so long that a busy machine makes nobody lose one."""
    secret = directory / "password"
    secret.write_text(f"{_PASSWORD}\n")
    streams = SpreadStreams(topology, [f"orders.{number}" for number in range(6)], "orders.dead-letter")
    login = {"username": _USER, "password": f"${{file:{secret}}}", "lease": "10s", **source}
    async with SteadyLoad(streams, a_second=_ENTRIES_A_SECOND, poison_every=_POISON_EVERY):
        runners = await _started(streams, function, new_runner, **login)
        await _until_more_letters(streams)
        runners[0].terminate()
        await streams.until_handled(function, streams.streams, times=scaled(3, 100), timeout=MINUTE)
        assert await runners.pop(0).stopped() == 0
    placed = await streams.until_settled(function)
    await afterwards()
    await until_enabled(runners)
    for server in topology.servers:
        async with connect(server.url) as client:
            assert f"user={_USER} " in bytes(await raw(client, "CLIENT", "LIST")).decode()
    await stop(runners)
    calls, letters = function.calls(), await streams.letters()
    streams.assert_promises(placed, calls, letters)
    assert oracle.duplicates(calls) == {}
    for server in topology.servers:
        async with connect(server.url) as client:
            assert await raw(client, "ACL", "LOG") == [], "nothing was refused"
    assert not any(_PASSWORD in runner.process.stderr.read_text() for runner in runners)
    print(f"{topology.url}: {len(placed)} entries, {len(letters)} dead letters")
