"""What was found in one source text so far, and the excerpts that show it without showing a secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from runner.config.codes import Code
from runner.config.diagnostics import Diagnostic

_LINE_BREAK: Final = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_EXCERPT_LENGTH: Final = 120
_BEFORE_CARET: Final = 60
_SECRET_LINE: Final = re.compile(
    r"[\w-]*(?:pass|secret|token|credential|authorization|api[-_]?key)[\w-]*[\"']?\s*:\s+(?![\"']?\$\{)(?P<value>\S.*)",
    re.IGNORECASE,
)
_USER_INFO: Final = re.compile(r"://(?P<value>[^/\s@]+)@")


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
        self._found: list[_Finding] = []
        self._secret: list[Span] = []
        self._seen: set[tuple[Span | None, Code, str]] = set()

    def add(
        self, code: Code, message: str, *, span: Span | None = None, hint: str = "", with_excerpt: bool = True
    ) -> None:
        """The same thing about the same place is kept once: aliases lead to one place over several ways."""
        identity = (span, code, message)
        if identity not in self._seen:
            self._seen.add(identity)
            self._found.append(_Finding(span, code, message, hint, with_excerpt))

    def mask(self, span: Span) -> None:
        """What stands here is a secret: no excerpt shows it."""
        self._secret.append(span)

    def source(self, span: Span) -> str:
        """The text of the span's first line from its start on; empty outside the text."""
        line, column = span.start
        return self._lines[line - 1][column - 1 :] if line <= len(self._lines) else ""

    def sorted(self) -> tuple[list[Diagnostic], list[Diagnostic]]:
        """Errors, then warnings, each by place."""
        masks: dict[int, list[Span]] = {}
        for span in self._secret:
            for line in range(span.start.line, span.end.line + 1):
                masks.setdefault(line, []).append(span)
        found = [self._diagnostic(finding, masks) for finding in self._found]
        found.sort(key=lambda diagnostic: (diagnostic.line, diagnostic.column, diagnostic.code))
        return [each for each in found if not each.code.is_warning], [each for each in found if each.code.is_warning]

    def _diagnostic(self, finding: _Finding, masks: dict[int, list[Span]]) -> Diagnostic:
        span = finding.span
        if span is None:
            return Diagnostic(self._name, 0, 0, finding.code, finding.message, finding.hint)
        (line, column), end = span
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        if not finding.with_excerpt or not text.strip():
            return Diagnostic(self._name, line, column, finding.code, finding.message, finding.hint)
        stop = end.column - 1 if end.line == line else len(text.rstrip())
        shown, caret, width = _cut(_masked(text, line, masks.get(line, ())), column - 1, max(1, stop - column + 1))
        return Diagnostic(self._name, line, column, finding.code, finding.message, finding.hint, shown, caret, width)


def _masked(text: str, line: int, spans: Sequence[Span]) -> str:
    characters = [character if character.isprintable() else " " for character in text]
    for span in spans:
        start = span.start.column - 1 if span.start.line == line else 0
        stop = span.end.column - 1 if span.end.line == line else len(characters)
        _hide(characters, start, stop)
    for match in _USER_INFO.finditer(text):
        _hide(characters, *match.span("value"))
    secret = _SECRET_LINE.search(text)
    if secret is not None and not spans:
        _hide(characters, *secret.span("value"))
    return "".join(characters)


def _hide(characters: list[str], start: int, stop: int) -> None:
    for index in range(start, min(stop, len(characters))):
        characters[index] = "*"


def _cut(text: str, caret: int, width: int) -> tuple[str, int, int]:
    """A window of the line around its marker: the window, the marker's place in it and its width."""
    text = text.rstrip()
    start = max(0, caret - _BEFORE_CARET) if len(text) > _EXCERPT_LENGTH else 0
    shown = text[start : start + _EXCERPT_LENGTH]
    return shown, caret - start, max(1, min(width, len(shown) - (caret - start)))
