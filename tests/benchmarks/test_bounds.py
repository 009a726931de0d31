"""What the benchmarks hold to: each bound that is broken has a line, and the others have none."""

from __future__ import annotations

import pytest

from benchmarks import bounds


@pytest.mark.parametrize(
    ("ratios", "idle", "broken"),
    [
        ({8: [1.2, 1.6, 9.0], 1: [1.6, 1.6, 1.6]}, 0.0199, []),
        ({8: [1.0, 1.61, 1.62], 1: [1.5]}, 0.01, ["8 partitions: 1.61 x the CPU of the bare loop, more than 1.6"]),
        ({8: [1.0], 1: [2.0, 2.0]}, 0.01, ["1 partition: 2.00 x the CPU of the bare loop, more than 1.6"]),
        ({8: [1.0], 1: [1.0]}, 0.02, ["idle: 2.00% of a core, not less than 2%"]),
    ],
)
def test_the_broken_bounds_are_named(ratios: dict[int, list[float]], idle: float, broken: list[str]) -> None:
    assert bounds.broken(ratios, idle) == broken
