"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from e2e_support.process_fixtures import function, new_function, new_runner

__all__ = ["function", "new_function", "new_runner"]
