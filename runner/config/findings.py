"""What was found wrong or risky in one source text so far."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from runner.config.codes import Code
from runner.config.diagnostics import Diagnostic
from runner.config.excerpts import Masks, excerpt

_LINE_BREAK: Final = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_NO_MASKS: Final = Masks()


class Place(NamedTuple):
    """Both count from 1, in characters."""

    line: int
    column: int


class Span(NamedTuple):
    """From ``start`` up to, not including, ``end``."""

    start: Place
    end: Place

    @property
    def is_empty(self) -> bool:
        return self.start == self.end


class _Finding(NamedTuple):
    span: Span | None
    code: Code
    message: str
    hint: str
    with_excerpt: bool


class Findings:
    """Collects errors and warnings about the text that people know as ``name``."""

    def __init__(self, name: str, text: str = "") -> None:
        self._name = name
        self._lines = _LINE_BREAK.split(text)
        self._found: dict[tuple[Span | None, Code, str], _Finding] = {}
        self._secrets: set[Span] = set()

    def add(
        self,
        code: Code,
        message: str,
        *,
        span: Span | None = None,
        hint: str = "",
        identity: str = "",
        with_excerpt: bool = True,
    ) -> None:
        """Without a span, the file as a whole is meant.

        Of one place, what has the same ``identity`` (without one, the same message) is kept once: aliases lead to a
        place over several paths, which messages name.
        """
        self._found.setdefault((span, code, identity or message), _Finding(span, code, message, hint, with_excerpt))

    def mask(self, span: Span) -> None:
        """What stands here is a secret: no excerpt shows it."""
        self._secrets.add(span)

    def shows(self, text: str, place: Place) -> bool:
        """Whether exactly ``text`` stands at ``place``."""
        return place.line <= len(self._lines) and self._lines[place.line - 1].startswith(text, place.column - 1)

    def sorted(self) -> tuple[list[Diagnostic], list[Diagnostic]]:
        """Errors, then warnings, each by place."""
        ranges: dict[int, list[tuple[int, int]]] = {}
        for start, end in self._secrets:
            for line in range(start.line, end.line + 1):
                first = start.column - 1 if line == start.line else 0
                last = end.column - 1 if line == end.line else len(self._lines[line - 1])
                ranges.setdefault(line, []).append((first, last))
        masks = {line: Masks(each) for line, each in ranges.items()}
        found = [self._diagnostic(finding, masks) for finding in self._found.values()]
        found.sort(key=lambda diagnostic: (diagnostic.line, diagnostic.column, diagnostic.code))
        return [each for each in found if not each.code.is_warning], [each for each in found if each.code.is_warning]

    def _diagnostic(self, finding: _Finding, masks: dict[int, Masks]) -> Diagnostic:
        if finding.span is None:
            return Diagnostic(self._name, 0, 0, finding.code, finding.message, finding.hint)
        (line, column), end = finding.span
        if not finding.with_excerpt or line > len(self._lines):
            return Diagnostic(self._name, line, column, finding.code, finding.message, finding.hint)
        text = self._lines[line - 1]
        stop = end.column - 1 if end.line == line else len(text)
        shown, caret, width = excerpt(text, column - 1, stop, masks.get(line, _NO_MASKS))
        return Diagnostic(self._name, line, column, finding.code, finding.message, finding.hint, shown, caret, width)
