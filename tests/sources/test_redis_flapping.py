"""What one of a reader's commands meets again and again is told once, and tried at growing intervals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, raw
from redis_harness.fixtures import NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.replica import PATIENT, Replica, a_replica, fill, places
from redis_harness.server import RedisServer
from runner.clients.redis import RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.model import Partition, Problem, Reason
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_streams import RedisStreamsSource

pytestmark = [pytest.mark.redis]

BOTH = pytest.mark.parametrize("kind", [RedisStreamsSource, SharedStreamsSource])
ENOUGH = 6
"""Tries whose pauses are some seconds together; at the shortest pause they are half of one."""


def with_rights(
    rules: str, new_redis: NewRedis, stream: str, kind: type[RedisStreamsSource | SharedStreamsSource]
) -> tuple[RedisServer, Replica]:
    """A server, and one that reads ``stream`` there as a user of these rights."""
    server = new_redis(Flavour.VALKEY, RedisOptions(users=(AclUser("runner", "secret", rules),)))
    url = parse_redis_url(f"redis://{server.address}")
    connection = RedisConnection(url=url, client_name="test", username="runner", password=Secret(literal="secret"))
    return server, a_replica(connection, [stream], stream, kind, **PATIENT)


async def rejected(server: RedisServer, command: str) -> int:
    async with connect(server.url) as client:
        stats = (await client.info("commandstats")).get(f"cmdstat_{command}", {})
    return int(stats.get("rejected_calls", 0))


async def calls(server: RedisServer) -> int:
    async with connect(server.url) as client:
        return int((await client.info("commandstats"))["cmdstat_evalsha"]["calls"])


@BOTH
@pytest.mark.parametrize("command", ["xread", "xrange"])
async def test_a_refused_command_is_told_once(
    command: str,
    kind: type[RedisStreamsSource | SharedStreamsSource],
    new_redis: NewRedis,
    new_stream: Callable[[], str],
) -> None:
    stream = new_stream()
    server, replica = with_rights("+@all ~*", new_redis, stream, kind)
    async with connect(server.url) as client:
        added = await fill(client, stream, 1)
        async with replica.running():
            await until(lambda: places(replica) == added, what="all is read")
            await raw(client, "ACL", "SETUSER", "runner", f"-{command}")
            await fill(client, stream, 1)  # who waits is woken
            await until(lambda: any(replica.problems), what="it is told")
            before, asked = await rejected(server, command), await calls(server)

            async def was_tried() -> bool:
                return await rejected(server, command) >= before + ENOUGH

            await until_async(was_tried, what="it is tried on")
            (told,) = replica.problems
            assert isinstance(told, Problem)
            assert told.reason is Reason.EVENT_SOURCE_AUTHZ_ERROR
            assert command in told.text
            assert await calls(server) - asked < 20 * ENOUGH, "nothing goes round in circles meanwhile"
            await raw(client, "ACL", "SETUSER", "runner", f"+{command}")
            last = await fill(client, stream, 1)
            await until(lambda: places(replica)[-1:] == last, what="it goes on")
            await until(lambda: replica.problems == [told, None], what="it is told, too")


@BOTH
async def test_what_comes_is_read_though_nobody_can_wait_for_it(
    kind: type[RedisStreamsSource | SharedStreamsSource], new_redis: NewRedis, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    server, replica = with_rights("+@all -xread ~*", new_redis, stream, kind)
    async with connect(server.url) as client:
        added = await fill(client, stream, 1)
        async with replica.running():
            await until(lambda: any(replica.problems), what="there is nothing more, and it cannot wait")
            for _ in range(4):
                await until(lambda: places(replica) == added, what="all is read")
                added.extend(await fill(client, stream, 1))
            await until(lambda: places(replica) == added, what="all is read")
            assert len(replica.problems) == 1
    assert replica.lost_streams == []


def test_of_two_lasting_problems_the_first_is_told_once() -> None:
    replica = a_replica("redis://localhost:1", ["s"], "g")
    replica.source._listener = replica
    partition = Partition("s", 0)
    first, second = [Problem(Reason.EVENT_SOURCE_UNREACHABLE, text, "") for text in ("first", "second")]
    for _ in range(3):
        replica.source._tell(partition, "start", first)
        replica.source._tell(partition, "registry", second)
    assert replica.problems == [first]
    replica.source._tell(partition, "start", None)
    assert replica.problems == [first, second]
