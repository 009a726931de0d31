"""Servers are asked side by side, and whoever gives up waiting for an answer leaves the question to the others."""

from __future__ import annotations

import asyncio

import looptime
import pytest

from runner.clients.redis_errors import FailureKind, RedisFailure
from runner.clients.redis_questions import SharedQuestion, first_answer
from runner.clients.redis_url import Address


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Time passes at once."""
    return "asyncio", {"loop_factory": lambda: looptime.new_event_loop(start=0)}


class Servers:
    """Numbered from 0. Each answers with its number after so many seconds, or fails then, if it is negative."""

    def __init__(self, *delays: float) -> None:
        self.addresses = [Address("server", number) for number in range(len(delays))]
        self.asked: list[int] = []
        self.asked_at: list[float] = []
        self.under_way: set[int] = set()
        self.most_at_once = 0
        self._delays = delays

    async def ask(self, address: Address) -> int:
        number = address.port
        self.asked.append(number)
        self.asked_at.append(round(now(), 3))
        self.under_way.add(number)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        try:
            await asyncio.sleep(abs(self._delays[number]))
        finally:
            self.under_way.remove(number)
        if self._delays[number] < 0:
            raise RedisFailure(FailureKind.UNREACHABLE, f"no {number}")
        return number

    async def first_answer(self) -> int:
        address, answer = await first_answer(self.addresses, self.ask)
        assert address.port == answer
        return answer


SILENT = 1_000.0


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_one_that_answers_is_the_only_one_asked() -> None:
    servers = Servers(0.05, 0.01)
    assert await servers.first_answer() == 0
    assert servers.asked == [0]


async def test_silent_ones_cost_a_head_start_each() -> None:
    servers = Servers(SILENT, SILENT, 0.01, 0.01)
    assert await servers.first_answer() == 2
    assert servers.asked_at == [0.0, 0.1, 0.2]
    assert now() == pytest.approx(0.21)
    assert not servers.under_way


async def test_one_that_fails_costs_no_wait() -> None:
    servers = Servers(-0.01, -0.02, 0.01)
    assert await servers.first_answer() == 2
    assert now() == pytest.approx(0.04)


async def test_a_slow_one_is_not_given_up_for_those_asked_after_it() -> None:
    servers = Servers(0.5, SILENT, 0.9)
    assert await servers.first_answer() == 0
    assert now() == pytest.approx(0.5)


async def test_of_those_that_answer_together_the_first_asked_counts() -> None:
    servers = Servers(0.3, 0.2, 0.1)
    assert await servers.first_answer() == 0


async def test_when_none_answers_the_first_ones_failure_is_told() -> None:
    servers = Servers(SILENT, -0.1, -0.1)
    with pytest.raises(RedisFailure, match="server:0: no answer within 1 s") as silent:
        await servers.first_answer()
    assert silent.value.kind is FailureKind.TIMEOUT
    assert now() == pytest.approx(1.0)


async def test_few_are_asked_at_a_time() -> None:
    servers = Servers(*[SILENT] * 30, 0.01)
    assert await servers.first_answer() == 30
    assert servers.most_at_once == 8
    assert now() < 5


async def test_one_that_is_named_twice_is_asked_once() -> None:
    servers = Servers(-0.01, 0.01)
    servers.addresses *= 2
    assert await servers.first_answer() == 1
    assert servers.asked == [0, 1]


async def test_a_question_goes_on_without_who_asked_it() -> None:
    servers = Servers(SILENT, SILENT, SILENT, 0.05)
    question = SharedQuestion(servers.first_answer, "here")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(question.answer(), 0.1)
    assert await asyncio.wait_for(question.answer(), 0.1) == 3
    assert servers.asked == [0, 1, 2, 3]


async def test_those_who_wait_share_a_question_and_each_has_a_failure_of_its_own() -> None:
    servers = Servers(-0.05)
    question = SharedQuestion(servers.first_answer, "here")
    waiting = [asyncio.create_task(question.answer()) for _ in range(3)]
    await asyncio.wait(waiting)
    failures = [task.exception() for task in waiting]
    assert [str(failure) for failure in failures] == ["no 0"] * 3
    assert len({id(failure) for failure in failures}) == 3
    assert servers.asked == [0]
    with pytest.raises(RedisFailure):
        await question.answer()
    assert servers.asked == [0, 0]


async def test_closing_ends_the_question_and_who_waits_for_it() -> None:
    servers, before = Servers(SILENT, SILENT), asyncio.all_tasks()
    question = SharedQuestion(servers.first_answer, "here")
    waiting = asyncio.create_task(question.answer())
    await asyncio.sleep(0.15)
    await question.close()
    assert not servers.under_way
    assert now() == pytest.approx(0.15)
    for late in (waiting, question.answer(), question.answer()):
        with pytest.raises(RedisFailure) as closed:
            await late
        assert closed.value.kind is FailureKind.CLOSED
    await question.close()
    assert asyncio.all_tasks() == before
