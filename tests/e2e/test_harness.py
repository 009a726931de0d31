"""The harness' broker: what tests do to it, and what it does to clients, is shown here to be true."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CorruptRecordException,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from kafka_harness import access, placement, producing, topics
from kafka_harness.broker import Broker
from kafka_harness.clients import connections_closed
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.journal import Call
from kafka_harness.naming import NewTopic
from kafka_harness.producing import Item
from kafka_harness.topics import Consumed
from kafka_harness.waiting import until, until_async

pytestmark = pytest.mark.kafka


async def test_what_is_produced_is_read_back_byte_for_byte(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=3)
    items = [
        Item(b"plain", b"key"),
        Item(None, b"tombstone"),
        Item(b"", None, [("twice", b"1"), ("twice", b"2"), ("binary", b"\x00\xff"), ("null", None)]),
        Item(b"stamped", b"key", timestamp_ms=1_700_000_000_123),
    ]
    placed = await producing.produce(kafka.bootstrap, topic, items, place=placement.by_murmur2(3))
    read = await topics.read_topic(kafka.bootstrap, topic)
    by_place = {(record.partition, record.offset): record for record in read}
    assert len(by_place) == len(items)
    for item, where in zip(items, placed, strict=True):
        record = by_place[where.partition, where.offset]
        assert (record.key, record.value, record.headers) == (item.key, item.value, tuple(item.headers))
    assert by_place[placed[3].partition, placed[3].offset].timestamp_ms == 1_700_000_000_123


async def test_order_and_offsets_hold_over_many_batches(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, partitions=8)
    items = producing.numbered(20_000, keys=300)
    placed = await producing.produce(kafka.bootstrap, topic, items, place=placement.by_crc32(8), compression="zstd")
    read = await topics.read_topic(kafka.bootstrap, topic)
    assert {(r.partition, r.offset, r.key, r.value) for r in read} == {p[1:] for p in placed}
    assert [p.value for p in placed] == [item.value for item in items]
    newest: dict[bytes | None, int] = {}
    for record in placed:
        assert record.offset > newest.get(record.key, -1)
        newest[record.key] = record.offset


async def test_an_aborted_transaction_is_hidden_and_its_marker_takes_an_offset(
    kafka: Broker, new_topic: NewTopic
) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    for commit in (False, True):
        await producing.produce_in_transaction(
            kafka.bootstrap, topic, producing.numbered(3), transactional_id=topic, commit=commit
        )
    assert [record.offset for record in await topics.read_topic(kafka.bootstrap, topic)] == [4, 5, 6]
    assert await topics.end_offsets(kafka.bootstrap, topic) == {(topic, 0): 8}


async def test_topics_grow_shrink_and_go(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    await topics.add_partitions(kafka.bootstrap, topic, 4)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(10), place=placement.always(3))
    await topics.delete_records(kafka.bootstrap, {(topic, 3): 7})
    assert (await topics.begin_offsets(kafka.bootstrap, topic))[topic, 3] == 7
    assert [record.offset for record in await topics.read_topic(kafka.bootstrap, topic)] == [7, 8, 9]
    await topics.delete_topic(kafka.bootstrap, topic)
    assert topic not in await topics.topic_names(kafka.bootstrap)


async def test_compaction_leaves_holes_within_seconds(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic, configs=topics.COMPACT_AT_ONCE)

    async def compacted() -> list[Consumed] | None:
        await producing.produce(kafka.bootstrap, topic, producing.numbered(20, keys=4))
        read = await topics.read_topic(kafka.bootstrap, topic)
        return read if len(read) <= read[-1].offset else None

    read = await until_async(compacted, what="the topic has holes", every=0.15)
    assert {record.key for record in read or []} == {b"key-0", b"key-1", b"key-2", b"key-3"}


async def test_a_flipped_byte_is_met_by_the_client_and_can_be_repaired(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(30), batch_records=10)
    batch = kafka.flip_byte(topic, 0, 15)
    assert (batch.first_offset, batch.last_offset) == (10, 19)
    with pytest.raises(CorruptRecordException):
        await topics.read_topic(kafka.bootstrap, topic)
    kafka.flip_byte(topic, 0, 15)
    assert len(await topics.read_topic(kafka.bootstrap, topic)) == len(placed)
    with pytest.raises(LookupError, match="offset 30"):
        kafka.flip_byte(topic, 0, 30)


async def test_a_killed_broker_comes_back_with_its_data(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    before = await producing.produce(kafka.bootstrap, topic, producing.numbered(100))
    kafka.kill()
    assert not kafka.running
    await kafka.restart()
    after = await producing.produce(kafka.bootstrap, topic, producing.numbered(100, start=100))
    read = await topics.read_topic(kafka.bootstrap, topic)
    assert [record.value for record in read] == [placed.value for placed in before + after]


async def test_a_paused_broker_answers_nothing_until_it_goes_on(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    kafka.pause()
    assert not kafka.serves(timeout=0.5)
    assert kafka.running
    kafka.resume()
    await until(kafka.serves, what="it answers again")
    assert await topics.read_topic(kafka.bootstrap, topic) == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_users_log_in_by_password(kafka: Broker, mechanism: str, protocol: str) -> None:
    assert await _log_in(kafka, protocol, mechanism=mechanism, user="alice", password="alice-secret") is None
    refused = await _log_in(kafka, protocol, mechanism=mechanism, user="alice", password="wrong")
    assert isinstance(refused, KafkaError)


async def test_a_scram_password_can_be_changed_while_the_broker_runs(kafka: Broker) -> None:
    await access.set_scram_password(kafka.bootstrap, "carol", "first")
    await access.set_scram_password(kafka.bootstrap, "carol", "second")

    async def log_in(password: str) -> KafkaError | None:
        return await _log_in(kafka, "SASL_PLAINTEXT", mechanism="SCRAM-SHA-512", user="carol", password=password)

    async def welcome() -> bool:
        return await log_in("second") is None

    # What the controller has answered comes into force a moment later.
    await until_async(welcome, what="the second password is in force")
    assert isinstance(await log_in("first"), KafkaError)


async def test_a_client_certificate_is_asked_for(kafka: Broker) -> None:
    assert await _log_in(kafka, "SSL", certificate_of="erin") is None
    assert isinstance(await _log_in(kafka, "SSL"), KafkaConnectionError)


async def test_an_acl_refuses_one_user_until_it_is_removed(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    await access.deny(kafka.bootstrap, "alice", "topic", topic, "write")
    with pytest.raises(TopicAuthorizationFailedError):
        await _send_as(kafka, "alice", topic)
    await _send_as(kafka, "bob", topic)
    await producing.produce(kafka.bootstrap, topic, producing.numbered(1))
    await access.allow_again(kafka.bootstrap, "topic", topic)
    await _send_as(kafka, "alice", topic)
    assert len(await topics.read_topic(kafka.bootstrap, topic)) == 3


async def test_commits_are_watched_from_outside(kafka: Broker, new_topic: NewTopic) -> None:
    topic, group = new_topic(), new_topic()
    await topics.create_topic(kafka.bootstrap, topic)
    placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(10, keys=2))
    calls = [_handled(topic, range(10))]
    async with CommitWatch(kafka.bootstrap, group) as watch:
        await _commit(kafka, group, topic, 4)
        await watch.until_committed({f"{topic}-0": 4})
        await _commit(kafka, group, topic, 10)
        await watch.until_committed({f"{topic}-0": 10})
    watch.assert_safe(placed, calls)
    watch.assert_never_back()
    with pytest.raises(AssertionError, match="10 committed, 4 not settled"):
        watch.assert_safe(placed, [_handled(topic, range(4))])
    assert await topics.committed_offsets(kafka.bootstrap, group) == {(topic, 0): 10}


async def _log_in(
    kafka: Broker,
    protocol: str,
    *,
    mechanism: str = "PLAIN",
    user: str | None = None,
    password: str | None = None,
    certificate_of: str | None = None,
) -> KafkaError | None:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=kafka.address_of(protocol),
        security_protocol=protocol,
        sasl_mechanism=mechanism,
        sasl_plain_username=user,
        sasl_plain_password=password,
        ssl_context=kafka.client_context(certificate_of) if protocol.endswith("SSL") else None,
    )
    try:
        await admin.start()
    except KafkaError as error:
        return error
    finally:
        await admin.close()
        await connections_closed(kafka.address_of(protocol))
    return None


async def _send_as(kafka: Broker, user: str, topic: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.address_of("SASL_PLAINTEXT"),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-256",
        sasl_plain_username=user,
        sasl_plain_password=f"{user}-secret",
    )
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"from " + user.encode())
    finally:
        await producer.stop()


async def _commit(kafka: Broker, group: str, topic: str, offset: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        await consumer.commit({place: offset})
    finally:
        await consumer.stop()


def _handled(topic: str, offsets: range) -> Call:
    """A call that ended well, long ago."""
    return Call(
        start_ns=0,
        end_ns=1,
        mapping="mapping",
        partition=f"{topic}-0",
        offsets=list(offsets),
        keys=[None] * len(offsets),
        attempt=1,
        idempotency_key="",
        status=200,
    )
