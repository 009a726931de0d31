"""What other applications, and unusual producers, have done to a stream and its group before us."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from redis.asyncio import Redis

from kafka_harness.waiting import until, until_async
from redis_harness.client import add, raw
from redis_harness.fixtures import ON_EVERY_FLAVOUR
from redis_harness.proxy import Proxy
from redis_harness.replica import PATIENT, Replica, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis import Script
from runner.clients.redis_entries import LARGEST_ID, FieldNames
from runner.clients.redis_errors import FailureKind, RedisFailure
from runner.clients.redis_wire import Reply
from runner.sources import redis_streams
from runner.sources.redis_scripts import ATTEMPT, CLAIM, StreamScript
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_stream import OwnedStream
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60), ON_EVERY_FLAVOUR]

BOTH = pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])


async def give(client: Redis, stream: str, group: str, consumer: str, count: int) -> None:
    """Let a consumer of a group, which is made if need be, read ``count`` entries and not acknowledge them."""
    if not await client.exists(stream) or not await client.xinfo_groups(stream):
        await raw(client, "XGROUP", "CREATE", stream, group, "0")
    await raw(client, "XREADGROUP", "GROUP", group, consumer, "COUNT", count, "STREAMS", stream, ">")


@BOTH
async def test_only_our_own_consumers_deliveries_are_attempts(
    kind: type[RedisStreamsSource | SharedStreamsSource],
    redis_server: RedisServer,
    client: Redis,
    new_stream: Callable[[], str],
) -> None:
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 4)
    for (_, entry_id), consumer in zip(added, ("theirs", "stream-runner:gone", "stream-runner-2"), strict=False):
        await give(client, stream, group, consumer, 1)
        await raw(
            client, "XCLAIM", stream, group, consumer, 0, entry_id, "IDLE", 10_000, "RETRYCOUNT", 12 * ATTEMPT, "JUSTID"
        )
    replica = a_replica(redis_server.url, [stream], group, kind)
    async with replica.running():
        await until(lambda: sorted(places(replica)) == added, what="all are read")
        assert replica.attempts == {added[1][1]: 12}
        assert replica.suspects == set()


@BOTH
async def test_an_entry_with_the_largest_id_is_delivered_and_acknowledged(
    kind: type[RedisStreamsSource | SharedStreamsSource],
    redis_server: RedisServer,
    client: Redis,
    new_stream: Callable[[], str],
) -> None:
    largest, other, group = new_stream(), new_stream(), new_stream()
    added = await fill(client, other, 3) + await fill(client, largest, 1)
    await add(client, largest, [(b"v", b"x")], entry_id=LARGEST_ID.encode())
    added.append((largest, LARGEST_ID))
    async with Proxy(redis_server.port) as proxy:
        replica = a_replica(proxy.url, [largest, other], group, kind, **PATIENT)
        replica.settles = False
        async with replica.running():
            await until(lambda: len(replica.seen) == len(added), what="all are read")
            await proxy.drop_connections()
            more = await fill(client, other, 3)
            await until(lambda: len(replica.seen) == len(added + more), what="it goes on")
            replica.settles = True
            await until_async(lambda: nothing_pends(client, largest, group), what="it is acknowledged")
            assert sorted(places(replica)) == sorted(added + more), "nothing came again"
            assert replica.lost_streams == []


async def test_a_group_of_which_the_largest_id_is_the_checkpoint_is_made_again(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    await add(client, stream, [(b"v", b"x")], entry_id=LARGEST_ID.encode())
    replica = a_replica(redis_server.url, [stream], group, **PATIENT)
    async with replica.running():
        await until(lambda: replica.seen, what="it is read")
        await until_async(lambda: nothing_pends(client, stream, group), what="it is the checkpoint")
        await raw(client, "XGROUP", "DESTROY", stream, group)
        await until(lambda: replica.lost_streams == [stream], what="the assignment is over")
        await until(lambda: len(replica.seen) == 2, what="it comes again: nothing is behind it to begin at")
        await until(lambda: replica.owned == {stream}, what="it is ours again")


async def nothing_pends(client: Redis, stream: str, group: str) -> bool:
    groups = await client.xinfo_groups(stream)
    return bool(groups) and groups[0]["pending"] == 0


class FailingClaim(OwnedStream):
    """Of the second page of what other consumers had nothing is heard at first."""

    claims = 0

    async def call(
        self, script: Script | StreamScript, *arguments: bytes | str, allowed: Collection[bytes] = ()
    ) -> list[Reply]:
        if script is CLAIM:
            self.claims += 1
            if self.claims == 2:
                raise RedisFailure(FailureKind.TIMEOUT, "no answer")
        return await super().call(script, *arguments, allowed=allowed)


async def test_what_is_gone_is_told_once_though_the_claim_had_to_be_repeated(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_streams, "OwnedStream", FailingClaim)
    stream, group = new_stream(), new_stream()
    added = await fill(client, stream, 510)
    await give(client, stream, group, "theirs", 510)
    await client.xdel(stream, *[entry_id for _, entry_id in added[:3]])
    replica = a_replica(redis_server.url, [stream], group, **PATIENT)
    async with replica.running():
        await until(lambda: places(replica) == added[3:], what="the rest is read")
        await until_async(lambda: nothing_pends(client, stream, group), what="all is acknowledged")
        assert replica.losses == [(stream, 3)]


class Defective(OwnedStream):
    """The first that reads one certain stream meets what should never be."""

    stream = ""
    is_mended = False

    async def _read_once(self) -> None:
        if self.place.partition.topic == Defective.stream and not Defective.is_mended:
            Defective.is_mended = True
            raise ZeroDivisionError("unheard of")
        await super()._read_once()


async def test_a_defect_ends_the_assignment_of_its_stream_only(
    redis_server: RedisServer, client: Redis, new_stream: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_streams, "OwnedStream", Defective)
    defective, other, group = new_stream(), new_stream(), new_stream()
    Defective.stream, Defective.is_mended = defective, False
    added = await fill(client, defective, 3) + await fill(client, other, 3)
    replica: Replica = a_replica(redis_server.url, [defective, other], group, **PATIENT)
    async with replica.running():
        await until(lambda: sorted(places(replica)) == sorted(added), what="both are read")
        assert replica.lost_streams == [defective]
        problem = next(problem for problem in replica.problems if problem is not None)
        assert (problem.reason, "unheard of" in problem.text) == ("INTERNAL_ERROR", True)
        assert [warning for warning in replica.warnings if "Traceback" in warning and "unheard of" in warning]
        await until(lambda: replica.problems[-1] is None, what="nothing is wrong any more")


@BOTH
async def test_a_misspelt_field_is_told_once_of_each_stream(
    kind: type[RedisStreamsSource | SharedStreamsSource],
    redis_server: RedisServer,
    client: Redis,
    new_stream: Callable[[], str],
) -> None:
    streams, group = [new_stream(), new_stream()], new_stream()
    added = [place for stream in streams for place in await fill(client, stream, 3)]
    replica = a_replica(redis_server.url, streams, group, kind, names=FieldNames(b"v", b"w"), **PATIENT)
    async with replica.running():
        await until(lambda: len(replica.seen) == len(added), what="all are read")
        for stream in streams:
            await raw(client, "XGROUP", "DESTROY", stream, group)
        await until(lambda: sorted(replica.lost_streams) == sorted(streams), what="the assignments are over")
        for stream in streams:
            added += await fill(client, stream, 1)
        await until(lambda: {*places(replica)} >= {*added}, what="they are read again")
        told = sorted(warning.partition(" entries of ")[2] for warning in replica.warnings if "the field" in warning)
    assert told == sorted(f"{stream!r} has the field 'w' (value_field); they have: 'v'" for stream in streams)
