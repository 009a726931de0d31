"""What is said to people about a configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.codes import Code

_RED, _YELLOW, _BLUE, _BOLD, _PLAIN = "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong (``E``) or risky (``W``), with its place.

    ``line`` and ``column`` count characters from 1; both are 0 when the file as a whole is meant. ``excerpt`` is the
    source line, cut to a readable length and with secrets masked, or empty; ``caret`` is where in it the marker
    begins (from 0) and ``width`` how long it is. ``hint`` says what to do, or is empty.
    """

    path: str
    line: int
    column: int
    code: Code
    message: str
    hint: str = ""
    excerpt: str = ""
    caret: int = 0
    width: int = 1

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.path}{place}: {self._label}: {self.message}"

    @property
    def _label(self) -> str:
        return f"{'warning' if self.code.is_warning else 'error'}[{self.code}]"

    def render(self, *, colour: bool = False) -> str:
        """Several lines: what and where, the excerpt with a marker below it, the hint."""
        strong = _YELLOW if self.code.is_warning else _RED

        def paint(text: str, with_: str) -> str:
            return f"{with_}{text}{_PLAIN}" if colour else text

        place = f":{self.line}:{self.column}" if self.line else ""
        lines = [f"{paint(self.path + place, _BOLD)}: {paint(self._label, strong)}: {paint(self.message, _BOLD)}"]
        margin = " " * len(str(self.line))
        if self.excerpt:
            marker = " " * self.caret + paint("^" * self.width, strong)
            lines += [
                paint(f" {margin} |", _BLUE),
                f"{paint(f' {self.line} |', _BLUE)} {self.excerpt}",
                f"{paint(f' {margin} |', _BLUE)} {marker}",
            ]
        if self.hint:
            lines.append(f"{paint(f' {margin} =', _BLUE)} {paint('help:', _BOLD)} {self.hint}")
        return "\n".join(lines)


def render(diagnostics: Sequence[Diagnostic], *, colour: bool = False) -> str:
    """All of them, one blank line apart."""
    return "\n\n".join([diagnostic.render(colour=colour) for diagnostic in diagnostics])


class ConfigInvalid(Exception):
    """The configuration cannot be used. ``errors`` is never empty; both tuples are sorted by place."""

    def __init__(self, errors: Sequence[Diagnostic], warnings: Sequence[Diagnostic] = ()) -> None:
        super().__init__("\n".join([str(error) for error in errors]))
        self.errors = tuple(errors)
        self.warnings = tuple(warnings)

    def render(self, *, colour: bool = False) -> str:
        """Every warning and error with its excerpt, then how many there are."""
        found = sorted([*self.errors, *self.warnings], key=lambda diagnostic: (diagnostic.line, diagnostic.column))
        return f"{render(found, colour=colour)}\n\n{self.summary}"

    @property
    def summary(self) -> str:
        def count(number: int, what: str) -> str:
            return f"{number} {what}{'' if number == 1 else 's'}"

        parts = [count(len(self.errors), "error")]
        if self.warnings:
            parts.append(count(len(self.warnings), "warning"))
        return ", ".join(parts)
