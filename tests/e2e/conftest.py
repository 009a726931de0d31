"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from e2e_support.process_fixtures import function, new_function, new_runner
from redis_harness.fixtures import client

__all__ = ["client", "function", "new_function", "new_runner"]
