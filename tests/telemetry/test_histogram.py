"""Properties of the histogram of plain integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.telemetry.counters import Histogram

BOUNDS = (0.5, 1.0, 2.5)


@given(st.lists(st.floats(min_value=0, max_value=10)))
def test_each_bucket_holds_what_is_at_most_its_bound(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    expected = [(str(bound), sum(value <= bound for value in values)) for bound in BOUNDS]
    assert histogram.cumulative() == [*expected, ("+Inf", len(values))]
    assert histogram.sum == sum(values)
