"""Age wins over whatever else happens to a record."""

from __future__ import annotations

import pytest

from core_strategies import ERROR, THROTTLED, a_record, deliver, in_turn, poisoned_by, records_of, sequences
from runner.core.delivery import Delivery, DeliveryPolicy
from runner.core.lanes import Ordering
from runner.core.retry import FOR_EVER, RetryPolicy
from runner.model import NO_TIMESTAMP, Condition, Failed, GiveUp, Invoke, Record, Settle, Throttled, WaitUntil

MAXIMUM_AGE = 60.0


def a_policy(
    attempts: int = FOR_EVER, *, bisect: bool = False, initial_backoff: float = 1.0, maximum_backoff: float = 300.0
) -> DeliveryPolicy:
    retry = RetryPolicy(attempts, initial_backoff, maximum_backoff, 300.0, MAXIMUM_AGE)
    return DeliveryPolicy(retry, Ordering.PARTITION, bisect)


def aged(*seconds: float) -> list[Record]:
    """Records whose timestamps are these, in seconds."""
    return [a_record(sequence, timestamp_ms=int(stamp * 1000)) for sequence, stamp in enumerate(seconds)]


def test_what_is_too_old_from_the_start_is_given_up_without_an_invocation() -> None:
    journal = deliver(Delivery(aged(0.0, 100.0), a_policy()), in_turn(), now=100.0)
    assert journal.invoked == [[1]]
    (step,) = journal.given_up
    assert step == GiveUp(step.records, Condition.RECORD_AGE_EXCEEDED, [0], None)
    assert sequences(step.records) == [0]


def test_the_age_is_reached_exactly() -> None:
    assert isinstance(Delivery(aged(40.0), a_policy()).next_step(99.999), Invoke)
    assert isinstance(Delivery(aged(40.0), a_policy()).next_step(100.0), GiveUp)


def test_a_record_expires_while_it_waits() -> None:
    delivery = Delivery(aged(45.0, 90.0), a_policy(initial_backoff=30.0))
    assert isinstance(delivery.next_step(100.0), Invoke)
    delivery.on_outcome(Failed(ERROR), 100.0, 0.5)
    assert delivery.next_step(100.0) == WaitUntil(105.0, 115.0, ERROR)
    given_up = delivery.next_step(105.0)
    assert isinstance(given_up, GiveUp)
    assert (sequences(given_up.records), given_up.condition) == ([0], Condition.RECORD_AGE_EXCEEDED)
    assert (list(given_up.attempts), given_up.error) == ([1], ERROR)
    assert delivery.next_step(105.0) == WaitUntil(115.0, 115.0, ERROR), "the others still wait"
    again = delivery.next_step(115.0)
    assert isinstance(again, Invoke)
    assert (sequences(again.records), again.attempt) == ([1], 2)


@pytest.mark.parametrize("retry_after", [None, 250.0])
def test_age_wins_over_throttling_and_outage(retry_after: float | None) -> None:
    script = [Throttled(THROTTLED, retry_after)] * 1_000
    journal = deliver(Delivery(aged(95.0, 100.0), a_policy()), in_turn(*script), now=100.0)
    assert journal.now == 160.0
    assert [sequences(step.records) for step in journal.given_up] == [[0], [1]]
    assert {step.condition for step in journal.given_up} == {Condition.RECORD_AGE_EXCEEDED}
    assert {step.error for step in journal.given_up} == {THROTTLED}
    assert not any(any(step.attempts) for step in journal.given_up)


def test_age_ends_what_is_tried_for_ever() -> None:
    journal = deliver(Delivery(aged(100.0), a_policy(FOR_EVER)), in_turn(*[Failed(ERROR)] * 10_000), now=100.0)
    (step,) = journal.given_up
    assert (step.condition, journal.now) == (Condition.RECORD_AGE_EXCEEDED, 160.0)
    assert list(step.attempts) == [len(journal.invocations)]


def test_the_last_attempt_ends_what_is_not_yet_too_old() -> None:
    journal = deliver(Delivery(aged(100.0), a_policy(2)), in_turn(*[Failed(ERROR)] * 10), now=100.0)
    assert [step.condition for step in journal.given_up] == [Condition.RETRY_ATTEMPTS_EXHAUSTED]
    assert len(journal.invocations) == 3


@pytest.mark.parametrize("now", [0.0, 1e12])
def test_a_record_without_a_timestamp_never_expires(now: float) -> None:
    journal = deliver(Delivery(records_of(2, timestamp_ms=NO_TIMESTAMP), a_policy()), in_turn(Failed(ERROR)), now=now)
    assert sequences(journal.delivered) == [0, 1]


def test_without_a_maximum_age_nothing_expires() -> None:
    policy = DeliveryPolicy(RetryPolicy(maximum_age=None), Ordering.PARTITION)
    journal = deliver(Delivery(aged(0.0), policy), in_turn(Throttled(THROTTLED, 250.0)), now=1e9)
    assert sequences(journal.delivered) == [0]


def test_a_success_settles_also_what_grew_too_old_meanwhile() -> None:
    delivery = Delivery(aged(95.0, 100.0), a_policy())
    assert isinstance(delivery.next_step(100.0), Invoke)
    delivery.on_outcome(in_turn()(Invoke([], 1)), 200.0, 0.5)
    step = delivery.next_step(200.0)
    assert isinstance(step, Settle)
    assert sequences(step.records) == [0, 1]
    assert delivery.next_step(200.0) is None


def test_the_wait_of_an_expired_segment_does_not_hold_up_the_next() -> None:
    """Bisected: the poison waits for its next attempt, expires, and the right half is invoked at once."""
    delivery = Delivery(aged(90.0, 149.0), a_policy(bisect=True, initial_backoff=200.0))
    answer = poisoned_by(0)
    for _ in range(2):
        step = delivery.next_step(100.0)
        assert isinstance(step, Invoke)
        delivery.on_outcome(answer(step), 100.0, 0.5)
    assert delivery.next_step(100.0) == WaitUntil(150.0, 200.0, ERROR)
    assert isinstance(delivery.next_step(150.0), GiveUp)
    right = delivery.next_step(150.0)
    assert isinstance(right, Invoke)
    assert sequences(right.records) == [1]


def test_what_is_given_up_counts_as_unsettled_until_the_caller_asks_on() -> None:
    """It is being stored; the lag and what blocks a partition are told by it meanwhile."""
    old, young = aged(0.0, 100.0)
    delivery = Delivery([old, young], a_policy())
    assert isinstance(delivery.next_step(100.0), GiveUp)
    assert delivery.first_unsettled is old
    assert isinstance(delivery.next_step(100.0), Invoke)
    assert delivery.first_unsettled is young
