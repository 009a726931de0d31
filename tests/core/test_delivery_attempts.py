"""A batch that fails as a whole spends attempts; one that is split, throttled or too large does not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_strategies import (
    ERROR,
    THROTTLED,
    TOO_LARGE,
    deliver,
    in_turn,
    poisoned_by,
    records_of,
    sequences,
)
from runner.core.delivery import Delivery, DeliveryPolicy
from runner.core.lanes import Ordering
from runner.core.retry import FOR_EVER, RetryPolicy
from runner.model import (
    SUCCEEDED,
    Condition,
    Failed,
    FunctionError,
    GiveUp,
    Invoke,
    Outcome,
    Settle,
    Throttled,
    TooLarge,
    WaitUntil,
)

orderings = pytest.mark.parametrize("ordering", list(Ordering))


def a_policy(
    attempts: int = FOR_EVER,
    *,
    bisect: bool = False,
    ordering: Ordering = Ordering.PARTITION,
    maximum_retry_after: float = 300.0,
) -> DeliveryPolicy:
    retry = RetryPolicy(attempts, initial_backoff=1.0, maximum_backoff=8.0, maximum_retry_after=maximum_retry_after)
    return DeliveryPolicy(retry, ordering, bisect)


def test_a_success_settles_the_batch() -> None:
    journal = deliver(Delivery(records_of(3), a_policy()), in_turn(SUCCEEDED))
    assert journal.invoked == [[0, 1, 2]]
    assert sequences(journal.delivered) == [0, 1, 2]
    assert not journal.waits


@orderings
@pytest.mark.parametrize("retries", [0, 1, 5])
def test_without_bisect_attempts_are_the_whole_batchs(ordering: Ordering, retries: int) -> None:
    journal = deliver(Delivery(records_of(3), a_policy(retries, ordering=ordering)), poisoned_by(1))
    assert journal.invoked == [[0, 1, 2]] * (retries + 1)
    assert [step.attempt for step in journal.invocations] == list(range(1, retries + 2))
    (step,) = journal.given_up
    assert step == GiveUp(step.records, Condition.RETRY_ATTEMPTS_EXHAUSTED, [retries + 1] * 3, ERROR)
    assert sequences(step.records) == [0, 1, 2]


def test_it_is_tried_for_ever() -> None:
    journal = deliver(Delivery(records_of(2), a_policy(FOR_EVER)), in_turn(*[Failed(ERROR)] * 500))
    assert len(journal.invocations) == 501
    assert sequences(journal.delivered) == [0, 1]


def test_the_wait_between_attempts_grows_to_its_maximum() -> None:
    journal = deliver(Delivery(records_of(2), a_policy()), in_turn(*[Failed(ERROR)] * 6), now=100.0)
    assert [wait.retry_at for wait in journal.waits] == [100.5, 101.5, 103.5, 107.5, 111.5, 115.5]
    assert {wait.error for wait in journal.waits} == {ERROR}


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 8))
def test_the_wait_has_full_jitter(jitter: float, failures: int) -> None:
    delivery = Delivery(records_of(1), a_policy())
    now = 0.0
    for tries in range(failures):
        delivery.on_outcome(Failed(ERROR), now, jitter)
        step = delivery.next_step(now)
        bound = min(8.0, 2.0**tries)
        if isinstance(step, WaitUntil):
            assert step.retry_at == pytest.approx(now + jitter * bound)
            now = step.retry_at
        assert isinstance(delivery.next_step(now), Invoke)


def test_the_last_attempt_is_given_up_without_a_wait() -> None:
    delivery = Delivery(records_of(2), a_policy(0))
    delivery.on_outcome(Failed(ERROR), 50.0, 0.5)
    assert isinstance(delivery.next_step(50.0), GiveUp)
    assert delivery.next_step(50.0) is None


@orderings
def test_the_left_half_with_its_poison_is_out_before_the_right_half_is_invoked(ordering: Ordering) -> None:
    journal = deliver(Delivery(records_of(4), a_policy(1, bisect=True, ordering=ordering)), poisoned_by(1))
    assert journal.invoked == [[0, 1, 2, 3], [0, 1], [0], [1], [1], [2, 3]]
    assert sequences(journal.came_out) == [0, 1, 2, 3]
    (step,) = journal.given_up
    assert (sequences(step.records), list(step.attempts)) == ([1], [2])


def test_a_split_uses_up_no_attempt_and_waits_for_nothing() -> None:
    delivery = Delivery(records_of(3), a_policy(0, bisect=True))
    delivery.on_outcome(Failed(ERROR), 50.0, 0.5)
    step = delivery.next_step(50.0)
    assert isinstance(step, Invoke)
    assert (sequences(step.records), step.attempt) == ([0, 1], 1)


def test_a_batch_of_one_is_not_split() -> None:
    journal = deliver(Delivery(records_of(1), a_policy(2, bisect=True)), poisoned_by(0))
    assert journal.invoked == [[0]] * 3


@given(st.integers(1, 120), st.data(), st.integers(0, 3))
def test_with_bisect_only_the_poisoned_die_whatever_the_attempts(count: int, data: st.DataObject, retries: int) -> None:
    poison = data.draw(st.frozensets(st.integers(0, count - 1)))
    journal = deliver(Delivery(records_of(count), a_policy(retries, bisect=True)), poisoned_by(*poison))
    given_up = [record.sequence for step in journal.given_up for record in step.records]
    assert given_up == sorted(poison)
    assert sequences(journal.came_out) == list(range(count))
    assert all(list(step.attempts) == [retries + 1] for step in journal.given_up)


@given(st.integers(1, 2_000), st.data())
def test_one_poison_is_isolated_in_logarithmically_many_calls(count: int, data: st.DataObject) -> None:
    poison = data.draw(st.integers(0, count - 1))
    journal = deliver(Delivery(records_of(count), a_policy(0, bisect=True)), poisoned_by(poison))
    assert len(journal.invocations) - 1 <= 2 * math.log2(count) + 2
    assert len(journal.delivered) == count - 1


@pytest.mark.parametrize("poison", [0, 1, 499, 500, 997, 999])
def test_one_poison_in_a_thousand_costs_at_most_21_more_calls(poison: int) -> None:
    journal = deliver(Delivery(records_of(1_000), a_policy(0, bisect=True)), poisoned_by(poison))
    assert len(journal.invocations) - 1 <= 21
    assert [sequences(step.records) for step in journal.given_up] == [[poison]]


@pytest.mark.parametrize("bisect", [False, True])
def test_throttled_uses_no_attempt(bisect: bool) -> None:
    answers = in_turn(*[Throttled(THROTTLED)] * 50, Failed(ERROR))
    journal = deliver(Delivery(records_of(1), a_policy(0, bisect=bisect)), answers)
    assert {step.attempt for step in journal.invocations} == {1}
    (step,) = journal.given_up
    assert (list(step.attempts), step.error) == ([1], ERROR)


def test_throttled_does_not_split() -> None:
    journal = deliver(Delivery(records_of(4), a_policy(0, bisect=True)), in_turn(*[Throttled(THROTTLED)] * 3))
    assert journal.invoked == [[0, 1, 2, 3]] * 4
    assert sequences(journal.delivered) == [0, 1, 2, 3]


def test_the_wait_of_a_throttled_function_grows_and_begins_anew_after_another_answer() -> None:
    slow_down = Throttled(THROTTLED)
    answers = in_turn(*[slow_down] * 5, Failed(ERROR), slow_down, slow_down)
    journal = deliver(Delivery(records_of(1), a_policy()), answers, now=100.0)
    assert journal.waited == [0.5, 1.0, 2.0, 4.0, 4.0, 0.5, 0.5, 1.0]


@pytest.mark.parametrize(("said", "waited"), [(2.5, 2.5), (60.0, 60.0), (61.0, 60.0), (1e9, 60.0)])
def test_retry_after_is_honoured_up_to_its_maximum(said: float, waited: float) -> None:
    delivery = Delivery(records_of(1), a_policy(maximum_retry_after=60.0))
    delivery.on_outcome(Throttled(THROTTLED, said), 100.0, 0.999)
    assert delivery.next_step(100.0) == WaitUntil(100.0 + waited, 100.0 + waited, THROTTLED)


@pytest.mark.parametrize(("said", "maximum"), [(0.0, 300.0), (0.0, 0.0), (7.0, 0.0)])
def test_a_wait_of_nothing_is_a_backoff_so_that_the_function_is_not_hammered(said: float, maximum: float) -> None:
    """Whether it wants to be asked again at once, or the mapping does not let it say when."""
    answers = in_turn(*[Throttled(THROTTLED, said)] * 4)
    journal = deliver(Delivery(records_of(1), a_policy(maximum_retry_after=maximum)), answers, now=100.0)
    assert journal.waited == [0.5, 1.0, 2.0, 4.0]


def test_throttling_takes_away_no_attempt_that_was_used() -> None:
    answers = in_turn(Failed(ERROR), Throttled(THROTTLED), Failed(ERROR))
    journal = deliver(Delivery(records_of(2), a_policy(1)), answers)
    assert [step.attempt for step in journal.invocations] == [1, 2, 2]
    assert [list(step.attempts) for step in journal.given_up] == [[2, 2]]


@orderings
def test_a_batch_that_is_too_large_is_split_though_bisect_is_off(ordering: Ordering) -> None:
    def function(step: Invoke) -> Outcome:
        return TooLarge(TOO_LARGE) if len(step.records) > 2 else SUCCEEDED

    journal = deliver(Delivery(records_of(5), a_policy(0, ordering=ordering)), function)
    assert journal.invoked == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2], [3, 4]]
    assert {step.attempt for step in journal.invocations} == {1}
    assert sequences(journal.delivered) == [0, 1, 2, 3, 4]
    assert not journal.waits


def test_a_record_that_is_too_large_alone_is_given_up_for_its_size() -> None:
    def function(step: Invoke) -> Outcome:
        return TooLarge(TOO_LARGE) if 1 in sequences(step.records) else SUCCEEDED

    journal = deliver(Delivery(records_of(4), a_policy(FOR_EVER)), function)
    (step,) = journal.given_up
    assert step == GiveUp(step.records, Condition.MAXIMUM_PAYLOAD_SIZE_EXCEEDED, [0], TOO_LARGE)
    assert sequences(step.records) == [1]
    assert sequences(journal.came_out) == [0, 1, 2, 3]


def test_the_error_of_the_last_failure_goes_with_what_is_given_up() -> None:
    later = FunctionError(ERROR.kind, "KeyError", "another")
    delivery = Delivery(records_of(1), a_policy(1))
    assert delivery.error is None
    journal = deliver(delivery, in_turn(Failed(ERROR), Failed(later)))
    assert [step.error for step in journal.given_up] == [later]
    assert delivery.error is later


def test_asking_again_gives_an_invocation_or_a_wait_again_as_of_the_new_time() -> None:
    delivery = Delivery(records_of(2), a_policy())
    first = delivery.next_step(10.0)
    assert isinstance(first, Invoke)
    assert delivery.next_step(10.0) == first
    assert delivery.next_step(99.0) == first
    delivery.on_outcome(Failed(ERROR), 100.0, 0.5)
    wait = delivery.next_step(100.0)
    assert wait == WaitUntil(100.5, 100.5, ERROR)
    assert delivery.next_step(100.25) == wait
    assert isinstance(delivery.next_step(100.5), Invoke)


def test_what_came_out_does_not_come_again() -> None:
    delivery = Delivery(records_of(2), a_policy())
    delivery.on_outcome(SUCCEEDED, 0.0, 0.5)
    assert isinstance(delivery.next_step(0.0), Settle)
    assert delivery.next_step(0.0) is None
    assert delivery.next_step(0.0) is None
