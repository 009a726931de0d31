"""When a record is tried again, and when it no longer is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_strategies import a_record
from runner.core.retry import FOR_EVER, RetryPolicy

jitters = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    RetryPolicy, initial_backoff=st.floats(0.001, 10), maximum_backoff=st.floats(0.001, 3_600), maximum_age=st.none()
)


@given(policies, st.integers(1, 100_000), jitters)
def test_a_backoff_is_anywhere_below_its_bound(policy: RetryPolicy, tries: int, jitter: float) -> None:
    bound = min(policy.maximum_backoff, policy.initial_backoff * 2.0 ** min(tries - 1, 100))
    backoff = policy.backoff(tries, jitter)
    assert 0.0 <= backoff <= bound
    assert backoff == pytest.approx(bound * jitter)


@given(policies, st.integers(1, 100_000), jitters)
def test_a_backoff_grows_with_the_tries(policy: RetryPolicy, tries: int, jitter: float) -> None:
    assert policy.backoff(tries + 1, jitter) >= policy.backoff(tries, jitter)


def test_a_backoff_doubles_up_to_the_maximum() -> None:
    policy = RetryPolicy(initial_backoff=0.2, maximum_backoff=1.0)
    bounds = [2 * policy.backoff(tries, 0.5) for tries in range(1, 6)]
    assert bounds == [0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize("attempts", [1, 10_000, 10**9])
def test_tries_for_ever(attempts: int) -> None:
    assert not RetryPolicy(maximum_attempts=FOR_EVER).is_exhausted(attempts)


@pytest.mark.parametrize("maximum", [0, 1, 10_000])
def test_the_first_try_is_not_counted(maximum: int) -> None:
    policy = RetryPolicy(maximum_attempts=maximum)
    assert not policy.is_exhausted(maximum)
    assert policy.is_exhausted(maximum + 1)


def test_a_record_expires_at_its_age() -> None:
    assert RetryPolicy(maximum_age=60.0).expires_at(a_record(0, timestamp_ms=1_500)) == 61.5
    assert RetryPolicy(maximum_age=60.0).expires_at(a_record(0, timestamp_ms=0)) == 60.0


def test_a_record_without_a_timestamp_never_expires() -> None:
    assert RetryPolicy(maximum_age=60.0).expires_at(a_record(0)) == math.inf


def test_without_a_maximum_age_nothing_expires() -> None:
    assert RetryPolicy().expires_at(a_record(0, timestamp_ms=0)) == math.inf
