"""Cutting a readable piece out of a source line without showing a secret, however long the line is."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

_LENGTH: Final = 120
_BEFORE: Final = 60
_CONTEXT: Final = 200
"""Characters before the piece that are looked at for a key whose value reaches into it."""

_SECRET_NAME: Final = re.compile(r"pass|secret|token|credential|auth|key", re.IGNORECASE)
_SECRET_VALUE: Final = re.compile(
    r"(?:pass|secret|token|credential|authorization|api[-_]?key)[\w-]{0,60}[\"']?\s{0,20}:\s{1,20}"
    r"(?![\"']?\$\{)(?P<value>\S.*)",
    re.IGNORECASE,
)
_USER_INFO: Final = re.compile(r"://(?P<value>[^/\s@]+)@")


class Excerpt(NamedTuple):
    """``caret`` is where in ``text`` (from 0) a marker of ``width`` characters begins."""

    text: str
    caret: int
    width: int


def looks_secret(name: str) -> bool:
    """Whether a value of this name is probably a secret, though no known key holds it."""
    return _SECRET_NAME.search(name) is not None


class Masks:
    """The parts of one line that are secrets, as half-open ranges of characters from 0."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges = sorted(set(ranges))

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Those that reach into the part of the line from ``start`` to ``stop``. Ranges do not overlap."""
        first = max(0, bisect.bisect_left(self._ranges, (start, start)) - 1)
        last = bisect.bisect_left(self._ranges, (stop, stop))
        return self._ranges[first:last]

    def __bool__(self) -> bool:
        return bool(self._ranges)


def excerpt(line: str, start: int, stop: int, masks: Masks) -> Excerpt:
    """The piece of ``line`` around the characters from ``start`` to ``stop``; empty text where there is nothing."""
    left = max(0, start - _BEFORE) if len(line) > _LENGTH else 0
    right = min(len(line), left + _LENGTH)
    context = max(0, left - _CONTEXT)
    seen = [character if character.isprintable() else " " for character in line[context:right]]
    text = "".join(seen)
    for first, last in masks.within(context, right):
        _hide(seen, first - context, last - context)
    for match in _USER_INFO.finditer(text):
        _hide(seen, *match.span("value"))
    secret = None if masks else _SECRET_VALUE.search(text)
    if secret is not None:
        # No key is known to hold a secret here, as when the file is no YAML: rather too much is hidden than too little.
        _hide(seen, *secret.span("value"))
    shown = "".join(seen[left - context :]).rstrip()
    caret = start - left
    return Excerpt(shown, caret, max(1, min(stop, left + len(shown)) - start))


def _hide(characters: list[str], start: int, stop: int) -> None:
    for index in range(max(0, start), min(stop, len(characters))):
        characters[index] = "*"
