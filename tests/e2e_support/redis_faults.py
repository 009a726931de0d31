"""What may happen to a server of Redis streams, or to runners that read them, and what each of it takes from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from redis.asyncio import Redis

from e2e_support.redis_group import StreamGroup
from e2e_support.redis_producer import SteadyProducer
from e2e_support.redis_recovery import RECOVERY_SECONDS, Origins, RecoveryRig, number_of
from e2e_support.stream import metric
from kafka_harness import oracle
from kafka_harness.behaviour import Behaviour
from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, raw

UNSYNCED_SECONDS: Final = 2.0
"""How much of its newest history a server may lose that syncs every second: it waits for a slow disk once more."""

_BALLAST_BYTES: Final = 16 << 20
_SLOW_MS: Final = 50.0
_GONE: Final = "EVENT_SOURCE_NOT_FOUND"
_UNREACHABLE: Final = "EVENT_SOURCE_UNREACHABLE"

Aof: TypeAlias = Literal["always", "everysec"]


@dataclass(kw_only=True)
class Harm:
    """What a fault that is over has left behind. ``healed_at`` is when its cause was gone, by the monotonic clock.

    Each set is filled by the faults to which it means something: ``undelivered`` was in streams that the server has
    forgotten, and was not handled; ``unacknowledged`` was handled and pending; ``beyond_checkpoint`` lies at or behind
    the stored checkpoint of a group that is gone; ``unsynced`` was accepted, or handled, right before a kill.
    """

    healed_at: float
    undelivered: Origins = field(default_factory=set)
    unacknowledged: Origins = field(default_factory=set)
    beyond_checkpoint: Origins = field(default_factory=set)
    unsynced: Origins = field(default_factory=set)


Fault: TypeAlias = Callable[[RecoveryRig, SteadyProducer], Awaitable[Harm]]
"""Waits until the runners have shown the reason where there is one to show; returns when the cause is gone."""


async def flush_all(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    """Entries go on coming: the streams are there again before anybody can miss them."""
    await rig.hold(producer)
    async with connect(rig.server.url) as client, producer.silent():
        undelivered = _undelivered(rig, producer, rig.streams())
        flushed_at = time.monotonic()
        await raw(client, "FLUSHALL")
    await rig.release(rig.streams(), held_before=flushed_at)
    return Harm(healed_at=flushed_at, undelivered=undelivered)


async def delete_streams(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    """One of each group, and nobody makes it anew until it was missed."""
    await rig.hold(producer)
    streams = [group.streams[0] for group in rig.groups]
    with producer.without(streams):
        async with connect(rig.server.url) as client, producer.silent():
            undelivered = _undelivered(rig, producer, streams)
            deleted_at = time.monotonic()
            assert await raw(client, "DEL", *streams) == len(streams)
        # Whoever owns the stream, or would: another may know nothing of it.
        await rig.until_problem(_GONE, runners=1)
    healed_at = time.monotonic()
    await rig.release(streams, held_before=deleted_at)
    return Harm(healed_at=healed_at, undelivered=undelivered)


async def destroy_groups(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    """On one stream of each group. It is made again as soon as it is missed."""
    beyond: Origins = set()
    async with connect(rig.server.url) as client:
        for group in rig.groups:
            beyond |= await _destroy(client, group, group.streams[0])
        healed_at = time.monotonic()
    return Harm(healed_at=healed_at, beyond_checkpoint=beyond)


async def flush_scripts(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    async with connect(rig.server.url) as client:
        await raw(client, "SCRIPT", "FLUSH")
    return Harm(healed_at=time.monotonic())


async def kill_clients(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    """Every connection but the one that asks for it, the producer's too."""
    async with connect(rig.server.url) as client:
        assert await raw(client, "CLIENT", "KILL", "TYPE", "normal") > len(rig.streams())
    return Harm(healed_at=time.monotonic())


async def fill_memory(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    """While it is full, what is there is worked off, and leases are kept."""
    async with connect(rig.server.url) as client:
        await raw(client, "SETRANGE", "ballast", _BALLAST_BYTES, "x")
        used = int(_info(await raw(client, "INFO", "memory"))[b"used_memory"])
        await raw(client, "CONFIG", "SET", "maxmemory", used - _BALLAST_BYTES // 2)
        before = producer.refusals
        await until(lambda: producer.refusals > before, what="the server takes no more", every=0.01)
        accepted = {each.origin for each in producer.placed()}
        await _until_leases_are_renewed(client, rig.groups)
        await rig.until_as_before(accepted, timeout=RECOVERY_SECONDS)
        assert {each.origin for each in producer.placed()} == accepted, "the server was not full all the time"
        await raw(client, "DEL", "ballast")
        healed_at = time.monotonic()
        await rig.until_flowing(producer, since=healed_at)
        await raw(client, "CONFIG", "SET", "maxmemory", 0)
    return Harm(healed_at=healed_at)


async def restart(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    """By SIGTERM, and back before any lease is over: nobody need notice but by asking which server it is."""
    return await _restart(rig, producer, rig.server.shut_down, shown_by=0)


async def kill(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
    """By ``kill -9``, and not back before every runner has shown that it is gone, and every lease is over."""

    async def kill_server() -> None:
        rig.server.kill()

    return await _restart(rig, producer, kill_server, shown_by=len(rig.runners))


async def _restart(
    rig: RecoveryRig, producer: SteadyProducer, stop: Callable[[], Awaitable[None]], *, shown_by: int
) -> Harm:
    """What is in the server afterwards depends on its file: see ``persist``."""
    await rig.hold(producer)
    unacknowledged = await _unacknowledged(rig)
    stopped_at = time.monotonic()
    await stop()
    async with producer.silent():
        undelivered = _undelivered(rig, producer, rig.streams())
    await rig.until_problem(_UNREACHABLE, runners=shown_by)
    await rig.server.restart()
    healed_at = time.monotonic()
    await rig.release(rig.streams(), held_before=stopped_at)
    return Harm(
        healed_at=healed_at,
        undelivered=undelivered,
        unacknowledged=unacknowledged,
        unsynced=_newest(rig, producer, stopped_at - UNSYNCED_SECONDS, stopped_at),
    )


def stop_runners(number: int) -> Fault:
    """By SIGTERM, each with entries in flight; then they are started again. Those that stay, if any, take over."""

    async def inflict(rig: RecoveryRig, producer: SteadyProducer) -> Harm:
        leaving = rig.runners[:number]
        await rig.function.behave(Behaviour(delay_ms=_SLOW_MS, fenced=True))

        async def in_flight() -> bool:
            return min([await metric(runner, "inflight_invocations") for runner in leaving]) >= 1

        await until_async(in_flight, what="all have entries in flight", every=0.01)
        for runner in leaving:
            runner.terminate()
        assert await asyncio.gather(*[runner.stopped(RECOVERY_SECONDS) for runner in leaving]) == [0] * number
        if number < len(rig.runners):
            await rig.until_flowing(producer, since=time.monotonic())
        await asyncio.gather(*[runner.start() for runner in leaving])
        healed_at = time.monotonic()
        await rig.behave_as_usual()
        return Harm(healed_at=healed_at)

    return inflict


async def persist(rig: RecoveryRig, aof: Aof | None) -> None:
    """From now on the server writes all to its file, and syncs it before it answers or every second; or, by None, has
    no file. So it does after a restart."""
    async with connect(rig.server.url) as client:
        await raw(client, "CONFIG", "SET", "appendonly", "no" if aof is None else "yes")
        await raw(client, "CONFIG", "SET", "appendfsync", aof or "everysec")
        await raw(client, "CONFIG", "REWRITE")

        async def is_written() -> bool:
            shown = _info(await raw(client, "INFO", "persistence"))
            is_on = shown[b"aof_enabled"] == (b"0" if aof is None else b"1")
            return is_on and not int(shown[b"aof_rewrite_in_progress"]) and not int(shown[b"aof_rewrite_scheduled"])

        await until_async(is_written, what="the file holds what there is", every=0.02)


def _undelivered(rig: RecoveryRig, producer: SteadyProducer, streams: Sequence[str]) -> Origins:
    return {each.origin for each in producer.placed() if each.topic in streams} - rig.handled()


def _newest(rig: RecoveryRig, producer: SteadyProducer, begin: float, end: float) -> Origins:
    """What was accepted or handled between two monotonic times."""
    accepted = {origin for origin, at in producer.accepted_at.items() if begin <= at <= end}
    return accepted | {
        origin for origin, at_ns in oracle.handled_at(rig.calls()).items() if begin <= at_ns / 1e9 <= end
    }


async def _unacknowledged(rig: RecoveryRig) -> Origins:
    async with connect(rig.server.url) as client:
        found = [await group.pending(client) for group in rig.groups]
    pending = {
        (f"{stream}-0", number_of(entry.id))
        for streams in found
        for stream, entries in streams.items()
        for entry in entries
    }
    return pending & rig.handled()


async def _destroy(client: Redis, group: StreamGroup, stream: str) -> Origins:
    """Destroy the group of a stream; returns what of the stream is not before the stored checkpoint."""
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.execute_command("HGET", group.lease_key(stream), "checkpoint")
        pipeline.execute_command("XGROUP", "DESTROY", stream, group.base)
        checkpoint, destroyed = await pipeline.execute()
    assert destroyed == 1
    first = number_of(checkpoint)
    return {each.origin for each in group.placed if each.topic == stream and each.offset >= first}


async def _until_leases_are_renewed(client: Redis, groups: Sequence[StreamGroup]) -> None:
    """Wait until every lease was renewed twice."""
    keys = [group.lease_key(stream) for group in groups if group.delivery == "ordered" for stream in group.streams]

    async def ends() -> list[int]:
        return [int(await raw(client, "HGET", key, "expires_at")) for key in keys]

    for _ in range(2):
        before = await ends()

        async def renewed(before: Sequence[int] = before) -> bool:
            return all(now > then for now, then in zip(await ends(), before, strict=True))

        await until_async(renewed, what="leases are renewed", every=0.02)


def _info(text: bytes) -> dict[bytes, bytes]:
    parted = (line.partition(b":") for line in text.splitlines())
    return {name: value for name, _colon, value in parted}
