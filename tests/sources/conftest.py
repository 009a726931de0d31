"""Fixtures of the sources' tests."""

from __future__ import annotations

from redis_harness.fixtures import client

__all__ = ["client"]
