"""The ordered source on a cluster, behind sentinels, and over TLS with the least rights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from kafka_harness.waiting import until, until_async
from redis_harness.client import connect, connect_cluster, pending
from redis_harness.fixtures import NewRedis, NewRedisCluster, NewSentinel
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.replica import a_replica, fill, places
from runner.clients.redis import RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.clients.tls import TlsSettings

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(120)]

RECOVERY = 10.0
README = Path(__file__).parents[2] / "README.md"
ODD_NAMES = ("plain", "{tagged}.0", "a}b{c", "{}empty", "{open", "close}", "two{a}{b}")
"""Stream names by which a hash tag is easily got wrong."""


@pytest.mark.parametrize("flavour", [Flavour.VALKEY, Flavour.REDIS_7_0])
async def test_a_cluster_whose_slot_moves_under_load(
    flavour: Flavour, new_redis_cluster: NewRedisCluster, new_stream: Callable[[], str]
) -> None:
    cluster = await new_redis_cluster(flavour)
    streams, group = [f"{name}-{new_stream()}" for name in ODD_NAMES], new_stream()
    url = cluster.url.replace("redis://", "redis+cluster://")
    one, two = a_replica(url, streams, group), a_replica(url, streams, group)
    added: list[tuple[str, str]] = []
    async with connect_cluster(cluster.url) as client:

        async def produce() -> None:
            for _ in range(20):
                for stream in streams:
                    added.extend(await fill(client, stream, 2))
                await anyio.sleep(0.02)

        await produce()
        async with one.running(), two.running():
            await until(lambda: len(one.owned) + len(two.owned) == len(streams), what="all streams are owned")
            async with anyio.create_task_group() as group_of_tasks:
                group_of_tasks.start_soon(produce)
                slot = await cluster.slot_of(streams[0].encode())
                owner = await cluster.owner_of(slot)
                target = next(node for node in cluster.nodes if node is not owner)
                await cluster.move_slot(slot, target)
            await until(lambda: set(added) <= set(places(one) + places(two)), what="all is read", timeout=RECOVERY)
            await until(lambda: {*one.problems[-1:], *two.problems[-1:]} <= {None}, what="nothing is wrong")
    print(f"{sum(Counter(places(one) + places(two)).values()) - len(added)} read again")
    for stream in streams:
        in_order = list(dict.fromkeys(each for each in places(one) + places(two) if each[0] == stream))
        expected = [each for each in added if each[0] == stream]
        assert set(in_order) == set(expected)
        for replica in (one, two):
            own = [each for each in dict.fromkeys(places(replica)) if each[0] == stream]
            assert own == [each for each in expected if each in set(own)], "in order"


@pytest.mark.parametrize("flavour", [Flavour.VALKEY, Flavour.REDIS_7_0])
async def test_a_failover_under_load(
    flavour: Flavour, new_sentinel: NewSentinel, new_stream: Callable[[], str]
) -> None:
    watched = await new_sentinel(flavour, sentinels=1)
    addresses = ",".join(f"{host}:{port}" for host, port in watched.addresses)
    streams, group = [new_stream(), new_stream()], new_stream()
    replica = a_replica(f"redis+sentinel://{addresses}/{watched.service}", streams, group)
    async with replica.running():
        master = await watched.master()
        async with connect(master.url) as client:
            before = [each for stream in streams for each in await fill(client, stream, 50)]
        await until(lambda: set(before) <= set(places(replica)), what="everything is read")
        promoted = await watched.failover()
        async with connect(promoted.url) as client:
            after = [each for stream in streams for each in await fill(client, stream, 50)]
            await until(lambda: set(after) <= set(places(replica)), what="it reads on", timeout=RECOVERY)

            async def all_acknowledged() -> bool:
                return not any([await pending(client, stream, group) for stream in streams])

            await until_async(all_acknowledged, what="all is acknowledged")
        await until(lambda: replica.problems[-1:] in ([], [None]), what="nothing is wrong any more")
    print(f"{len(replica.seen) - len(before) - len(after)} read again")
    for stream in streams:
        seen = [each for each in dict.fromkeys(places(replica)) if each in set(after) and each[0] == stream]
        assert seen == [each for each in after if each[0] == stream]


async def test_tls_and_the_rights_that_the_readme_names(new_redis: NewRedis) -> None:
    user = AclUser("runner", "secret", _published_rules())
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(tls=True, users=(user,)))
    connection = RedisConnection(
        url=parse_redis_url(f"rediss://localhost:{server.tls_port}"),
        client_name="test",
        username=user.name,
        password=Secret(literal=user.password),
        tls=TlsSettings(ca_file=server.authority.certificate),
    )
    streams, group = ["orders.0", "orders.1"], "charge-card"
    async with connect(server.url) as client:
        added = [each for stream in streams for each in await fill(client, stream, 20)]
        replica = a_replica(connection, streams, group)
        async with replica.running():
            await until(lambda: set(places(replica)) == set(added), what="all is read")
            await client.xgroup_destroy("orders.1", group)
            added += await fill(client, "orders.1", 5)
            await until(lambda: set(places(replica)) == set(added), what="the group is made again")
            await until(lambda: replica.problems[-1:] in ([], [None]), what="nothing is refused")
        late = a_replica(connection, ["stocks.0"], group)
        async with late.running():
            await until(lambda: bool(late.problems), what="what is not allowed is told")
            assert "NOPERM" in str(late.problems[-1]) or "permission" in str(late.problems[-1])


def _published_rules() -> str:
    """The first block of rules after the words on the least rights."""
    block = README.read_text().split("**The least rights**")[1].split("```")[1]
    return " ".join(block.split("\n\n")[0].split())
