"""Every way to log in to Kafka, for source and destination alike, and what is said when one does not get in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e2e_support.configuration import QUICK_BACKOFF, dead_letters_to, from_kafka
from e2e_support.looking import mapping_view, until_problem
from e2e_support.process_fixtures import RunMappings
from kafka_harness import access, oracle, producing, topics
from kafka_harness.broker import Broker
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.function_process import FunctionProcess
from kafka_harness.naming import NewTopic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

QUICK = {
    "commit_interval": "200ms",
    "maximum_batching_window": "0s",
    "batch_size": 1,
    "retry_backoff": QUICK_BACKOFF,
}


def login(kafka: Broker, listener: str, mechanism: str, password: str, *, user: str = "alice") -> dict[str, Any]:
    """The keys of a Kafka section for a user with a password."""
    keys: dict[str, Any] = {"bootstrap_servers": kafka.address_of(listener)}
    keys["sasl"] = {"mechanism": mechanism, "username": user, "password": password}
    if listener == "SASL_SSL":
        keys["tls"] = {"ca_file": str(kafka.authority.certificate)}
    else:
        keys["sasl"]["allow_plaintext"] = True
    return keys


def certificate(kafka: Broker, name: str) -> dict[str, Any]:
    """The keys of a Kafka section for a client with a certificate."""
    certificate_file, key_file = kafka.authority.issue(name)
    tls = {"ca_file": kafka.authority.certificate, "certificate_file": certificate_file, "key_file": key_file}
    return {"bootstrap_servers": kafka.address_of("SSL"), "tls": {key: str(path) for key, path in tls.items()}}


def mapping_of(topic: str, security: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A mapping of ``topic``, whose group has its name."""
    mapping = from_kafka(security["bootstrap_servers"], topic, "function", group=topic, **{**QUICK, **keys})
    mapping["source"]["kafka"].update(security)
    return mapping


async def until_read(kafka: Broker, topic: str, records: int) -> None:
    """Wait until the group of ``topic`` has committed its only partition behind that many records."""
    async with CommitWatch(kafka.bootstrap, topic) as watch:
        await watch.until_committed({f"{topic}-0": records})


@pytest.fixture
async def topic(kafka: Broker, new_topic: NewTopic) -> str:
    """A topic of one partition, without records."""
    name = new_topic()
    await topics.create_topic(kafka.bootstrap, name)
    return name


async def test_source_and_destination_log_in_in_every_way(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, run_mappings: RunMappings, tmp_path: Path
) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("alice-secret\n")
    ways = {
        "plain": login(kafka, "SASL_SSL", "PLAIN", "alice-secret"),
        "scram-256": login(kafka, "SASL_PLAINTEXT", "SCRAM-SHA-256", "alice-secret"),
        "scram-512": login(kafka, "SASL_SSL", "SCRAM-SHA-512", f"${{file:{password_file}}}"),
        "mutual-tls": certificate(kafka, "erin"),
    }
    mappings, placed = {}, []
    names: dict[str, tuple[str, str]] = {}
    for name, security in ways.items():
        topic, letters = names[name] = new_topic(), new_topic()
        for each in (topic, letters):
            await topics.create_topic(kafka.bootstrap, each)
        placed += await producing.produce(kafka.bootstrap, topic, producing.numbered(6, poison_every=3))
        mappings[name] = mapping_of(
            topic, security, maximum_retry_attempts=0, destination_config=dead_letters_to(letters)
        )
    await run_mappings(mappings)
    stored = []
    for topic, letters in names.values():
        await until_read(kafka, topic, 6)
        stored += await topics.read_topic(kafka.bootstrap, letters)
    assert len(stored) == 2 * len(ways)
    oracle.assert_nothing_lost(placed, function.calls(), stored)
    oracle.assert_dead_letters_unchanged(placed, stored)


async def test_who_does_not_get_in_is_told_why_while_others_go_on_and_gets_in_later(
    kafka: Broker, new_topic: NewTopic, function: FunctionProcess, run_mappings: RunMappings, tmp_path: Path
) -> None:
    good, locked, later = new_topic(), new_topic(), new_topic()
    misspelt = later.replace("-", "_", 1)
    for topic in (good, locked, later):
        await topics.create_topic(kafka.bootstrap, topic)
    password_file = tmp_path / "password"
    password_file.write_text("wrong")
    anonymous = {"bootstrap_servers": kafka.bootstrap}
    mappings = {
        "good": mapping_of(good, anonymous),
        "locked": mapping_of(locked, login(kafka, "SASL_SSL", "SCRAM-SHA-512", f"${{file:{password_file}}}")),
        "misspelt": mapping_of(misspelt, anonymous),
        "untrusting": mapping_of(later, {"bootstrap_servers": kafka.address_of("SSL"), "tls": {}}),
    }
    runner = await run_mappings(mappings)
    refused = await until_problem(runner, "locked", "EVENT_SOURCE_AUTHN_ERROR")
    assert refused["state"] == "problem"
    assert "password" in refused["problem"]["hint"]
    missing = await until_problem(runner, "misspelt", "EVENT_SOURCE_NOT_FOUND")
    assert misspelt in missing["problem"]["text"]
    assert f"did you mean '{later}'?" in missing["problem"]["hint"]
    distrusted = await until_problem(runner, "untrusting", "EVENT_SOURCE_AUTHN_ERROR")
    assert "certificate" in distrusted["problem"]["text"]
    assert misspelt not in await topics.topic_names(kafka.bootstrap)

    placed = await producing.produce(kafka.bootstrap, good, producing.numbered(5))
    await until_read(kafka, good, 5)
    assert (await mapping_view(runner, "good"))["state"] == "enabled"

    password_file.write_text("alice-secret")
    await topics.create_topic(kafka.bootstrap, misspelt)
    for topic in (locked, misspelt):
        placed += await producing.produce(kafka.bootstrap, topic, producing.numbered(5))
        await until_read(kafka, topic, 5)
    await until_problem(runner, "locked", None)
    await until_problem(runner, "misspelt", None)
    oracle.assert_nothing_lost(placed, function.calls())


async def test_a_password_that_was_changed_is_read_again_when_the_broker_comes_back(
    kafka: Broker, topic: str, function: FunctionProcess, run_mappings: RunMappings, tmp_path: Path
) -> None:
    await access.set_scram_password(kafka.bootstrap, "dave", "first")
    password_file = tmp_path / "password"
    password_file.write_text("first")
    security = login(kafka, "SASL_PLAINTEXT", "SCRAM-SHA-256", f"${{file:{password_file}}}", user="dave")
    await run_mappings({"orders": mapping_of(topic, security)})
    placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(5))
    await until_read(kafka, topic, 5)

    await access.set_scram_password(kafka.bootstrap, "dave", "second")
    password_file.write_text("second")
    kafka.kill()
    await kafka.restart()
    placed += await producing.produce(kafka.bootstrap, topic, producing.numbered(5))
    await until_read(kafka, topic, 10)
    oracle.assert_nothing_lost(placed, function.calls())


@pytest.mark.parametrize(("resource", "operation"), [("topic", "read"), ("topic", "describe"), ("group", "read")])
async def test_access_that_is_refused_is_a_problem_until_it_is_allowed(
    kafka: Broker, topic: str, function: FunctionProcess, run_mappings: RunMappings, resource: str, operation: str
) -> None:
    placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(5))
    await access.deny(kafka.bootstrap, "alice", resource, topic, operation)
    security = login(kafka, "SASL_PLAINTEXT", "PLAIN", "alice-secret")
    runner = await run_mappings({"orders": mapping_of(topic, security)})
    # What one may not describe looks like what does not exist.
    reason = "EVENT_SOURCE_NOT_FOUND" if operation == "describe" else "EVENT_SOURCE_AUTHZ_ERROR"
    refused = await until_problem(runner, "orders", reason)
    assert resource in refused["problem"]["text"]
    assert refused["problem"]["hint"]
    assert function.calls() == []
    await access.allow_again(kafka.bootstrap, resource, topic)
    await until_read(kafka, topic, 5)
    oracle.assert_nothing_lost(placed, function.calls())


async def test_access_that_is_taken_away_while_running_is_a_problem_until_it_is_given_back(
    kafka: Broker, topic: str, function: FunctionProcess, run_mappings: RunMappings
) -> None:
    placed = await producing.produce(kafka.bootstrap, topic, producing.numbered(5))
    security = login(kafka, "SASL_PLAINTEXT", "PLAIN", "alice-secret")
    runner = await run_mappings({"orders": mapping_of(topic, security)})
    await until_read(kafka, topic, 5)
    await access.deny(kafka.bootstrap, "alice", "topic", topic, "read")
    placed += await producing.produce(kafka.bootstrap, topic, producing.numbered(5))
    await until_problem(runner, "orders", "EVENT_SOURCE_AUTHZ_ERROR")
    await access.allow_again(kafka.bootstrap, "topic", topic)
    await until_read(kafka, topic, 10)
    oracle.assert_nothing_lost(placed, function.calls())
