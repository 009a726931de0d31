"""Where a mapping begins in a partition that has no checkpoint."""

from __future__ import annotations

import enum


class StartingPosition(enum.StrEnum):
    """AWS's starting positions: the oldest record there is, the end, the first record from a time on."""

    TRIM_HORIZON = "trim_horizon"
    LATEST = "latest"
    AT_TIMESTAMP = "at_timestamp"
