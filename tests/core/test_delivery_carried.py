"""Attempts of earlier assignments count as if this one had charged them."""

from __future__ import annotations

import pytest

from core_strategies import ERROR, deliver, in_turn, records_of, sequences
from runner.core.delivery import Delivery, DeliveryPolicy
from runner.core.lanes import Ordering
from runner.core.retry import RetryPolicy
from runner.model import SUCCEEDED, Condition, Failed, GiveUp, Invoke

POLICY = DeliveryPolicy(RetryPolicy(maximum_attempts=2), Ordering.PARTITION)


def test_the_next_attempt_has_the_next_number() -> None:
    delivery = Delivery(records_of(2), POLICY, {1: 2})
    step = delivery.next_step(0.0)
    assert isinstance(step, Invoke)
    assert step.attempt == 3


def test_what_is_exhausted_is_given_up_without_another_attempt() -> None:
    delivery = Delivery(records_of(3), POLICY, {1: 3})
    step = delivery.next_step(0.0)
    assert isinstance(step, GiveUp)
    assert sequences(step.records) == [1]
    assert step.attempts == [3]
    assert step.condition is Condition.RETRY_ATTEMPTS_EXHAUSTED
    rest = delivery.next_step(0.0)
    assert isinstance(rest, Invoke)
    assert sequences(rest.records) == [0, 2]
    assert rest.attempt == 1


@pytest.mark.parametrize(("carried", "tries"), [({}, 3), ({0: 1}, 2), ({0: 2}, 1), ({0: 3}, 0)])
def test_all_together_no_more_attempts_are_made_than_allowed(carried: dict[int, int], tries: int) -> None:
    log = deliver(Delivery(records_of(1), POLICY, carried), in_turn(*[Failed(ERROR)] * tries))
    assert len(log.invocations) == tries
    assert [step.attempts for step in log.given_up] == [[3]]


def test_each_outcome_says_what_it_has_charged() -> None:
    delivery = Delivery(records_of(2), POLICY, {0: 1})
    delivery.next_step(0.0)
    assert delivery.charged == {}
    delivery.on_outcome(Failed(ERROR), 0.0, 0.5)
    positions = [record.position for record in records_of(2)]
    assert delivery.charged == {positions[0]: 2, positions[1]: 1}
    delivery.next_step(100.0)
    delivery.on_outcome(SUCCEEDED, 100.0, 0.5)
    assert delivery.charged == {}
