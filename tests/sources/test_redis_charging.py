"""Attempts that the server does not take keep back nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, pending, raw
from redis_harness.fixtures import NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.proxy import Proxy
from redis_harness.replica import PATIENT, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.model import Partition, Reason
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis]


@pytest.mark.parametrize("flavour", list(Flavour))
async def test_the_rest_is_acknowledged_and_the_reason_told_until_it_is_gone(
    flavour: Flavour, new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    server = new_redis(flavour, RedisOptions(users=(AclUser("runner", "secret", "+@all -xclaim ~*"),)))
    stream, group = new_stream(), new_stream()
    url = parse_redis_url(f"redis://{server.address}")
    connection = RedisConnection(url=url, client_name="test", username="runner", password=Secret(literal="secret"))
    replica = a_replica(connection, [stream], group, **PATIENT)
    replica.settles = False
    partition = Partition(stream, 0)
    async with connect(server.url) as client:
        added = await fill(client, stream, 4)
        settled, tried = [position for _, position in added[:2]], [position for _, position in added[2:]]
        async with replica.running():
            await until(lambda: places(replica) == added, what="it is read")
            replica.source.attempted(partition, dict.fromkeys([*settled, *tried], 1))
            await until(lambda: any(replica.problems), what="it is told")
            (told,) = replica.problems
            assert told is not None
            assert told.reason is Reason.EVENT_SOURCE_AUTHZ_ERROR
            replica.source.settled(
                partition, [each for each in replica.unsettled(partition) if each.position in settled]
            )
            await replica.source.checkpoint({partition: tried[0]})
            assert [each.id.decode() for each in await pending(client, stream, group)] == tried
            assert replica.source._memories[partition].attempts._unwritten == dict.fromkeys(tried, 1)
            added += await fill(client, stream, 1)
            await until(lambda: places(replica) == added, what="it is read on")
            assert replica.problems == [told]
            await raw(client, "ACL", "SETUSER", "runner", "+xclaim")
            await until(lambda: replica.problems == [told, None], what="it works")

            async def are_written() -> bool:
                counts = {each.id.decode(): each.deliveries // 1_000 for each in await pending(client, stream, group)}
                return counts == dict.fromkeys(tried, 1) | {added[-1][1]: 0}

            await until_async(are_written, what="the attempts are written")


@pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])
async def test_an_attempt_that_the_end_of_an_assignment_cut_off_is_taken_back(
    kind: type[RedisStreamsSource | SharedStreamsSource], redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream, group = new_stream(), new_stream()
    partition = Partition(stream, 0)
    async with connect(redis_server.url) as client, Proxy(redis_server.port) as proxy:
        replica = a_replica(proxy.url, [stream], group, kind)
        replica.settles = False
        (cut_off, failed, others) = [position for _, position in await fill(client, stream, 3)]
        async with replica.running():
            await until(lambda: len(replica.seen) == 3, what="they are read")
            await replica.source.charge(partition, {cut_off: 2})
            await replica.source.charge(partition, {others: 2})
            proxy.stall()
            replica.source.attempted(partition, {failed: 1})  # which the server will not hear of
            replica.attempted = {cut_off: 1, others: 0}
            await until(lambda: bool(replica.lost_streams), what="the assignment is over", timeout=30)
            await proxy.resume()
            await until(lambda: len(replica.seen) == 6, what="they are read again", timeout=30)
            await replica.source.checkpoint({partition: cut_off})
        assert replica.attempts == {cut_off: 1, failed: 1, others: 2}, "what another has charged meanwhile stays"
        counts = {each.id.decode(): each.deliveries // 1_000 for each in await pending(client, stream, group)}
        assert counts == replica.attempts
