"""No client of ours brings a topic into being, not even on a broker that makes whatever is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kafka_harness.broker import Broker
from kafka_harness.properties import BrokerOptions
from kafka_harness.topics import create_topic, topic_names
from runner.clients.kafka import KafkaConnection, build_admin, build_consumer, build_producer, stop_client

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def generous() -> Iterator[Broker]:
    with Broker(BrokerOptions(overrides={"auto.create.topics.enable": "true"})) as broker:
        yield broker


async def test_asking_for_a_topic_does_not_make_it(generous: Broker) -> None:
    connection = KafkaConnection((generous.bootstrap,), "test")
    consumer, producer, admin = build_consumer(connection), build_producer(connection), build_admin(connection)
    try:
        for client in (consumer, producer, admin):
            await client.start()
        for client in (consumer._client, producer.client):
            client.set_topics(["misspelt"])
            await client.force_metadata_update()
        (described,) = await admin.describe_topics(["misspelt"])
        assert described["error_code"] == 3, "unknown topic"
        # A topic that is asked for is made behind the answer; what is made after it is there when it would be.
        await create_topic(generous.bootstrap, "made-later")
        names = await topic_names(generous.bootstrap)
        assert "made-later" in names
        assert "misspelt" not in names
    finally:
        for client in (consumer, producer, admin):
            await stop_client(client, 5.0)
