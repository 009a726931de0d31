"""What holds for every batch, policy and function."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from core_strategies import (
    Verdict,
    batches,
    deliver,
    judged_by,
    scripts,
    sequences,
    verdicts,
)
from runner.core.delivery import Delivery, DeliveryPolicy
from runner.core.lanes import Ordering
from runner.core.retry import FOR_EVER, RetryPolicy
from runner.model import (
    NO_TIMESTAMP,
    Condition,
    Failed,
    GiveUp,
    Invoke,
    PartlyFailed,
    Record,
    Settle,
    Throttled,
    TooLarge,
    WaitUntil,
)

NOW = 1_000_000.0
jitters = st.floats(0, 1, exclude_max=True)


def policies(
    *, attempts: st.SearchStrategy[int] | None = None, age: st.SearchStrategy[float | None] | None = None
) -> st.SearchStrategy[DeliveryPolicy]:
    retry = st.builds(
        RetryPolicy,
        maximum_attempts=st.integers(-1, 4) if attempts is None else attempts,
        initial_backoff=st.floats(0.01, 5),
        maximum_backoff=st.floats(0.01, 60),
        maximum_retry_after=st.floats(0, 300),
        maximum_age=st.none() if age is None else age,
    )
    return st.builds(DeliveryPolicy, retry, st.sampled_from(Ordering), st.booleans())


stamps = st.just(NO_TIMESTAMP) | st.integers(-200_000, 5_000).map(lambda offset: int(NOW * 1000) + offset)
ages = st.none() | st.floats(0.5, 300)


@given(batches(timestamps=stamps), policies(age=ages), scripts, jitters, st.floats(0, 20))
def test_every_record_comes_out_exactly_once(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict], jitter: float, seconds: float
) -> None:
    journal = deliver(Delivery(batch, policy), judged_by(script), now=NOW, jitter=jitter, seconds=seconds)
    assert sorted(sequences(journal.came_out)) == sequences(batch)
    for step in journal.given_up:
        assert len(step.attempts) == len(step.records)


@given(batches(timestamps=stamps), policies(age=ages), scripts, jitters)
def test_what_comes_before_an_invocation_came_out_before_it(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict], jitter: float
) -> None:
    """Left before right, and nothing of a lane overtakes what is invoked again."""
    journal = deliver(Delivery(batch, policy), judged_by(script), now=NOW, jitter=jitter)
    out: set[int] = set()
    for step in journal.steps:
        if isinstance(step, Settle | GiveUp):
            out.update(sequences(step.records))
        elif isinstance(step, Invoke):
            invoked = sequences(step.records)
            assert invoked == sorted(invoked)
            assert not out & set(invoked), "what came out is not invoked again"
            lower = {record.sequence for record in batch if record.sequence < invoked[0]}
            assert lower <= out


@given(batches(timestamps=stamps), policies(age=ages), scripts, jitters)
def test_records_are_delivered_in_the_order_that_the_mapping_keeps(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict], jitter: float
) -> None:
    delivered = deliver(Delivery(batch, policy), judged_by(script), now=NOW, jitter=jitter).delivered
    match policy.ordering:
        case Ordering.PARTITION:
            assert sequences(delivered) == sorted(sequences(delivered))
        case Ordering.KEY:
            for key in {record.key for record in batch}:
                of_key = [record.sequence for record in delivered if record.key == key]
                assert of_key == sorted(of_key)
        case Ordering.NONE:
            pass


@given(batches(), policies(), scripts, jitters)
def test_attempts_are_those_of_failures_that_a_record_is_charged_with(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict], jitter: float
) -> None:
    """Whole failures charge all unless the batch is split; partial ones the named; nothing else charges anybody."""
    journal = deliver(Delivery(batch, policy), judged_by(script), now=NOW, jitter=jitter)
    charged = dict.fromkeys(sequences(batch), 0)
    outcomes = iter(journal.outcomes)
    for step in journal.steps:
        if isinstance(step, GiveUp):
            assert list(step.attempts) == [charged[record.sequence] for record in step.records]
        if not isinstance(step, Invoke):
            continue
        assert step.attempt == 1 + max(charged[record.sequence] for record in step.records)
        match next(outcomes):
            case Failed() if not (policy.bisect and len(step.records) > 1):
                for record in step.records:
                    charged[record.sequence] += 1
            case PartlyFailed(positions=positions):
                for record in step.records:
                    charged[record.sequence] += record.position in positions


@given(batches(), policies(), scripts)
def test_a_record_is_given_up_after_its_last_attempt_and_not_before(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict]
) -> None:
    journal = deliver(Delivery(batch, policy), judged_by(script), now=NOW)
    for step in journal.given_up:
        if step.condition is Condition.RETRY_ATTEMPTS_EXHAUSTED:
            assert policy.retry.maximum_attempts != FOR_EVER
            assert set(step.attempts) == {policy.retry.maximum_attempts + 1}
        else:
            assert step.condition is Condition.MAXIMUM_PAYLOAD_SIZE_EXCEEDED
            assert len(step.records) == 1


@given(batches(), policies(attempts=st.just(FOR_EVER)), scripts)
def test_nothing_that_may_be_tried_for_ever_is_given_up_but_for_its_size(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict]
) -> None:
    journal = deliver(Delivery(batch, policy), judged_by(script), now=NOW)
    assert all(step.condition is Condition.MAXIMUM_PAYLOAD_SIZE_EXCEEDED for step in journal.given_up)


@given(batches(timestamps=stamps), policies(age=st.floats(0.5, 300)), scripts, jitters, st.floats(0, 20))
def test_a_record_is_given_up_for_its_age_once_it_has_it_and_never_invoked_after(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict], jitter: float, seconds: float
) -> None:
    expires_at = policy.retry.expires_at
    answer = judged_by(script)
    delivery = Delivery(batch, policy)
    now = NOW
    while (step := delivery.next_step(now)) is not None:
        match step:
            case Invoke(records=records):
                assert all(expires_at(record) > now for record in records)
                now += seconds
                delivery.on_outcome(answer(step), now, jitter)
            case WaitUntil(time=time):
                now = time
            case GiveUp(records=records, condition=Condition.RECORD_AGE_EXCEEDED):
                assert all(expires_at(record) <= now for record in records)
                assert all(record.timestamp_ms != NO_TIMESTAMP for record in records)


@given(batches(), policies(), scripts, jitters)
def test_a_wait_is_within_the_bounds_of_what_caused_it(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict], jitter: float
) -> None:
    retry = policy.retry
    journal = deliver(Delivery(batch, policy), judged_by(script), now=NOW, jitter=jitter)
    last = None
    now = NOW
    outcomes = iter(journal.outcomes)
    for step in journal.steps:
        if isinstance(step, Invoke):
            last = next(outcomes)
        if not isinstance(step, WaitUntil):
            continue
        longest = retry.maximum_backoff
        if isinstance(last, Throttled) and last.retry_after:
            longest = min(last.retry_after, retry.maximum_retry_after)
        assert not isinstance(last, TooLarge), "a batch that is too large is cut and sent at once"
        assert last is not None
        assert 0.0 < step.retry_at - now <= longest + 1e-6
        assert step.error is getattr(last, "error", None)
        now = step.time
    assert journal.now == now


@given(batches(), policies(), st.lists(verdicts, max_size=10))
def test_the_lowest_record_that_is_not_settled_is_known_at_every_step(
    batch: list[Record], policy: DeliveryPolicy, script: list[Verdict]
) -> None:
    """What is given up counts until the caller asks on: until then it is being stored."""
    answer = judged_by(script)
    delivery = Delivery(batch, policy)
    unsettled = {record.sequence: record for record in batch}
    handed_out: Sequence[Record] = ()
    now = NOW
    while unsettled:
        assert delivery.first_unsettled is unsettled[min(unsettled)]
        step = delivery.next_step(now)
        for record in handed_out:
            del unsettled[record.sequence]
        handed_out = step.records if isinstance(step, Settle | GiveUp) else ()
        if isinstance(step, Invoke):
            delivery.on_outcome(answer(step), now, 0.5)
        elif isinstance(step, WaitUntil):
            now = step.time
    assert step is None
    assert delivery.first_unsettled is None
