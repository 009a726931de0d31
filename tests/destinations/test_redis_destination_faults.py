"""Whatever happens to the server or to us, a dead letter is stored once or its lane is told that it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from destination_harness.letters import Overdue, letter_of
from destination_harness.redis_letters import destination, plain, store, stored, values
from kafka_harness.waiting import until, until_async
from redis_harness import client
from redis_harness.fixtures import ON_EVERY_FLAVOUR, NewRedis, NewSentinel
from redis_harness.flavour import Flavour
from redis_harness.options import AclUser, RedisOptions
from redis_harness.proxy import Direction, Proxy
from redis_harness.sentinel import Sentinel
from redis_harness.server import RedisServer
from runner.clients.redis import RedisConnection
from runner.clients.redis_url import parse_redis_url
from runner.clients.secret import Secret
from runner.model import DeadLetter
from runner.ports import DestinationError

pytestmark = pytest.mark.redis

LETTERS = [letter_of(value=b"%d" % number, position=number) for number in range(3)]
VALUES = [letter.record.value for letter in LETTERS]


async def until_stored(server: RedisServer, stream: str, count: int) -> None:
    async with client.connect(server.url) as redis:

        async def there() -> bool:
            return len(await stored(redis, stream)) >= count

        await until_async(there, what=f"{count} letters are stored", timeout=10)


@ON_EVERY_FLAVOUR
async def test_a_write_whose_answer_is_lost_is_stored_once(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    async with Proxy(redis_server.port) as proxy, destination(plain(proxy.address), stream) as target:
        assert await store(target, [letter_of(position=99, value=b"first")]) == [None]
        proxy.stall(Direction.TO_CLIENT)
        storing = asyncio.create_task(store(target, LETTERS))
        await until_stored(redis_server, stream, 4)
        await proxy.cut()
        await proxy.resume(Direction.BOTH)
        assert await storing == [None] * 3
    async with client.connect(redis_server.url) as redis:
        assert await values(redis, stream) == [b"first", *VALUES]


@ON_EVERY_FLAVOUR
@pytest.mark.parametrize("aof", ["always", None])
async def test_a_server_killed_before_it_answered_stores_once(
    redis_server: RedisServer, new_redis: NewRedis, aof: Literal["always"] | None
) -> None:
    server = new_redis(redis_server.flavour, RedisOptions(aof=aof))
    async with Proxy(server.port) as proxy, destination(plain(proxy.address), "dead") as target:
        assert await store(target, LETTERS[:1]) == [None]
        proxy.stall(Direction.TO_CLIENT)
        storing = asyncio.create_task(store(target, LETTERS[1:]))
        await until_stored(server, "dead", 3)
        server.kill()
        await proxy.cut()
        await server.restart()
        await proxy.resume(Direction.BOTH)
        assert await storing == [None] * 2
    async with client.connect(server.url) as redis:
        # Without a log on disk it has lost everything, and what was under way is written anew.
        assert await values(redis, "dead") == (VALUES if aof else VALUES[1:])


async def test_a_frozen_server_is_waited_for_and_reported(new_redis: NewRedis) -> None:
    server = new_redis()
    overdue = Overdue()
    async with destination(plain(server.address), "dead", timeout=0.2, observer=overdue) as target:

        async def is_stored() -> bool:
            return await store(target, LETTERS[:1]) == [None]

        await until_async(is_stored, what="it has connected within its time")
        overdue.records.clear()
        server.pause()
        storing = asyncio.create_task(store(target, LETTERS))
        await overdue.wait_for(3, storing)
        assert not storing.done()
        server.resume()
        assert await storing == [None] * 3
    assert set(overdue.records) == {3}
    async with client.connect(server.url) as redis:
        assert sorted(await values(redis, "dead")) == VALUES  # type: ignore[type-var]


async def test_a_server_that_is_not_there_certainly_stores_nothing(new_redis: NewRedis) -> None:
    server = new_redis()
    server.kill()
    async with destination(plain(server.address), "dead") as target:
        results = await store(target, LETTERS)
        assert [type(result) for result in results] == [DestinationError] * 3
        await server.restart()
        assert await store(target, LETTERS) == [None] * 3
    async with client.connect(server.url) as redis:
        assert await values(redis, "dead") == VALUES


@ON_EVERY_FLAVOUR
async def test_a_full_server_refuses_and_takes_them_when_there_is_room(
    redis_server: RedisServer, new_redis: NewRedis
) -> None:
    server = new_redis(redis_server.flavour)
    async with client.connect(server.url) as redis, destination(plain(server.address), "dead") as target:
        await client.raw(redis, "CONFIG", "SET", "maxmemory", 1)
        (refused, *others) = await store(target, LETTERS)
        assert len(others) == 2
        assert "maxmemory" in str(refused)
        assert await stored(redis, "dead") == []
        await client.raw(redis, "CONFIG", "SET", "maxmemory", 0)
        assert await store(target, LETTERS) == [None] * 3
        await client.raw(redis, "CONFIG", "SET", "maxmemory", 1)
        assert await store(target, LETTERS) == [None] * 3, "what is stored already needs no room"
        assert await values(redis, "dead") == VALUES


@ON_EVERY_FLAVOUR
@pytest.mark.parametrize("missing", ["xadd", "set", "get", "xrange", "evalsha"])
async def test_a_right_that_is_missing_keeps_a_letter_out_only_until_it_is_given(
    redis_server: RedisServer, new_redis: NewRedis, missing: str
) -> None:
    user = AclUser("writer", "pw", f"~* +@all -{missing}")
    server = new_redis(redis_server.flavour, RedisOptions(users=(user,)))
    connection = RedisConnection(
        url=parse_redis_url(f"redis://{server.address}"),
        client_name="test",
        username="writer",
        password=Secret(literal="pw"),
    )
    async with client.connect(server.url) as redis, destination(connection, "dead") as target:
        # A marker without its entry, as another's write that was undone leaves it, makes every step be taken.
        await store(target, LETTERS)
        await client.raw(redis, "ACL", "SETUSER", "writer", "+@all")
        assert await store(target, LETTERS) == [None] * 3
        await client.raw(redis, "ACL", "SETUSER", "writer", f"-{missing}")
        more = [letter_of(value=b"more", position=7), *LETTERS]
        results = await store(target, more)
        refused = results if missing != "xrange" else results[1:]
        assert all(isinstance(result, DestinationError) for result in refused)
        assert "may not do this" in str(refused[0])
        await client.raw(redis, "ACL", "SETUSER", "writer", "+@all")
        assert await store(target, more) == [None] * 4
        assert await values(redis, "dead") == [*VALUES, b"more"]


@ON_EVERY_FLAVOUR
async def test_a_server_that_forgot_our_script_is_told_it_again(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    async with client.connect(redis_server.url) as redis, destination(plain(redis_server.address), stream) as target:
        for letter in LETTERS:
            assert await store(target, [letter]) == [None]
            await client.raw(redis, "SCRIPT", "FLUSH")
        assert await values(redis, stream) == VALUES


@pytest.mark.parametrize("redis_server", [Flavour.VALKEY, Flavour.REDIS_7_0], indirect=True)
async def test_a_server_that_loads_its_data_stores_nothing_yet(redis_server: RedisServer, new_redis: NewRedis) -> None:
    overrides = {
        "save": "3600 1",
        "rdbcompression": "no",
        "key-load-delay": "20000",  # of 20 s in all, until it is told otherwise
        "loading-process-events-interval-bytes": "1024",
    }
    server = new_redis(redis_server.flavour, RedisOptions(overrides=overrides))
    async with client.connect(server.url) as redis:
        for number in range(1_000):
            await redis.set(f"key-{number}", "x" * 100)
    await server.shut_down()
    server.process.start()
    async with destination(plain(server.address), "dead") as target:

        async def is_loading() -> bool:
            return "loads its data" in str((await store(target, LETTERS))[0])

        await until_async(is_loading, what="the server loads its data", timeout=10, every=0.01)
        async with client.connect(server.url) as redis:
            await client.raw(redis, "CONFIG", "SET", "key-load-delay", 0)

        async def is_stored() -> bool:
            return await store(target, LETTERS) == [None] * 3

        await until_async(is_stored, what="the server has loaded its data", timeout=30)
    async with client.connect(server.url) as redis:
        assert await values(redis, "dead") == VALUES


async def test_two_owners_of_one_record_store_it_once(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    stream = new_stream()
    connection = plain(redis_server.address)
    async with destination(connection, stream) as one, destination(connection, stream) as other:
        results = await asyncio.gather(*[store(target, [letter]) for letter in LETTERS for target in (one, other)])
    assert results == [[None]] * 6
    async with client.connect(redis_server.url) as redis:
        assert sorted(await values(redis, stream)) == VALUES  # type: ignore[type-var]


async def test_a_store_that_was_cancelled_is_made_up_for(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    async with Proxy(redis_server.port) as proxy, destination(plain(proxy.address), stream) as target:
        assert await store(target, LETTERS[:1]) == [None]
        proxy.stall(Direction.TO_CLIENT)
        storing = asyncio.create_task(store(target, LETTERS[1:]))
        await until_stored(redis_server, stream, 3)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
    async with destination(plain(redis_server.address), stream) as successor:
        assert await store(successor, LETTERS) == [None] * 3
    async with client.connect(redis_server.url) as redis:
        assert await values(redis, stream) == VALUES


@ON_EVERY_FLAVOUR
async def test_a_letter_that_was_removed_may_be_stored_again(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    async with client.connect(redis_server.url) as redis, destination(plain(redis_server.address), stream) as target:
        for _ in range(2):
            assert await store(target, LETTERS) == [None] * 3
            assert await values(redis, stream) == VALUES
            await client.raw(redis, "DEL", stream)
        assert await store(target, LETTERS) == [None] * 3
        (entry_id, _), *_ = await client.read_stream(redis, stream)
        await client.raw(redis, "XDEL", stream, entry_id)
        assert await store(target, LETTERS) == [None] * 3
        assert await values(redis, stream) == [*VALUES[1:], VALUES[0]]


async def test_another_record_at_the_same_place_is_another_letter(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    same_place = [letter_of(value=b"1"), letter_of(value=b"2"), letter_of(value=b"2", timestamp_ms=5)]
    async with client.connect(redis_server.url) as redis, destination(plain(redis_server.address), stream) as target:
        assert await store(target, same_place) == [None] * 3
        assert await values(redis, stream) == [b"1", b"2", b"2"]


async def test_markers_live_for_their_time_only(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    stream = new_stream()
    async with client.connect(redis_server.url) as redis:
        async with destination(plain(redis_server.address), stream, marker_ttl=120.0) as target:
            assert await store(target, LETTERS) == [None] * 3
        markers = [key async for key in redis.scan_iter(f"{{{stream}}}:dead-letter:*")]
        assert len(markers) == 3
        assert all([110 < await redis.ttl(marker) <= 120 for marker in markers])


@ON_EVERY_FLAVOUR
async def test_a_place_that_is_no_stream_leaves_no_letter_marked(
    redis_server: RedisServer, new_stream: Callable[[], str]
) -> None:
    stream = new_stream()
    async with client.connect(redis_server.url) as redis, destination(plain(redis_server.address), stream) as target:
        await redis.set(stream, "no stream")
        for _ in range(2):
            (refused, *_) = await store(target, LETTERS)
            assert "not a stream" in str(refused)
        await redis.delete(stream)
        assert await store(target, LETTERS) == [None] * 3
        assert await values(redis, stream) == VALUES


async def test_a_wrong_password_is_said_and_a_right_one_read_again(new_redis: NewRedis, tmp_path: Path) -> None:
    server = new_redis(Flavour.VALKEY, RedisOptions(password="right"))
    file = tmp_path / "password"
    file.write_text("wrong")
    connection = RedisConnection(
        url=parse_redis_url(f"redis://{server.address}"), client_name="test", password=Secret(path=file)
    )
    async with destination(connection, "dead") as target:
        (refused, *_) = await store(target, LETTERS)
        assert "refused the login" in str(refused)
        assert "wrong" not in str(refused).lower().replace("wrongpass", "")
        file.write_text("right")
        assert await store(target, LETTERS) == [None] * 3


async def test_a_failover_loses_no_letter(new_sentinel: NewSentinel) -> None:
    sentinel = await new_sentinel(Flavour.REDIS_7_0)
    addresses = ",".join([f"{host}:{port}" for host, port in sentinel.addresses])
    url = parse_redis_url(f"redis+sentinel://{addresses}/{Sentinel.service}")
    letters: list[DeadLetter] = []
    over = asyncio.Event()
    async with destination(RedisConnection(url=url, client_name="test"), "dead", timeout=2.0) as target:

        async def store_until_over() -> None:
            while not over.is_set():
                letter = letter_of(value=b"%d" % len(letters), position=len(letters))
                letters.append(letter)

                async def is_stored(letter: DeadLetter = letter) -> bool:
                    return await store(target, [letter]) == [None]

                await until_async(is_stored, what=f"letter {letter.record.position} is stored")

        storing = asyncio.create_task(store_until_over())
        await until_stored(await sentinel.master(), "dead", 5)
        promoted = await sentinel.failover()
        before = len(letters)
        await until(lambda: len(letters) > before + 5, what="the promoted one stores more")
        over.set()
        await storing
        # Asked again, those that the replica had not yet are stored now, and no other.
        assert await store(target, letters) == [None] * len(letters)
    async with client.connect(promoted.url) as redis:
        assert sorted(await values(redis, "dead")) == sorted([letter.record.value for letter in letters])  # type: ignore[type-var]


async def test_a_closed_destination_refuses(redis_server: RedisServer, new_stream: Callable[[], str]) -> None:
    async with destination(plain(redis_server.address), new_stream()) as target:
        await target.close()
        (refused, *_) = await store(target, LETTERS)
        assert isinstance(refused, DestinationError)
