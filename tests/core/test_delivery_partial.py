"""A partial failure charges the named records, and brings again what the order demands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_strategies import (
    ERROR,
    PARTIAL,
    a_record,
    batches,
    deliver,
    in_turn,
    keyed,
    naming,
    records_of,
    sequences,
)
from runner.core.delivery import Delivery, DeliveryPolicy
from runner.core.lanes import Ordering
from runner.core.retry import FOR_EVER, RetryPolicy
from runner.model import SUCCEEDED, Condition, Failed, GiveUp, Invoke, Outcome, Record

A, B, NO_KEY = b"a", b"b", None


def a_policy(ordering: Ordering, attempts: int = FOR_EVER, *, bisect: bool = False) -> DeliveryPolicy:
    return DeliveryPolicy(RetryPolicy(attempts, initial_backoff=1.0, maximum_backoff=8.0), ordering, bisect)


def first_again(records: list[Record], ordering: Ordering, *named: int, bisect: bool = False) -> list[int]:
    """The sequences of the second invocation after the first one named these."""
    answers = in_turn(naming(*[records[index] for index in named]))
    journal = deliver(Delivery(records, a_policy(ordering, bisect=bisect)), answers)
    assert len(journal.invoked) == 2
    return journal.invoked[1]


@pytest.mark.parametrize("bisect", [False, True])
@pytest.mark.parametrize(
    ("named", "again"), [((2,), [2, 3, 4]), ((3, 1), [1, 2, 3, 4]), ((4,), [4]), ((0,), [*range(5)])]
)
def test_in_a_partition_comes_again_what_is_from_the_lowest_failed_on(
    named: tuple[int, ...], again: list[int], bisect: bool
) -> None:
    assert first_again(records_of(5), Ordering.PARTITION, *named, bisect=bisect) == again


@pytest.mark.parametrize("bisect", [False, True])
@pytest.mark.parametrize(
    ("named", "again"),
    [((0,), [0, 2, 5]), ((2,), [2, 5]), ((5,), [5]), ((1,), [1, 4]), ((2, 1), [1, 2, 4, 5]), ((3,), [3, 6])],
)
def test_with_keys_comes_again_each_named_record_with_the_later_ones_of_its_key(
    named: tuple[int, ...], again: list[int], bisect: bool
) -> None:
    records = keyed([A, B, A, NO_KEY, B, A, NO_KEY])
    assert first_again(records, Ordering.KEY, *named, bisect=bisect) == again


@pytest.mark.parametrize("bisect", [False, True])
@pytest.mark.parametrize("named", [(0,), (1, 3), (4,), (0, 1, 2, 3, 4)])
def test_without_order_only_the_named_come_again(named: tuple[int, ...], bisect: bool) -> None:
    assert first_again(keyed([A, A, A, A, A]), Ordering.NONE, *named, bisect=bisect) == list(named)


@pytest.mark.parametrize("ordering", list(Ordering))
def test_the_order_in_which_failures_are_named_does_not_count(ordering: Ordering) -> None:
    records = keyed([A, B, A, B, A])
    assert first_again(records, ordering, 3, 2) == first_again(records, ordering, 2, 3)


@given(st.sampled_from(Ordering), batches(), st.data())
def test_what_does_not_come_again_is_delivered_before_the_retry(
    ordering: Ordering, batch: list[Record], data: st.DataObject
) -> None:
    named = data.draw(st.lists(st.sampled_from(batch), min_size=1, unique=True))
    journal = deliver(Delivery(batch, a_policy(ordering)), in_turn(naming(*named)))
    again = journal.invoked[1]
    settled_first = [sequence for sequence in sequences(batch) if sequence not in again]
    assert sequences(journal.delivered) == settled_first + again
    assert {record.sequence for record in named} <= set(again)


def test_attempts_are_the_named_ones() -> None:
    records = records_of(4)
    answers = in_turn(naming(records[1]), naming(records[1], records[3]), naming(records[3]))
    journal = deliver(Delivery(records, a_policy(Ordering.PARTITION, 1)), answers)
    assert journal.invoked == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]
    assert [(sequences(step.records), list(step.attempts)) for step in journal.given_up] == [([1], [2]), ([3], [2])]
    assert sequences(journal.delivered) == [0, 2]


def test_a_record_that_settles_takes_its_count_with_it() -> None:
    records = keyed([A, B, B])
    answers = in_turn(*[naming(records[0])] * 3, naming(records[1]))
    delivery = Delivery(records, a_policy(Ordering.PARTITION))
    journal = deliver(delivery, answers)
    assert [(sequences(step.records), step.attempt) for step in journal.invocations] == [
        ([0, 1, 2], 1),
        ([0, 1, 2], 2),
        ([0, 1, 2], 3),
        ([0, 1, 2], 4),
        ([1, 2], 2),
    ]


def test_the_wait_after_a_partial_failure_is_that_of_its_most_tried_record() -> None:
    records = records_of(2)
    answers = in_turn(naming(records[0]), naming(records[0]), naming(records[1]), naming(records[1]))
    journal = deliver(Delivery(records, a_policy(Ordering.PARTITION)), answers, now=100.0)
    assert journal.waited == [0.5, 1.0, 0.5, 1.0]
    assert {wait.error for wait in journal.waits} == {PARTIAL}


@pytest.mark.parametrize("ordering", list(Ordering))
def test_such_an_answer_is_not_also_halved(ordering: Ordering) -> None:
    records = keyed([A, A, A, A])
    answers = in_turn(naming(*records))
    journal = deliver(Delivery(records, a_policy(ordering, bisect=True)), answers)
    assert [(sequences(step.records), step.attempt) for step in journal.invocations] == [
        ([0, 1, 2, 3], 1),
        ([0, 1, 2, 3], 2),
    ]


def test_what_a_cut_leaves_is_halved_when_it_then_fails_as_a_whole() -> None:
    records = records_of(5)
    answers = in_turn(naming(records[1]), Failed(ERROR))
    journal = deliver(Delivery(records, a_policy(Ordering.PARTITION, bisect=True)), answers)
    assert journal.invoked == [[0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 2], [3, 4]]
    assert [step.attempt for step in journal.invocations] == [1, 2, 2, 1]


def test_a_whole_failure_after_a_partial_one_charges_all_and_gives_up_who_has_no_attempt_left() -> None:
    records = records_of(3)
    answers = in_turn(naming(records[0]), Failed(ERROR))
    journal = deliver(Delivery(records, a_policy(Ordering.PARTITION, 1)), answers)
    assert journal.invoked == [[0, 1, 2], [0, 1, 2], [1, 2]]
    assert [step.attempt for step in journal.invocations] == [1, 2, 2]
    (step,) = journal.given_up
    assert (sequences(step.records), list(step.attempts), step.error) == ([0], [2], ERROR)


@pytest.mark.parametrize(
    ("ordering", "again"), [(Ordering.PARTITION, [2, 3]), (Ordering.KEY, [3]), (Ordering.NONE, None)]
)
def test_the_named_with_no_attempt_left_are_given_up_and_the_rest_goes_on_at_once(
    ordering: Ordering, again: list[int] | None
) -> None:
    records = keyed([A, B, A, B])
    journal = deliver(Delivery(records, a_policy(ordering, 0)), in_turn(naming(records[1])))
    assert journal.invoked[1:] == ([] if again is None else [again])
    (step,) = journal.given_up
    assert step == GiveUp(step.records, Condition.RETRY_ATTEMPTS_EXHAUSTED, [1], PARTIAL)
    assert not journal.waits


@given(st.sampled_from(Ordering), batches(), st.data(), st.integers(0, 3), st.booleans())
def test_only_the_records_that_always_fail_die(
    ordering: Ordering, batch: list[Record], data: st.DataObject, retries: int, bisect: bool
) -> None:
    """A function that names what it cannot deal with loses nothing else, whatever the attempts."""
    poison = data.draw(st.frozensets(st.sampled_from(sequences(batch))))

    def function(step: Invoke) -> Outcome:
        failed = [record for record in step.records if record.sequence in poison]
        return naming(*failed) if failed else SUCCEEDED

    journal = deliver(Delivery(batch, a_policy(ordering, retries, bisect=bisect)), function)
    given_up = {record.sequence for step in journal.given_up for record in step.records}
    assert given_up == poison
    assert len(journal.invocations) <= (retries + 1) * max(1, len(poison)) + 1


def test_a_name_that_is_not_of_the_invocation_is_a_broken_promise() -> None:
    delivery = Delivery(records_of(2), a_policy(Ordering.KEY))
    with pytest.raises(AssertionError):
        delivery.on_outcome(naming(a_record(7)), 0.0, 0.5)
