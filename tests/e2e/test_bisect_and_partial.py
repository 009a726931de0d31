"""What a batch that failed, as a whole or in part, costs in calls against a real broker with a real HTTP function."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from e2e_support import configuration
from e2e_support.process_fixtures import NewRunner
from kafka_harness import oracle, producing, topics
from kafka_harness.behaviour import Behaviour
from kafka_harness.broker import Broker
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call
from kafka_harness.naming import NewTopic
from kafka_harness.producing import Item
from kafka_harness.runner_process import RunnerProcess

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

BATCH = 1_000
EXTRA_CALLS = 2 * math.log2(BATCH) + 2


@pytest.mark.parametrize("attempts", [0, 2])
async def test_one_poison_in_a_thousand_is_isolated_in_a_logarithm_of_calls(
    kafka: Broker, new_topic: NewTopic, new_runner: NewRunner, function: FunctionProcess, attempts: int
) -> None:
    places = (0, 637, BATCH - 1)
    await function.start()
    mappings = {}
    produced = {}
    for place in places:
        topic = new_topic()
        for name in (topic, f"{topic}.dead"):
            await topics.create_topic(kafka.bootstrap, name)
        items = producing.numbered(BATCH)
        items[place] = Item(json.dumps({"n": place, "poison": True}).encode(), b"bad", [("trace", b"\x00\x01")])
        produced[topic] = await producing.produce(kafka.bootstrap, topic, items, batch_records=BATCH)
        mappings[topic] = configuration.from_kafka(
            kafka.bootstrap,
            topic,
            "f",
            batch_size=BATCH,
            maximum_batching_window="30s",
            bisect_batch_on_function_error=True,
            maximum_retry_attempts=attempts,
            destination_config=configuration.dead_letters_to(f"{topic}.dead"),
        )
    functions = {"f": configuration.http(function.url)}
    runner = new_runner(configuration.process(functions, mappings), arguments=["--until-caught-up"])
    runner.launch()
    assert await runner.stopped(60) == 0
    for place, (topic, placed) in zip(places, produced.items(), strict=True):
        calls = [call for call in function.calls() if call.mapping == topic]
        letters = await topics.read_topic(kafka.bootstrap, f"{topic}.dead")
        oracle.assert_nothing_lost(placed, calls, letters)
        oracle.assert_dead_letters_unchanged(placed, letters)
        oracle.assert_ordered(calls, by="partition")
        oracle.assert_no_overlap(calls, by="partition")
        assert oracle.duplicates(calls) == {}
        assert len(oracle.handled_at(calls)) == BATCH - 1
        assert calls[0].offsets == list(range(BATCH)), "the batch began whole"
        assert len(calls) - 1 - attempts <= EXTRA_CALLS
        assert [call.attempt for call in calls if call.offsets == [place]] == list(range(1, attempts + 2))
        _assert_letter(letters, topic, place, attempts + 1)
        assert await topics.committed_offsets(kafka.bootstrap, topic) == {(topic, 0): BATCH}
        print(f"poison at {place}: {len(calls) - 1} extra calls, {attempts} of them retries")


def _assert_letter(letters: Sequence[topics.Consumed], topic: str, place: int, attempts: int) -> None:
    (letter,) = letters
    assert oracle.origin_of(letter) == (f"{topic}-0", place)
    expected = {
        "trace": b"\x00\x01",
        "stream-runner-condition": b"RetryAttemptsExhausted",
        "stream-runner-attempts": str(attempts).encode(),
        "stream-runner-mapping": topic.encode(),
        "stream-runner-function": b"f",
        "stream-runner-original-position": str(place).encode(),
        "stream-runner-error-status-code": b"500",
    }
    assert {name: letter.header(name) for name in expected} == expected
    assert f"poison at {place}".encode() in (letter.header("stream-runner-error-text") or b"")


# --- partial failures: one process, one topic, one mapping a row ---

KEYS = [b"a", b"b", b"a", b"b", b"c", None]
ALL = [0, 1, 2, 3, 4, 5]


def _named(*offsets: object, partition: str = "{partition}") -> str:
    failures = [{"itemIdentifier": {"partition": partition, "offset": offset}} for offset in offsets]
    return json.dumps({"batchItemFailures": failures})


def _identifier(identifier: object) -> str:
    return json.dumps({"batchItemFailures": [{"itemIdentifier": identifier}]})


@dataclass(frozen=True)
class Row:
    """What the first calls are answered (``{partition}`` stands for its name) and the offsets of all calls then.

    ``dead``: those that become dead letters.
    """

    answers: Sequence[str]
    calls: Sequence[Sequence[int]]
    dead: Sequence[int] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def _success(body: str) -> Row:
    return Row([body], [ALL])


def _failure(body: str) -> Row:
    return Row([body], [ALL, ALL])


def _again(named: Sequence[int], again: Sequence[int], **settings: Any) -> Row:
    return Row([_named(*named)], [ALL, again], settings=settings)


def _given_up(ordering: str, calls: Sequence[Sequence[int]]) -> Row:
    """The records at 1 and 4 fail whenever they are handed over; one retry is allowed."""
    return Row([_named(1, 4), _named(1, 4)], calls, [1, 4], {"ordering": ordering, "maximum_retry_attempts": 1})


AWS_ROWS = {
    "empty-list": _success('{"batchItemFailures": []}'),
    "null-list": _success('{"batchItemFailures": null}'),
    "empty-object": _success("{}"),
    "null": _success("null"),
    "empty-string": _success('""'),
    "empty-array": _success("[]"),
    "empty-body": _success(""),
    "blank-body": _success(" \n"),
    "other-members": _success('{"statusCode": 200}'),
    "identifier-empty": _failure(_identifier("")),
    "identifier-null": _failure(_identifier(None)),
    "identifier-empty-object": _failure(_identifier({})),
    "identifier-without-offset": _failure(_identifier({"partition": "{partition}"})),
    "identifier-missing": _failure('{"batchItemFailures": [{}]}'),
    "wrong-key": _failure('{"batchItemFailures": [{"itemIdentifer": {"partition": "{partition}", "offset": 1}}]}'),
    "wrong-key-inside": _failure(_identifier({"partition": "{partition}", "Offset": 1})),
    "failure-is-text": _failure('{"batchItemFailures": ["1"]}'),
    "list-is-text": _failure('{"batchItemFailures": "all"}'),
    "list-is-object": _failure(_named(1).replace("[", "").replace("]", "")),
    "unknown-offset": _failure(_named(17)),
    "unknown-partition": _failure(_named(1, partition="elsewhere-0")),
    "one-known-one-unknown": _failure(_named(1, 17)),
    "offset-as-text": _failure(_named("1")),
    "offset-as-boolean": _failure(_named(True)),
    "invalid-json": _failure('{"batchItemFailures": ['),
    "not-json": _failure("done"),
    "number": _failure("5"),
    "array-of-failures": _failure('[{"itemIdentifier": {"partition": "{partition}", "offset": 1}}]'),
}
OUR_ROWS = {
    "partition-one": _again([1], [1, 2, 3, 4, 5]),
    "partition-several-from-the-lowest": _again([4, 2], [2, 3, 4, 5]),
    "partition-named-twice": _again([3, 3], [3, 4, 5]),
    "partition-all": _again(ALL, ALL),
    "partition-is-cut-not-halved": _again([1], [1, 2, 3, 4, 5], bisect_batch_on_function_error=True),
    "key-one": _again([1], [1, 3], ordering="key"),
    "key-several": _again([0, 4], [0, 2, 4], ordering="key"),
    "key-only-the-later-ones": _again([2], [2], ordering="key"),
    "key-null-keys-are-one-key": _again([5], [5], ordering="key"),
    "none-one": _again([1], [1], ordering="none"),
    "none-several": _again([4, 1], [1, 4], ordering="none"),
    "partition-given-up": _given_up("partition", [ALL, [1, 2, 3, 4, 5], [2, 3, 5]]),
    "key-given-up": _given_up("key", [ALL, [1, 3, 4], [3]]),
    "none-given-up": _given_up("none", [ALL, [1, 4]]),
    "not-asked-for": Row([_named(1)], [ALL], settings={"function_response_types": []}),
    "not-asked-for-invalid-json": Row(["{"], [ALL], settings={"function_response_types": []}),
}
ROWS = {**AWS_ROWS, **OUR_ROWS}


@dataclass(frozen=True)
class Outcome:
    """What the run of all rows led to."""

    calls: Sequence[Call]
    letters: Sequence[topics.Consumed]
    committed: dict[str, dict[tuple[str, int], int]]
    topic: str


@pytest.fixture(scope="module")
async def outcome(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outcome]:
    """All rows at once: their mappings read the same six records, each in a group of its own."""
    if not broker.running:
        await broker.restart()
    bootstrap, topic, dead = broker.bootstrap, "partial-failures", "partial-failures.dead"
    for name in (topic, dead):
        await topics.create_topic(bootstrap, name)
    await producing.produce(bootstrap, topic, [Item(b"{}", key) for key in KEYS])
    directory = tmp_path_factory.mktemp("rows")
    function = FunctionProcess(directory)
    answers = {name: [body.replace("{partition}", f"{topic}-0") for body in row.answers] for name, row in ROWS.items()}
    await function.start(Behaviour(answers=answers))
    base: dict[str, Any] = {
        "function_response_types": ["report_batch_item_failures"],
        "batch_size": len(KEYS),
        "destination_config": configuration.dead_letters_to(dead),
    }
    mappings = {
        name: configuration.from_kafka(bootstrap, topic, "f", **(base | row.settings)) for name, row in ROWS.items()
    }
    runner = RunnerProcess(
        configuration.process({"f": configuration.http(function.url)}, mappings),
        directory=directory,
        arguments=["--until-caught-up"],
    )
    try:
        runner.launch()
        assert await runner.stopped(60) == 0, runner.process.output()
        yield Outcome(
            calls=function.calls(),
            letters=await topics.read_topic(bootstrap, dead),
            committed={name: await topics.committed_offsets(bootstrap, name) for name in ROWS},
            topic=topic,
        )
    finally:
        runner.kill()
        function.stop()


@pytest.mark.parametrize("name", ROWS)
async def test_a_response_with_partial_failures(outcome: Outcome, name: str) -> None:
    row = ROWS[name]
    calls = [call for call in outcome.calls if call.mapping == name]
    assert [call.offsets for call in calls] == [list(offsets) for offsets in row.calls]
    letters = [letter for letter in outcome.letters if letter.header("stream-runner-mapping") == name.encode()]
    assert [oracle.origin_of(letter) for letter in letters] == [(f"{outcome.topic}-0", offset) for offset in row.dead]
    assert {letter.header("stream-runner-attempts") for letter in letters} == ({b"2"} if row.dead else set())
    assert {letter.header("stream-runner-error-kind") for letter in letters} == ({b"partial"} if row.dead else set())
    assert outcome.committed[name] == {(outcome.topic, 0): len(KEYS)}
