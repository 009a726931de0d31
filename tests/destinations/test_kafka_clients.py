"""How Kafka's clients log in, fail and stop, against a real broker."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata

from kafka_harness.access import set_scram_password
from kafka_harness.broker import Broker
from kafka_harness.ports import free_port
from kafka_harness.topics import create_topic, topic_names
from kafka_harness.waiting import until
from redis_harness.proxy import Proxy
from runner.clients.kafka import (
    Credentials,
    KafkaClient,
    KafkaConnection,
    SaslMechanism,
    SaslSettings,
    build_admin,
    build_consumer,
    build_producer,
    commit,
    stop_client,
)
from runner.clients.kafka_errors import FencedInstanceIdError, is_retriable, problem_of
from runner.clients.kafka_probe import diagnose, probe
from runner.clients.kafka_topics import existing_topics, suggest
from runner.clients.secret import Secret
from runner.clients.tls import TlsSettings
from runner.model import Reason

pytestmark = pytest.mark.kafka

_numbers = itertools.count(1)
PATIENCE = 20.0
"""Seconds for a broker that answers, but may stand still for some of them."""
STANDSTILL = 5.0


def fresh(what: str) -> str:
    return f"clients-{what}-{next(_numbers)}"


def connection(address: str, *, tls: TlsSettings | None = None, sasl: SaslSettings | None = None) -> KafkaConnection:
    return KafkaConnection((address,), "test", tls, sasl)


def login(password: str = "alice-secret", mechanism: SaslMechanism = "SCRAM-SHA-512") -> SaslSettings:
    return SaslSettings(mechanism, "alice", Secret(literal=password))


def trusting(kafka: Broker, client: str | None = None) -> TlsSettings:
    certificate, key = kafka.authority.issue(client) if client else (None, None)
    return TlsSettings(ca_file=kafka.authority.certificate, certificate_file=certificate, key_file=key)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_every_login_works(kafka: Broker, mechanism: SaslMechanism, listener: str) -> None:
    tls = trusting(kafka) if listener == "SASL_SSL" else None
    reached = connection(kafka.address_of(listener), tls=tls, sasl=login(mechanism=mechanism))
    assert await probe(reached, PATIENCE) is None
    admin = build_admin(reached)
    await admin.start()
    assert await existing_topics(admin) == await topic_names(kafka.bootstrap)
    await stop_client(admin, 5.0)


async def test_a_client_certificate_logs_in(kafka: Broker) -> None:
    assert await probe(connection(kafka.address_of("SSL"), tls=trusting(kafka, "alice")), PATIENCE) is None


WRONG: dict[str, tuple[Callable[[Broker], KafkaConnection], Reason, str]] = {
    "password": (
        lambda kafka: connection(kafka.address_of("SASL_PLAINTEXT"), sasl=login("wrong")),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "refused the login",
    ),
    "plain password": (
        lambda kafka: connection(kafka.address_of("SASL_PLAINTEXT"), sasl=login("wrong", "PLAIN")),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "refused the login",
    ),
    "no login": (
        lambda kafka: connection(kafka.address_of("SASL_PLAINTEXT")),
        Reason.EVENT_SOURCE_UNREACHABLE,
        "closed by the other side",
    ),
    "unreadable password": (
        lambda kafka: connection(
            kafka.address_of("SASL_PLAINTEXT"), sasl=SaslSettings("PLAIN", "alice", Secret(path=Path("/nowhere")))
        ),
        Reason.ESM_CONFIG_NOT_VALID,
        "/nowhere",
    ),
    "unreadable authority": (
        lambda kafka: connection(kafka.address_of("SSL"), tls=TlsSettings(ca_file=Path("/nowhere"))),
        Reason.ESM_CONFIG_NOT_VALID,
        "/nowhere",
    ),
    "authority": (
        lambda kafka: connection(kafka.address_of("SSL"), tls=TlsSettings()),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "certificate is not trusted",
    ),
    "no client certificate": (
        lambda kafka: connection(kafka.address_of("SSL"), tls=trusting(kafka)),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "TLS handshake failed",
    ),
    "tls to a plain listener": (
        lambda kafka: connection(kafka.bootstrap, tls=TlsSettings()),
        Reason.EVENT_SOURCE_UNREACHABLE,
        "closed by the other side",
    ),
    "port": (
        lambda _: connection(f"127.0.0.1:{free_port()}"),
        Reason.EVENT_SOURCE_UNREACHABLE,
        "refused",
    ),
    "host": (
        lambda _: connection("nowhere.invalid:9092"),
        Reason.EVENT_SOURCE_UNREACHABLE,
        "cannot be resolved",
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_wrong_is_told(kafka: Broker, what: str) -> None:
    build, reason, text = WRONG[what]
    wrong = build(kafka)
    admin = build_admin(wrong)
    with pytest.raises(KafkaError) as failure:
        await admin.start()
    await stop_client(admin, 3.0)
    problem = await diagnose(failure.value, wrong, None, PATIENCE)
    assert (problem.reason, text in problem.text) == (reason, True), problem
    assert problem.hint


async def test_a_frozen_broker_is_told_in_time(kafka: Broker) -> None:
    kafka.pause()
    try:
        problem = await probe(connection(kafka.bootstrap), 0.5)
    finally:
        kafka.resume()
    assert problem is not None
    assert "do not answer in time" in problem.text


async def test_one_server_that_answers_is_enough(kafka: Broker) -> None:
    both = KafkaConnection((f"127.0.0.1:{free_port()}", kafka.bootstrap), "test")
    assert await probe(both, PATIENCE) is None


async def test_a_changed_password_is_used_by_the_next_connection(kafka: Broker, tmp_path: Path) -> None:
    topic, password = fresh("rotated"), tmp_path / "password"
    await create_topic(kafka.bootstrap, topic)
    password.write_text("alice-secret\n")
    sasl = SaslSettings("SCRAM-SHA-256", "alice", Secret(path=password))
    producer = build_producer(connection(kafka.address_of("SASL_PLAINTEXT"), sasl=sasl), enable_idempotence=True)
    try:
        await producer.start()
        await producer.send_and_wait(topic, b"before")
        await set_scram_password(kafka.bootstrap, "alice", "changed")
        password.write_text("changed\n")
        for open_connection in producer.client._conns.values():
            open_connection.close()
        await producer.send_and_wait(topic, b"after")
    finally:
        await set_scram_password(kafka.bootstrap, "alice", "alice-secret")
        await stop_client(producer, 5.0)


async def test_a_client_that_is_cut_off_while_it_starts_leaves_no_connection(kafka: Broker) -> None:
    async with Proxy(int(kafka.bootstrap.rpartition(":")[2])) as proxy:
        asked = proxy.swallow(lambda data: data[4:6] == MetadataRequest.API_KEY.to_bytes(2, "big"))
        producer = build_producer(connection(proxy.address))
        starting = asyncio.create_task(producer.start())
        await asked
        starting.cancel()
        await asyncio.wait([starting])
        await stop_client(producer, 5.0)
        await until(lambda: proxy.connections == 0, what="its connection is closed")


async def test_a_changed_certificate_is_used_by_the_next_connection(kafka: Broker, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(kafka.authority.certificate.read_bytes())
    certificate, key = kafka.authority.issue("alice")
    tls = TlsSettings(ca_file=authority, certificate_file=certificate, key_file=key)
    credentials = Credentials(connection(kafka.address_of("SSL"), tls=tls))
    first = credentials.ssl_context()
    assert credentials.ssl_context() is first
    authority.write_bytes(kafka.authority.certificate.read_bytes() + b"\n")
    assert credentials.ssl_context() is not first


def consumer_of(kafka: Broker, group: str, topic: str, **options: object) -> AIOKafkaConsumer:
    consumer = build_consumer(
        connection(kafka.bootstrap),
        group_id=group,
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=300,
        request_timeout_ms=8000,
        **options,
    )
    consumer.subscribe([topic])
    return consumer


async def fail(consumer: AIOKafkaConsumer) -> None:
    """Start and poll until the client raises; it may do so in either."""
    await consumer.start()
    async with asyncio.timeout(20):
        while True:
            await consumer.getmany(timeout_ms=100)


async def test_a_clash_of_protocols_is_told(kafka: Broker) -> None:
    group, topic = fresh("group"), fresh("topic")
    await create_topic(kafka.bootstrap, topic)
    first = consumer_of(kafka, group, topic, partition_assignment_strategy=(RangePartitionAssignor,))
    second = consumer_of(kafka, group, topic, partition_assignment_strategy=(StickyPartitionAssignor,))
    try:
        await first.start()
        with pytest.raises(KafkaError) as failure:
            await fail(second)
        problem = problem_of(failure.value, connection(kafka.bootstrap), topic)
        assert problem.reason is Reason.EVENT_SOURCE_PROTOCOL_ERROR
    finally:
        await stop_client(second, 5.0)
        await stop_client(first, 5.0)


AT = connection("kafka.example:9092")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TopicAuthorizationFailedError("orders"), Reason.EVENT_SOURCE_AUTHZ_ERROR),
        (GroupAuthorizationFailedError("group"), Reason.EVENT_SOURCE_AUTHZ_ERROR),
        (UnknownTopicOrPartitionError(), Reason.EVENT_SOURCE_NOT_FOUND),
        (OffsetOutOfRangeError(), Reason.DATA_LOSS),
        (KafkaError(repr(FencedInstanceIdError())), Reason.DUPLICATE_MEMBER),
        (NodeNotReadyError(), Reason.EVENT_SOURCE_UNREACHABLE),
        (RuntimeError("?"), Reason.INTERNAL_ERROR),
    ],
)
def test_errors_have_reasons(error: Exception, reason: Reason) -> None:
    problem = problem_of(error, AT, "orders")
    assert problem.reason is reason
    assert "topic 'orders' of kafka.example:9092" in problem.text


def test_only_what_may_pass_by_itself_is_retriable() -> None:
    assert is_retriable(NodeNotReadyError())
    assert is_retriable(KafkaConnectionError())
    assert is_retriable(ConnectionResetError())
    assert not is_retriable(TopicAuthorizationFailedError())
    assert not is_retriable(ValueError())


def test_the_closest_name_is_suggested() -> None:
    assert suggest("oders", {"orders", "payments"}) == "did you mean 'orders'?"
    assert suggest("x", {"orders"}) == ""


async def tasks_left_by(client: KafkaClient, before: set[asyncio.Task[object]], timeout: float) -> float:
    started = time.monotonic()
    await stop_client(client, timeout)
    took = time.monotonic() - started
    # Those that were cancelled last may still be about to end.
    await until(lambda: asyncio.all_tasks() <= before, what="its tasks have ended", timeout=STANDSTILL, every=0.01)
    return took


@pytest.mark.parametrize("how", ["frozen", "dead"])
async def test_a_client_stops_in_time_without_its_broker(kafka: Broker, how: str) -> None:
    topic = fresh("stop")
    await create_topic(kafka.bootstrap, topic, partitions=2)
    before = asyncio.all_tasks()
    consumer = consumer_of(kafka, fresh("group"), topic)
    producer = build_producer(connection(kafka.bootstrap), enable_idempotence=True)
    admin = build_admin(connection(kafka.bootstrap))
    for client in (consumer, producer, admin):
        await client.start()
    await consumer.getmany(timeout_ms=100)
    await producer.send_and_wait(topic, b"before", partition=0)
    try:
        if how == "frozen":
            kafka.pause()
        else:
            kafka.kill()
        for number in (0, 1):
            await producer.send(topic, b"pending" * 1000, partition=number)
        for client in (consumer, producer):
            await stop_client(client, 2.0)
        assert await tasks_left_by(admin, before, 2.0) < 2.0 + STANDSTILL
    finally:
        if how == "frozen":
            kafka.resume()
        else:
            await kafka.restart()


async def test_a_cancelled_stop_still_ends(kafka: Broker) -> None:
    before = asyncio.all_tasks()
    producer = build_producer(connection(kafka.bootstrap), enable_idempotence=True)
    await producer.start()
    stop = asyncio.create_task(stop_client(producer, 5.0))
    await asyncio.sleep(0)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    await until(lambda: asyncio.all_tasks() <= before, what="the client's tasks have ended", every=0.01)


async def test_a_commit_that_was_cancelled_leaves_no_error_that_nobody_asked_for(kafka: Broker) -> None:
    topic = fresh("cancelled-commit")
    await create_topic(kafka.bootstrap, topic)
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    consumer = build_consumer(connection(kafka.bootstrap), group_id=topic, auto_offset_reset="earliest")
    consumer.subscribe(topics=[topic])
    await consumer.start()
    for each in consumer._client._conns.values():
        each._request_timeout = 1.0  # not before: to start may take a busy broker longer
    try:
        kafka.pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await commit(consumer, {TopicPartition(topic, 0): OffsetAndMetadata(0, "")})
        (request,) = [task for task in asyncio.all_tasks() if "_do_commit_offsets" in repr(task.get_coro())]
        await asyncio.wait({request}, timeout=10)
        assert request.done()
        del request
        gc.collect()
        assert reported == []
    finally:
        kafka.resume()
        await stop_client(consumer, 10.0)
