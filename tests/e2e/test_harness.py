"""The harness itself: what the other end-to-end tests rely on is shown here to be true."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CorruptRecordException,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from kafka_harness import access, oracle, placement, producing, topics
from kafka_harness.behaviour import Behaviour, Fault
from kafka_harness.broker import Broker
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, key_id
from kafka_harness.producing import Item, Placed
from kafka_harness.scrape import Scrape
from kafka_harness.topics import Consumed
from kafka_harness.waiting import until

pytestmark = pytest.mark.kafka

NewTopic = Callable[[], str]


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

    read = await until(compacted, what="the topic has holes", every=0.15)
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
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await topics.read_topic(kafka.bootstrap, topic)
    kafka.resume()
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
    for password, welcome in (("second", True), ("first", False)):
        refused = await _log_in(
            kafka, "SASL_PLAINTEXT", mechanism="SCRAM-SHA-512", user="carol", password=password
        )
        assert (refused is None) is welcome


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
    calls = [_call(topic, offsets=range(10), start_ns=0, end_ns=1)]
    async with CommitWatch(kafka.bootstrap, group) as watch:
        await _commit(kafka, group, topic, 4)
        await watch.until_committed({f"{topic}-0": 4})
        await _commit(kafka, group, topic, 10)
        await watch.until_committed({f"{topic}-0": 10})
    watch.assert_safe(placed, calls)
    watch.assert_never_back()
    with pytest.raises(AssertionError, match="10 committed, 4 not settled"):
        watch.assert_safe(placed, [_call(topic, offsets=range(4), start_ns=0, end_ns=1)])
    assert await topics.committed_offsets(kafka.bootstrap, group) == {(topic, 0): 10}


async def test_the_function_fails_poison_calls_whole_and_journals_them(function: FunctionProcess) -> None:
    await function.start()
    assert await _invoke(function, [(0, b"a", {"n": 0}), (1, None, {"n": 1})]) == (200, b"")
    status, body = await _invoke(function, [(2, b"a", {"n": 2}), (3, b"a", {"poison": True})])
    assert (status, json.loads(body)["errorType"]) == (500, "Poison")
    first, second = function.calls()
    assert (first.partition, first.offsets, first.keys) == ("orders-0", [0, 1], [key_id(b"a"), None])
    assert (first.mapping, first.attempt, first.idempotency_key) == ("mapping", 1, "identity")
    assert (first.succeeded, second.succeeded, second.status) == (True, False, 500)
    assert first.start_ns <= first.end_ns <= second.start_ns
    assert sorted(oracle.handled_at(function.calls())) == [("orders-0", 0), ("orders-0", 1)]


@pytest.mark.parametrize(
    ("named", "expected"), [("poison", [1]), ("rest_of_key", [1, 3]), ("rest", [1, 2, 3])]
)
async def test_the_function_names_failures_until_the_poison_has_worn_off(
    function: FunctionProcess, named: Any, expected: list[int]
) -> None:
    await function.start(Behaviour(poison="report", named=named))
    records = [(0, b"a", {}), (1, b"a", {"poison": 1}), (2, b"b", {}), (3, b"a", {})]
    status, body = await _invoke(function, records)
    failures = [{"itemIdentifier": {"partition": "orders-0", "offset": offset}} for offset in expected]
    assert (status, json.loads(body)) == (200, {"batchItemFailures": failures})
    assert (await _invoke(function, records))[1] == b'{"batchItemFailures":[]}'
    assert [call.failed for call in function.calls()] == [expected, []]


async def test_the_function_faults_at_a_rate_that_repeats_with_its_seed(function: FunctionProcess) -> None:
    faults = [Fault(rate=0.3, status=429, retry_after=0.5), Fault(rate=0.3, kind="reset")]
    await function.start()
    outcomes = []
    for _ in range(2):
        await function.behave(Behaviour(faults=faults, seed=7))
        outcomes.append([await _outcome(function, offset) for offset in range(30)])
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {200, 429, "reset"}
    endings = [call.ending for call in function.calls()]
    assert endings.count("reset") == outcomes[0].count("reset") * 2


async def test_the_function_holds_calls_and_notes_those_whose_caller_left(function: FunctionProcess) -> None:
    await function.start(Behaviour(hang=True))
    left, patient = (
        asyncio.create_task(_invoke(function, [(offset, b"a", {})], timeout=20)) for offset in (0, 1)
    )

    async def held() -> bool:
        return (await function.status()).held == 2

    await until(held, what="both calls are held")
    left.cancel()
    await asyncio.wait([left])
    await until(function.calls, what="the caller's leaving is noted")
    await function.behave(Behaviour())
    assert (await patient)[0] == 200
    assert [(call.offsets, call.ending) for call in function.calls()] == [([0], "abandoned"), ([1], "answered")]


async def test_the_function_keeps_its_journal_over_a_kill(function: FunctionProcess) -> None:
    await function.start()
    await _invoke(function, [(0, b"a", {})])
    function.kill()
    await function.start(Behaviour(slow_keys={"a": 30.0}))
    await _invoke(function, [(1, b"a", {})])
    calls = function.calls()
    assert [call.offsets for call in calls] == [[0], [1]]
    assert calls[1].end_ns - calls[1].start_ns >= 30_000_000


async def test_the_function_reads_raw_requests_and_refuses_what_it_cannot_read(function: FunctionProcess) -> None:
    await function.start(Behaviour(payload="raw"))
    headers = {"Stream-Runner-Partition": "orders-3", "Stream-Runner-First-Position": "17", "Stream-Runner-Key": "a%00"}
    assert (await _post(function, b'{"poison": true}', headers))[0] == 500
    assert (await _post(function, b"no position", {}))[0] == 400
    raw, malformed = function.calls()
    assert (raw.partition, raw.offsets, raw.keys) == ("orders-3", [17], [key_id(b"a\x00")])
    with pytest.raises(AssertionError, match="1 requests were malformed"):
        oracle.assert_calls_understood([raw, malformed])


def test_the_oracle_sees_what_is_lost_and_what_was_never_there() -> None:
    produced = [Placed("orders", 0, offset, b"k", b"v") for offset in range(4)]
    calls = [_call("orders", offsets=[0, 1], failed=[1]), _call("orders", offsets=[2, 3], status=500)]
    letters = [_letter("orders", 0, 1)]
    with pytest.raises(AssertionError, match=r"2 of 4 records were lost: \('orders-0', 2\)"):
        oracle.assert_nothing_lost(produced, calls, letters)
    oracle.assert_nothing_lost(produced, calls, letters, filtered=[("orders-0", 2), ("orders-0", 3)])
    with pytest.raises(AssertionError, match="never produced"):
        oracle.assert_nothing_lost(produced[:1], calls, letters)
    oracle.assert_dead_letters_unchanged(produced, letters)
    with pytest.raises(AssertionError, match="1 dead letters differ"):
        oracle.assert_dead_letters_unchanged(produced, [letters[0]._replace(value=b"other")])


def test_the_oracle_sees_disorder_overlap_and_duplicates() -> None:
    early, late = _call("orders", offsets=[0], start_ns=5, end_ns=9), _call("orders", offsets=[1], start_ns=1, end_ns=4)
    with pytest.raises(AssertionError, match="orders-0@0 after 1"):
        oracle.assert_ordered([early, late], by="key")
    oracle.assert_ordered([early, _call("orders", offsets=[1], key=b"other", start_ns=1, end_ns=4)], by="key")
    oracle.assert_no_overlap([early, late], by="key")
    with pytest.raises(AssertionError, match="1 calls overlapped by partition"):
        oracle.assert_no_overlap([early, _call("orders", offsets=[1], key=b"x", start_ns=8, end_ns=12)], by="partition")
    assert oracle.duplicates([early, early, late]) == {("orders-0", 0): 1}


def test_a_scrape_is_looked_up_by_name_and_labels() -> None:
    scrape = Scrape('# TYPE lag gauge\nlag{mapping="a",partition="0"} 2\nlag{mapping="a",partition="1"} 3\n')
    assert scrape.value("lag", mapping="a") == 5
    assert scrape.value("lag", partition="1") == 3
    with pytest.raises(LookupError, match="no sample lag"):
        scrape.value("lag", mapping="b")


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


async def _invoke(
    function: FunctionProcess, records: Sequence[tuple[int, bytes | None, object]], *, timeout: float = 10.0
) -> tuple[int, bytes]:
    """Call the function as the runner does, with records of ``orders-0``."""
    entries = [
        {
            "offset": offset,
            "key": None if key is None else base64.b64encode(key).decode(),
            "value": base64.b64encode(json.dumps(value).encode()).decode(),
        }
        for offset, key, value in records
    ]
    body = json.dumps({"eventSource": "SelfManagedKafka", "records": {"orders-0": entries}}).encode()
    headers = {"Stream-Runner-Mapping": "mapping", "Stream-Runner-Attempt": "1", "Idempotency-Key": "identity"}
    return await _post(function, body, headers, timeout=timeout)


async def _outcome(function: FunctionProcess, offset: int) -> int | str:
    try:
        return (await _invoke(function, [(offset, b"a", {})]))[0]
    except aiohttp.ClientError:
        return "reset"


async def _post(
    function: FunctionProcess, body: bytes, headers: dict[str, str], *, timeout: float = 10.0
) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session,
        session.post(function.url, data=body, headers=headers) as response,
    ):
        return response.status, await response.read()


def _call(
    topic: str,
    *,
    offsets: Sequence[int],
    key: bytes = b"k",
    start_ns: int = 1,
    end_ns: int = 2,
    status: int = 200,
    failed: Sequence[int] = (),
) -> Call:
    return Call(
        start_ns=start_ns,
        end_ns=end_ns,
        mapping="mapping",
        partition=f"{topic}-0",
        offsets=list(offsets),
        keys=[key_id(key)] * len(offsets),
        attempt=1,
        idempotency_key="identity",
        status=status,
        failed=list(failed),
    )


def _letter(topic: str, partition: int, offset: int) -> Consumed:
    headers = (
        ("kafka_dlt-original-topic", topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", offset)),
    )
    return Consumed("letters", 0, 0, b"k", b"v", headers, 0, True)
