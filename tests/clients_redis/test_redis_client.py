"""The client gives raw replies within its time, never uses a broken connection, and sends nothing twice."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from kafka_harness.waiting import until
from redis_harness import client as bare
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.proxy import Direction, Proxy
from redis_harness.server import RedisServer
from runner.clients.redis import RedisClient, RedisConnection, Script
from runner.clients.redis_errors import Effect, FailureKind, RedisFailure, problem_of
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.clients.tls import TlsSettings

pytestmark = pytest.mark.redis

ECHO = Script("return {KEYS[1], ARGV[1], 1, false, redis.status_reply('FINE')}")
COUNT = Script("return redis.call('INCR', KEYS[1])")


@asynccontextmanager
async def connected(
    address: str,
    *,
    username: str | None = None,
    password: Secret | None = None,
    tls: TlsSettings | None = None,
    connections: int = 16,
) -> AsyncIterator[RedisClient]:
    """A client of the server at ``address``, with TLS when there are settings for it."""
    url = parse_redis_url(f"{'redis' if tls is None else 'rediss'}://{address}")
    connection = RedisConnection(url=url, client_name="test", username=username, password=password, tls=tls)
    client = RedisClient(connection, connections=connections)
    try:
        yield client
    finally:
        await client.close()


async def connections_of(server: RedisServer) -> list[str]:
    """The ids of our connections to ``server``."""
    async with bare.connect(server.url) as redis:
        lines = bytes(await bare.raw(redis, "CLIENT", "LIST")).decode().splitlines()
    return [line.split()[0] for line in lines if " name=test " in line]


@ON_EVERY_FLAVOUR
async def test_replies_are_raw(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    stream = new_stream()
    async with connected(redis_server.address) as client:
        entry_id = await client.execute("XADD", stream, "*", "a", b"\xff", "a", 2, timeout=5)
        assert await client.execute("XRANGE", stream, "-", "+", timeout=5) == [[entry_id, [b"a", b"\xff", b"a", b"2"]]]
        assert await client.execute("XLEN", stream, timeout=5) == 1
        assert await client.execute("GET", f"{stream}-none", timeout=5) is None
        assert await client.execute("PING", timeout=5) == b"PONG"


@ON_EVERY_FLAVOUR
async def test_scripts_are_sent_to_servers_that_lost_them(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    key = new_stream().encode()
    async with connected(redis_server.address) as client:
        for _ in range(2):
            assert await client.run(ECHO, [key], [b"\xff"], 5) == [key, b"\xff", 1, None, b"FINE"]
            await client.execute("SCRIPT", "FLUSH", timeout=5)
        assert [await client.run(COUNT, [key], [], 5) for _ in range(3)] == [1, 2, 3]


async def test_a_connection_is_used_again(new_redis: NewRedis) -> None:
    server = new_redis()
    async with connected(server.address) as client:
        await client.execute("PING", timeout=5)
        first = await connections_of(server)
        for _ in range(3):
            await client.execute("PING", timeout=5)
        assert await connections_of(server) == first
        assert len(first) == 1


async def test_no_more_connections_than_allowed_are_made(new_redis: NewRedis) -> None:
    server = new_redis()
    async with connected(server.address, connections=2) as client, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(client.execute("PING", timeout=5))
    async with connected(server.address, connections=2) as client:
        await asyncio.gather(*[client.execute("PING", timeout=5) for _ in range(20)])
        assert len(await connections_of(server)) == 2


async def test_a_command_that_was_cut_off_costs_its_connection(new_redis: NewRedis) -> None:
    server = new_redis()
    async with connected(server.address) as client:
        await client.execute("PING", timeout=5)  # once connected, it sends at once, however little time there is
        with pytest.raises(RedisFailure) as late:
            await client.execute("BLPOP", "none", 10, timeout=0.05)
        assert (late.value.kind, late.value.effect) == (FailureKind.TIMEOUT, Effect.UNKNOWN)
        with anyio.move_on_after(0.05):
            await client.execute("BLPOP", "none", 10, timeout=10)
        for number in range(20):
            assert await client.execute("ECHO", number, timeout=5) == b"%d" % number
        # The server has noticed that the others are gone as soon as it was asked for something else.
        assert len(await connections_of(server)) == 1


async def test_many_cancelled_commands_mix_up_no_replies(redis_server: RedisServer) -> None:
    async with connected(redis_server.address) as client:

        async def ask(text: str, limit: float) -> None:
            with anyio.move_on_after(limit):
                assert await client.execute("ECHO", text, timeout=5) == text.encode()

        for turn in range(20):
            await asyncio.gather(*[ask(f"{turn}-{number}", number / 4000) for number in range(12)])


async def test_a_blocked_read_hears_what_comes_and_ends_by_itself(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    async with connected(redis_server.address) as client:
        waiter = client.dedicated(5)
        assert await waiter.execute("XREAD", "BLOCK", 20, "STREAMS", stream, "$") is None
        read = asyncio.create_task(waiter.execute("XREAD", "BLOCK", 4000, "STREAMS", stream, "0"))
        entry_id = await client.execute("XADD", stream, "*", "a", "1", timeout=5)
        assert await read == [[stream.encode(), [[entry_id, [b"a", b"1"]]]]]
        await waiter.close()


async def test_a_dedicated_connection_waits_for_no_other(new_redis: NewRedis) -> None:
    server = new_redis()
    async with connected(server.address, connections=1) as client:
        own = client.dedicated(5)
        blocked = asyncio.create_task(client.execute("BLPOP", "none", 0, timeout=30))
        assert await own.execute("PING") == b"PONG"
        assert await own.run(ECHO, [b"k"], [1]) == [b"k", b"1", 1, None, b"FINE"]
        with pytest.raises(RedisFailure) as late:
            await own.execute("BLPOP", "none", 0, timeout=0.05)
        assert late.value.kind is FailureKind.TIMEOUT
        assert await own.execute("PING") == b"PONG"
        await own.close()
        blocked.cancel()


async def test_a_server_need_not_be_there_from_the_start(new_redis: NewRedis) -> None:
    server = new_redis()
    server.kill()
    async with connected(server.address) as client:
        with pytest.raises(RedisFailure) as refused:
            await client.execute("PING", timeout=5)
        assert (refused.value.kind, refused.value.effect) == (FailureKind.UNREACHABLE, Effect.ABSENT)
        problem = problem_of(refused.value, f"redis://{server.address}/0")
        assert problem.text == f"the server cannot be reached: redis://{server.address}/0: Connection refused"
        await server.restart()
        assert await client.execute("PING", timeout=5) == b"PONG"
        server.kill()
        with pytest.raises(RedisFailure) as lost:
            await client.execute("PING", timeout=5)
        assert lost.value.kind in (FailureKind.CONNECTION_LOST, FailureKind.UNREACHABLE)
        await server.restart()
        assert await client.execute("PING", timeout=5) == b"PONG"


async def test_connections_that_the_server_closed_while_idle_are_not_used(new_redis: NewRedis) -> None:
    server = new_redis()
    async with connected(server.address) as client:
        await asyncio.gather(*[client.execute("PING", timeout=5) for _ in range(5)])
        async with bare.connect(server.url) as redis:
            await bare.raw(redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await bare.raw(redis, "PING")
        assert await client.execute("PING", timeout=5) == b"PONG"


async def test_a_connection_that_is_made_while_the_client_closes_carries_nothing(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.port) as proxy, connected(proxy.address) as client:
        proxy.stall(Direction.TO_CLIENT)  # who connects waits for the answer to its first words
        late = asyncio.create_task(client.execute("PING", timeout=30))
        await until(lambda: proxy.connections == 1, what="a connection is being made")
        await client.close()
        await proxy.resume(Direction.BOTH)
        with pytest.raises(RedisFailure) as closed:
            await late
        assert (closed.value.kind, closed.value.effect) == (FailureKind.CLOSED, Effect.ABSENT)


async def test_a_frozen_server_costs_no_more_than_the_time_given(new_redis: NewRedis) -> None:
    server = new_redis()
    async with connected(server.address) as client:
        await client.execute("PING", timeout=5)
        server.pause()
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(RedisFailure) as late:
                await client.execute("PING", timeout=0.2)
            assert late.value.kind is FailureKind.TIMEOUT
            assert time.monotonic() - started < 2
        server.resume()
        assert await client.execute("PING", timeout=5) == b"PONG"


async def test_what_was_sent_and_not_answered_may_have_been_done(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    key = new_stream()
    async with Proxy(redis_server.port) as proxy, connected(proxy.address) as client:
        await client.execute("INCR", key, timeout=5)
        proxy.stall(Direction.TO_CLIENT)
        with pytest.raises(RedisFailure) as late:
            await client.execute("INCR", key, timeout=0.2)
        assert (late.value.kind, late.value.effect) == (FailureKind.TIMEOUT, Effect.UNKNOWN)
        await proxy.cut()
        with pytest.raises(RedisFailure) as refused:
            await client.execute("INCR", key, timeout=5)
        assert refused.value.effect is Effect.ABSENT
        await proxy.resume(Direction.BOTH)
        assert await client.execute("GET", key, timeout=5) == b"2"


async def test_closing_ends_what_is_under_way_and_refuses_what_comes(redis_server: RedisServer) -> None:
    async with connected(redis_server.address) as client:
        await client.execute("PING", timeout=5)
        blocked = asyncio.create_task(client.execute("BLPOP", "none", 0, timeout=30))
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        with pytest.raises(RedisFailure):
            await blocked
        with pytest.raises(RedisFailure) as closed:
            await client.execute("PING", timeout=5)
        assert closed.value.kind is FailureKind.CLOSED


async def test_another_database_is_another_world(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    key = new_stream()
    async with connected(redis_server.address) as first, connected(f"{redis_server.address}/1") as second:
        await first.execute("SET", key, 1, timeout=5)
        assert await second.execute("GET", key, timeout=5) is None


async def test_the_password_is_read_at_every_connect(new_redis: NewRedis, tmp_path: Path) -> None:
    server = new_redis(Flavour.VALKEY, RedisOptions(password="first"))
    file = tmp_path / "password"
    file.write_text("first\n")
    async with connected(server.address, password=Secret(path=file)) as client:

        async def ping_anew() -> object:
            """Over a connection that did not exist before."""
            own = client.dedicated(5)
            try:
                return await own.execute("PING")
            finally:
                await own.close()

        assert await client.execute("CONFIG", "SET", "requirepass", "second", timeout=5) == b"OK"
        with pytest.raises(RedisFailure) as refused:
            await ping_anew()
        assert refused.value.kind is FailureKind.AUTHENTICATION
        file.write_text("second\n")
        assert await ping_anew() == b"PONG"
        file.unlink()
        with pytest.raises(RedisFailure) as unreadable:
            await ping_anew()
        assert unreadable.value.kind is FailureKind.SETUP
        for failure in (refused.value, unreadable.value):
            assert "first" not in str(failure)
            assert "second" not in str(failure)


@ON_EVERY_FLAVOUR
async def test_a_user_with_few_rights_is_served_within_them(redis_server: RedisServer, new_redis: NewRedis) -> None:
    user = AclUser("reader", "pw", "~orders.* +client|setname +xrange +xlen")
    server = new_redis(redis_server.flavour, RedisOptions(users=(user,)))
    async with connected(server.address, username="reader", password=Secret(literal="pw")) as client:
        assert await client.execute("XLEN", "orders.0", timeout=5) == 0
        for command in (("XLEN", "payments"), ("XADD", "orders.0", "*", "a", "b")):
            with pytest.raises(RedisFailure) as refused:
                await client.execute(*command, timeout=5)
            assert refused.value.kind is FailureKind.PERMISSION
        assert await client.execute("XLEN", "orders.0", timeout=5) == 0


async def test_connections_share_what_is_trusted_until_its_file_changes(new_redis: NewRedis, tmp_path: Path) -> None:
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(tls=True))
    authority = tmp_path / "ca.pem"

    def write_with(ending: bytes) -> None:
        authority.write_bytes(server.authority.certificate.read_bytes() + ending)

    def contexts() -> int:
        gc.collect()  # those of earlier tests go before the first count, and not between two
        return sum(isinstance(each, ssl.SSLContext) for each in gc.get_objects())

    write_with(b"")
    async with connected(f"127.0.0.1:{server.tls_port}", tls=TlsSettings(ca_file=authority)) as client:
        before = contexts()
        others = [client.dedicated(5) for _ in range(20)]
        for changed in (0, 1):
            await asyncio.gather(*[each.execute("PING") for each in others])
            assert contexts() == before + 1 + changed
            write_with(b"\n")
            others.append(client.dedicated(5))
        for each in others:
            await each.close()


async def test_tls_with_and_without_a_client_certificate(new_redis: NewRedis) -> None:
    server = new_redis(Flavour.REDIS_7_0, RedisOptions(tls=True))
    address = f"127.0.0.1:{server.tls_port}"
    certificate, key = server.authority.issue("client")
    trusting = TlsSettings(ca_file=Path(server.authority.certificate))
    known = TlsSettings(
        ca_file=Path(server.authority.certificate), certificate_file=Path(certificate), key_file=Path(key)
    )
    for settings in (trusting, known, TlsSettings(insecure_skip_verify=True)):
        async with connected(address, tls=settings) as client:
            assert await client.execute("PING", timeout=5) == b"PONG"
    async with connected(address, tls=TlsSettings()) as client:
        with pytest.raises(RedisFailure) as untrusted:
            await client.execute("PING", timeout=5)
        assert untrusted.value.kind is FailureKind.CERTIFICATE
    async with connected(address, tls=TlsSettings(ca_file=Path("/nonexistent"))) as client:
        with pytest.raises(RedisFailure) as unusable:
            await client.execute("PING", timeout=5)
        assert unusable.value.kind is FailureKind.SETUP
    async with connected(server.address, tls=trusting) as client:
        with pytest.raises(RedisFailure) as no_tls:
            await client.execute("PING", timeout=0.5)
        assert no_tls.value.effect is Effect.ABSENT
    async with connected(address) as client:
        with pytest.raises(RedisFailure):
            await client.execute("PING", timeout=5)
