"""How much work the end-to-end tests do: little by default, everything that is promised on demand."""

from __future__ import annotations

import os
from typing import Final

FULL: Final = os.environ.get("STREAM_RUNNER_E2E_SCALE") == "full"
"""Set by ``STREAM_RUNNER_E2E_SCALE=full``."""

MINUTE: Final = 60.0


def scaled(default: int, full: int) -> int:
    """``full`` when everything is asked for."""
    return full if FULL else default
