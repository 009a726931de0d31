"""Time in these tests is virtual: it passes as fast as nothing else is left to do."""

from __future__ import annotations

from typing import Any

import looptime
import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": lambda: looptime.new_event_loop(start=0)}
