"""Dead letters in a real Kafka: each stored once, whole, in order, whatever happens to the broker."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from destination_harness.letters import AWKWARD_HEADERS, Overdue, letter_of
from kafka_harness.access import allow_again, deny
from kafka_harness.broker import Broker
from kafka_harness.clients import connected_admin
from kafka_harness.placement import always
from kafka_harness.producing import Item, produce
from kafka_harness.topics import Consumed, create_topic, delete_topic, read_topic, topic_names
from kafka_harness.waiting import until_async
from runner.clients.kafka import KafkaConnection, SaslSettings
from runner.clients.secret import Secret
from runner.destinations.kafka import KafkaDestination
from runner.model import NO_TIMESTAMP, ErrorKind, FunctionError
from runner.ports import DestinationError, Observer

pytestmark = pytest.mark.kafka

NOW_MS = int(time.time() * 1000)
"""About when letters are given up: no topic forgets a record of that time, or refuses it."""
HOUR_MS = 3_600_000

a_letter = partial(letter_of, timestamp_ms=NOW_MS - 1000)
_numbers = itertools.count(1)


def plain(kafka: Broker) -> KafkaConnection:
    return KafkaConnection((kafka.bootstrap,), "test")


def as_user(kafka: Broker, name: str, password: Secret) -> KafkaConnection:
    login = SaslSettings("SCRAM-SHA-256", name, password)
    return KafkaConnection((kafka.address_of("SASL_PLAINTEXT"),), "test", sasl=login)


@asynccontextmanager
async def destination(
    connection: KafkaConnection, topic: str, *, timeout: float = 10.0, observer: Observer | None = None
) -> AsyncIterator[KafkaDestination]:
    built = KafkaDestination(connection=connection, topic=topic, timeout=timeout, observer=observer or Observer())
    await built.open()
    try:
        yield built
    finally:
        await built.close()


async def connect(target: KafkaDestination) -> None:
    """Returns when it has a producer and knows its topic for some seconds: with a short time limit, that may take a
    busy broker several tries."""

    async def knows_topic() -> bool:
        try:
            await target._current_topic()
        except DestinationError:
            return False
        return True

    await until_async(knows_topic, what=f"{target.description} is reached")


async def fresh_topic(kafka: Broker, partitions: int = 1, **configs: str) -> str:
    topic = f"dead-letters-{next(_numbers)}"
    named = {name.replace("_", "."): value for name, value in configs.items()}
    await create_topic(kafka.bootstrap, topic, partitions=partitions, configs=named)
    return topic


async def stored(kafka: Broker, topic: str) -> Sequence[Consumed]:
    return await read_topic(kafka.bootstrap, topic)


def foreign_headers(record: Consumed) -> list[tuple[str, bytes | None]]:
    ours = ("stream-runner-", "kafka_dlt-")
    return [(name, value) for name, value in record.headers if not name.startswith(ours)]


async def test_key_value_and_headers_are_kept_byte_for_byte(kafka: Broker) -> None:
    letters = [
        a_letter(b"k", None, headers=AWKWARD_HEADERS),
        a_letter(None, b"v", headers=AWKWARD_HEADERS),
        a_letter(None, None, headers=AWKWARD_HEADERS),
        a_letter(b"", b"", headers=AWKWARD_HEADERS),
        a_letter(b"\xff", b"\x00\xfe", headers=AWKWARD_HEADERS),
    ]
    topic = await fresh_topic(kafka)
    async with destination(plain(kafka), topic) as target:
        assert await target.store(letters) == [None] * 5
    found = await stored(kafka, topic)
    assert [(record.key, record.value) for record in found] == [(one.record.key, one.record.value) for one in letters]
    assert [foreign_headers(record) for record in found] == [list(AWKWARD_HEADERS)] * 5
    assert [record.timestamp_ms for record in found] == [letter.record.timestamp_ms for letter in letters]
    assert found[0].header("stream-runner-condition") == b"RetryAttemptsExhausted"
    assert found[0].header("kafka_dlt-original-partition") == bytes(4)


async def test_the_original_partition_is_used_when_there_is_one(kafka: Broker) -> None:
    topic = await fresh_topic(kafka, 3)
    letters = [a_letter(number=2), a_letter(number=0), a_letter(b"key", number=7), a_letter(None, number=7)]
    async with destination(plain(kafka), topic) as target:
        assert await target.store(letters) == [None] * 4
    by_key = DefaultPartitioner()(b"key", [0, 1, 2], [])
    found = [
        (record.header("stream-runner-original-partition"), record.key, record.partition)
        for record in await stored(kafka, topic)
    ]
    assert sorted(found, key=str) == sorted(
        [(b"2", b"k", 2), (b"0", b"k", 0), (b"7", b"key", by_key), (b"7", None, 1)], key=str
    )


async def test_many_letters_keep_their_order(kafka: Broker) -> None:
    topic = await fresh_topic(kafka)
    letters = [a_letter(value=b"%d " % n + b"x" * 1000, position=n) for n in range(1000)]
    async with destination(plain(kafka), topic) as target:
        results = await asyncio.gather(target.store(letters[:600]), target.store(letters[600:]))
    assert [*results[0], *results[1]] == [None] * 1000
    assert [record.value for record in await stored(kafka, topic)] == [letter.record.value for letter in letters]


async def test_a_partition_that_is_awaited_does_not_hold_up_the_others(kafka: Broker) -> None:
    topic, overdue = await fresh_topic(kafka, 3), Overdue()
    letters = [a_letter(number=number, value=b"%d" % number) for number in (0, 1, 2, 0)]
    async with destination(plain(kafka), topic, timeout=2.0, observer=overdue) as target:
        await connect(target)
        async with target._partition_locks[0]:  # as while a write to it is under way
            store = asyncio.create_task(target.store(letters))
            await overdue.wait_for(1, store)
            later = [a_letter(number=number, value=b"later") for number in (1, 2)]
            assert await target.store(later) == [None, None]
            assert not store.done()
        assert await store == [None] * 4
    found = sorted(await stored(kafka, topic), key=lambda record: record.partition)
    expected = [(0, b"0"), (0, b"0"), (1, b"1"), (1, b"later"), (2, b"2"), (2, b"later")]
    assert [(record.partition, record.value) for record in found] == expected


async def lower_the_limit(kafka: Broker, topic: str, size: int) -> None:
    """Make ``size`` the topic's limit; it holds when this returns. Writes to partition 1 to find that out."""
    async with connected_admin(kafka.bootstrap) as admin:
        configs = {"max.message.bytes": str(size)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])

    async def refused() -> bool:
        try:
            await produce(kafka.bootstrap, topic, [Item(b"x" * size)], place=always(1))
        except MessageSizeTooLargeError:
            return True
        return False

    await until_async(refused, what=f"{topic} takes no {size} bytes", every=0.02)


@pytest.mark.parametrize("who_refuses", ["client", "broker"])
async def test_over_the_limit_it_shrinks_in_three_steps(kafka: Broker, who_refuses: str) -> None:
    topic = await fresh_topic(kafka, 2)
    if who_refuses == "client":
        await lower_the_limit(kafka, topic, 4000)
    long_text = FunctionError(kind=ErrorKind.ERROR, type="E", text="t" * 3000, stack="s" * 3000)
    large = b"v" * 5000
    letters = [
        a_letter(value=b"first"),
        a_letter(value=b"long error", error=long_text),
        a_letter(value=large, headers=(("h", b"1"),), position=17),
        a_letter(key=b"k" * 5000, value=large),
        a_letter(key=b"k" * 5000, value=None),
        a_letter(value=b"last"),
    ]
    async with destination(plain(kafka), topic) as target:
        if who_refuses == "broker":
            # The limit is lowered behind the back of the client, which has learnt it with its first letter.
            assert await target.store([a_letter(number=1)]) == [None]
            await lower_the_limit(kafka, topic, 4000)
        assert await target.store(letters) == [None] * 6
    found = [record for record in await stored(kafka, topic) if record.partition == 0]
    first, shortened, pointer, keyless, tombstone, last = found
    assert (first.value, last.value) == (b"first", b"last")
    assert first.header("stream-runner-error-stack") == b"line 3"
    assert shortened.value == b"long error"
    assert "stream-runner-error-text" not in dict(shortened.headers)
    assert "stream-runner-pointer" not in dict(shortened.headers)
    assert pointer.key == b"k"
    assert pointer.header("stream-runner-pointer") == b"true"
    assert json.loads(pointer.value or b"") == {
        "topic": "orders",
        "partition": 0,
        "offset": 17,
        "size": 5000,
        "sha256": hashlib.sha256(large).hexdigest(),
        "headers_left_out": 1,
        "key_left_out": False,
        "key_sha256": None,
    }
    assert keyless.key is None
    assert json.loads(keyless.value or b"")["key_sha256"] == hashlib.sha256(b"k" * 5000).hexdigest()
    assert json.loads(tombstone.value or b"")["sha256"] is None


async def test_a_missing_topic_is_not_created_and_is_found_once_it_exists(kafka: Broker) -> None:
    topic = await fresh_topic(kafka)
    async with destination(plain(kafka), f"{topic}s") as target:
        refused, again = await target.store([a_letter(), a_letter()])
        assert f"did you mean '{topic}'?" in str(refused)
        assert str(again) == str(refused)
        assert f"{topic}s" not in await topic_names(kafka.bootstrap)
        await create_topic(kafka.bootstrap, f"{topic}s")
        assert await target.store([a_letter()]) == [None]
    assert len(await stored(kafka, f"{topic}s")) == 1


async def test_a_topic_deleted_between_two_stores_is_not_created_again(kafka: Broker) -> None:
    topic, overdue = await fresh_topic(kafka), Overdue()
    async with destination(plain(kafka), topic, timeout=1.0, observer=overdue) as target:
        await connect(target)
        assert await target.store([a_letter()]) == [None]
        overdue.records.clear()
        await delete_topic(kafka.bootstrap, topic)
        store = asyncio.create_task(target.store([a_letter(value=b"second")]))
        reported = asyncio.create_task(overdue.wait_for(1, store))
        await asyncio.wait({store, reported}, return_when=asyncio.FIRST_COMPLETED)
        reported.cancel()
        assert topic not in await topic_names(kafka.bootstrap)
        await create_topic(kafka.bootstrap, topic)
        for result in await store:
            assert result is None or "does not exist" in str(result)


async def test_refused_access_is_told_and_recovers(kafka: Broker) -> None:
    topic = await fresh_topic(kafka)
    await deny(kafka.bootstrap, "bob", "topic", topic, "write")
    async with destination(as_user(kafka, "bob", Secret(literal="bob-secret")), topic) as target:
        (refused,) = await target.store([a_letter()])
        assert "access to the topic is refused" in str(refused)
        await allow_again(kafka.bootstrap, "topic", topic)
        assert await target.store([a_letter()]) == [None]
    assert len(await stored(kafka, topic)) == 1


async def test_a_wrong_password_is_told_and_its_correction_is_read(kafka: Broker, tmp_path: Path) -> None:
    topic = await fresh_topic(kafka)
    password = tmp_path / "password"
    password.write_text("wrong")
    async with destination(as_user(kafka, "alice", Secret(path=password)), topic) as target:
        (refused,) = await target.store([a_letter()])
        assert "the broker refused the login" in str(refused)
        password.write_text("alice-secret\n")
        assert await target.store([a_letter()]) == [None]


async def test_one_bad_letter_does_not_fail_the_others(kafka: Broker) -> None:
    topic = await fresh_topic(kafka, cleanup_policy="compact")
    async with destination(plain(kafka), topic) as target:
        first, bad, last = await target.store([a_letter(b"1"), a_letter(None), a_letter(b"2")])
        assert (first, last) == (None, None)
        assert "compacted topic" in str(bad)
        assert await target.store([a_letter(b"3")]) == [None]
    assert [record.key for record in await stored(kafka, topic)] == [b"1", b"2", b"3"]


async def test_a_timestamp_that_the_topic_refuses_or_forgets_is_replaced(kafka: Broker) -> None:
    topic = await fresh_topic(kafka, retention_ms=str(10 * HOUR_MS))
    letters = [
        a_letter(timestamp_ms=NOW_MS - HOUR_MS),
        a_letter(timestamp_ms=NOW_MS - 9 * HOUR_MS),
        a_letter(timestamp_ms=NOW_MS + 48 * HOUR_MS),
        a_letter(timestamp_ms=NO_TIMESTAMP),
    ]
    async with destination(plain(kafka), topic) as target:
        assert await target.store(letters) == [None] * 4
    assert [record.timestamp_ms for record in await stored(kafka, topic)] == [
        letters[0].record.timestamp_ms,
        *(letter.given_up_at_ms for letter in letters[1:]),
    ]


async def test_a_frozen_broker_stores_it_once_and_the_wait_is_reported(kafka: Broker) -> None:
    topic, overdue = await fresh_topic(kafka), Overdue()
    async with destination(plain(kafka), topic, timeout=1.0, observer=overdue) as target:
        await connect(target)
        assert await target.store([a_letter(value=b"before")]) == [None]
        overdue.records.clear()
        kafka.pause()
        try:
            store = asyncio.create_task(target.store([a_letter(value=b"during"), a_letter(value=b"too")]))
            await overdue.wait_for(3, store)
        finally:
            kafka.resume()
        assert await store == [None, None]
        await connect(target)
        assert await target.store([a_letter(value=b"after")]) == [None]
    assert overdue.records[:3] == [2, 2, 2]
    assert [record.value for record in await stored(kafka, topic)] == [b"before", b"during", b"too", b"after"]


async def test_a_killed_broker_stores_it_once_when_it_is_back(kafka: Broker) -> None:
    topic, overdue = await fresh_topic(kafka), Overdue()
    async with destination(plain(kafka), topic, timeout=1.0, observer=overdue) as target:
        await connect(target)
        assert await target.store([a_letter(value=b"before")]) == [None]
        overdue.records.clear()
        kafka.pause()
        store = asyncio.create_task(target.store([a_letter(value=b"during")]))
        await overdue.wait_for(1, store)
        kafka.kill()
        await overdue.wait_for(3, store)
        await kafka.restart()
        assert await store == [None]
        await connect(target)
        assert await target.store([a_letter(value=b"after")]) == [None]
    assert [record.value for record in await stored(kafka, topic)] == [b"before", b"during", b"after"]


async def test_close_is_bounded_while_a_write_is_under_way_to_a_dead_broker(kafka: Broker) -> None:
    topic, overdue = await fresh_topic(kafka), Overdue()
    async with destination(plain(kafka), topic, timeout=1.0, observer=overdue) as target:
        await connect(target)
        assert await target.store([a_letter()]) == [None]
        overdue.records.clear()
        kafka.kill()
        try:
            store = asyncio.create_task(target.store([a_letter()]))
            await overdue.wait_for(1, store)
            started = time.monotonic()
            store.cancel()
            with pytest.raises(asyncio.CancelledError):
                await store
            await target.close()
            assert time.monotonic() - started < 5
            (refused,) = await target.store([a_letter()])
            assert "is closed" in str(refused)
        finally:
            await kafka.restart()


async def test_a_cluster_that_is_away_at_first_is_told_and_found_later(kafka: Broker) -> None:
    topic = await fresh_topic(kafka)
    kafka.kill()
    try:
        async with destination(plain(kafka), topic, timeout=2.0) as target:
            started = time.monotonic()
            results = await asyncio.gather(*(target.store([a_letter()]) for _ in range(8)))
            assert time.monotonic() - started < 8
            assert all("the connection is refused" in str(result) for (result,) in results)
            await kafka.restart()
            await connect(target)
            assert await target.store([a_letter()]) == [None]
    finally:
        if not kafka.running:
            await kafka.restart()
