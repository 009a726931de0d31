"""The harness' function with Redis events, and what tells of owners: each is shown refusing, broken and kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import aiohttp
import pytest

from e2e_support.redis_group import StreamGroup, assert_generations_never_fall, generations, refused
from e2e_support.redis_owners import OwnershipWatch
from kafka_harness.behaviour import REFUSED, Behaviour
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import entry_id, entry_number
from kafka_harness.naming import NewStream
from kafka_harness.waiting import until
from redis_harness.client import connect
from redis_harness.server import RedisServer

pytestmark = pytest.mark.redis

_FIRST = entry_number("1700000000000-0")


def test_numbers_of_entry_ids_have_the_order_of_the_ids() -> None:
    ids = ["0-1", "1-0", "1700000000000-0", "1700000000000-999999", "1700000000001-2"]
    numbers = [entry_number(each) for each in ids]
    assert numbers == sorted(numbers)
    assert [entry_id(number) for number in numbers] == ids
    with pytest.raises(ValueError, match="no plausible entry id"):
        entry_number("18446744073709551615-0")


async def test_the_function_names_failed_entries_by_stream_and_id(function: FunctionProcess) -> None:
    await function.start(Behaviour(poison="report"))
    status, body = await _invoke(function, [{}, {"poison": True}], generation=7)
    failure = {"itemIdentifier": {"stream": "orders.3", "id": entry_id(_FIRST + 1)}}
    assert (status, json.loads(body)) == (200, {"batchItemFailures": [failure]})
    (call,) = function.calls()
    assert (call.partition, call.offsets, call.generation) == ("orders.3-0", [_FIRST, _FIRST + 1], 7)
    assert call.failed == [_FIRST + 1]


async def test_the_function_refuses_generations_below_the_highest_seen(function: FunctionProcess) -> None:
    await function.start(Behaviour(fenced=True))
    answers = [(await _invoke(function, [{}], generation=generation))[0] for generation in (5, 6, 5, 6)]
    assert answers == [200, 200, REFUSED, 200]
    assert (await _invoke(function, [{}], generation=1, stream="another"))[0] == 200
    calls = function.calls()
    assert refused(calls) == [calls[2]]
    assert_generations_never_fall(calls)
    assert [len(each) for each in generations(calls, "orders.3-0")] == [2, 2]

    await function.behave(Behaviour())
    assert (await _invoke(function, [{}], generation=5))[0] == 200
    with pytest.raises(AssertionError, match="came after"):
        assert_generations_never_fall(function.calls())


async def test_the_watch_sees_a_lease_that_is_taken_too_early(redis_server: RedisServer, new_stream: NewStream) -> None:
    group = StreamGroup(new_stream())
    first, second, *others = [group.lease_key(stream) for stream in group.streams]
    async with connect(redis_server.url) as client, OwnershipWatch(redis_server, group) as watch:

        async def write(key: bytes, *pairs: str | int) -> None:
            await client.eval("redis.call('HSET', KEYS[1], unpack(ARGV))", 1, key, *map(str, pairs))

        async def take(key: bytes, owner: str, generation: int, *, expires_at: int) -> None:
            await write(key, "owner", owner, "generation", generation, "expires_at", expires_at)

        for key in others:
            await take(key, "a", 1, expires_at=10_000)
        await take(first, "a", 1, expires_at=10_000)
        await write(first, "expires_at", 11_000)
        await take(first, "b", 2, expires_at=13_000)
        await take(second, "a", 1, expires_at=10_000)
        await write(second, "owner", "", "expires_at", 0)
        await take(second, "b", 2, expires_at=10_001)
        await take(second, "b", 3, expires_at=10_002)
        await until(lambda: len(watch.histories()[1]) == 3, what="all is noted")
        watch.assert_one_owner_at_a_time()

        await take(first, "c", 3, expires_at=14_999)
        await until(lambda: len(watch.histories()[0]) == 3, what="that is noted too")
        with pytest.raises(AssertionError, match=r"generation=2.*then.*generation=3"):
            watch.assert_one_owner_at_a_time()


async def _invoke(
    function: FunctionProcess, values: Sequence[object], *, generation: int, stream: str = "orders.3"
) -> tuple[int, bytes]:
    """Call the function as the runner does, with entries from ``_FIRST`` on."""
    entries = [
        {
            "stream": stream,
            "id": entry_id(_FIRST + number),
            "key": None,
            "value": base64.b64encode(json.dumps(value).encode()).decode(),
        }
        for number, value in enumerate(values)
    ]
    body = json.dumps({"eventSource": "RedisStreams", "records": {stream: entries}}).encode()
    headers = {"Stream-Runner-Generation": str(generation)}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0)) as session,
        session.post(function.url, data=body, headers=headers) as response,
    ):
        return response.status, await response.read()
