"""The harness' function: every way to answer that it can be told, and the journal of its calls."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Literal

import aiohttp
import pytest

from kafka_harness import oracle
from kafka_harness.behaviour import Behaviour, Fault
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import key_id
from kafka_harness.waiting import until


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


@pytest.mark.parametrize(("named", "expected"), [("poison", [1]), ("rest_of_key", [1, 3]), ("rest", [1, 2, 3])])
async def test_the_function_names_failures_until_the_poison_has_worn_off(
    function: FunctionProcess, named: Literal["poison", "rest_of_key", "rest"], expected: list[int]
) -> None:
    await function.start(Behaviour(poison="report", named=named))
    records = [(0, b"a", {}), (1, b"a", {"poison": 1}), (2, b"b", {}), (3, b"a", {})]
    status, body = await _invoke(function, records)
    failures = [{"itemIdentifier": {"partition": "orders-0", "offset": offset}} for offset in expected]
    assert (status, json.loads(body)) == (200, {"batchItemFailures": failures})
    assert (await _invoke(function, records))[1] == b'{"batchItemFailures":[]}'
    assert [call.failed for call in function.calls()] == [expected, []]


async def test_the_function_answers_a_mapping_word_for_word_as_often_as_it_is_told(function: FunctionProcess) -> None:
    behaviour = Behaviour(answers={"mapping": ["{", "second"], "another": ["never"]})
    await function.start(behaviour)
    poison: list[tuple[int, bytes | None, object]] = [(0, b"a", {"poison": True})]
    answers = [await _invoke(function, poison) for _ in range(3)]
    assert answers[:2] == [(200, b"{"), (200, b"second")]
    assert answers[2][0] == 500, "then it is itself again"
    await function.behave(behaviour)
    assert (await _invoke(function, poison))[1] == b"{"


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
    left, patient = (asyncio.create_task(_invoke(function, [(offset, b"a", {})], timeout=20)) for offset in (0, 1))
    await function.until_held(2)
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
    assert calls[1].end_ns - calls[1].start_ns >= 29_000_000  # uvloop's timers may be up to a millisecond early


async def test_the_function_reads_raw_requests_and_refuses_what_it_cannot_read(function: FunctionProcess) -> None:
    await function.start(Behaviour(payload="raw"))
    headers = {"Stream-Runner-Partition": "orders-3", "Stream-Runner-First-Position": "17", "Stream-Runner-Key": "a%00"}
    assert (await _post(function, b'{"poison": true}', headers))[0] == 500
    assert (await _post(function, b"no position", {}))[0] == 400
    raw, malformed = function.calls()
    assert (raw.partition, raw.offsets, raw.keys) == ("orders-3", [17], [key_id(b"a\x00")])
    with pytest.raises(AssertionError, match="1 requests were malformed"):
        oracle.assert_calls_understood([raw, malformed])


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
