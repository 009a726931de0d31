"""What the measured figures must not exceed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

RATIO: Final = 1.6
"""CPU a record over that of the bare loop: the median of the pairs, at most."""
IDLE: Final = 0.02
"""Of a core, with 200 partitions to which nothing comes; less than this."""


def broken(ratios: Mapping[int, Sequence[float]], idle: float) -> list[str]:
    """A line for each bound that is broken. ``ratios`` are those of the pairs, by the topic's number of partitions."""
    lines = [
        f"{partitions_of(partitions)}: {median:.2f} x the CPU of the bare loop, more than {RATIO:g}"
        for partitions, pairs in ratios.items()
        if (median := statistics.median(pairs)) > RATIO
    ]
    if idle >= IDLE:
        lines.append(f"idle: {idle:.2%} of a core, not less than {IDLE:.0%}")
    return lines


def partitions_of(number: int) -> str:
    """``1 partition``, ``8 partitions``."""
    return f"{number} partition{'s' if number > 1 else ''}"
