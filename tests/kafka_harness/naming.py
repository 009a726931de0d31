"""Names for topics, streams and groups that no other test of the session uses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TypeAlias

NewTopic: TypeAlias = Callable[[], str]
NewStream: TypeAlias = Callable[[], str]

_numbers = count(1)


def names_for(test: str) -> Callable[[], str]:
    """Another name at each call; all begin with the test's, without what a server might not take."""
    base = "".join(letter if letter.isalnum() else "-" for letter in test)[:80].strip("-")
    return lambda: f"{base}-{next(_numbers)}"
