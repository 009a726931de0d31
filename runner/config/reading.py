"""The state of turning one document into models: where each value stands, and which cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from runner.config.codes import Code
from runner.config.document import MappingNode, Node, ScalarNode, SequenceNode
from runner.config.findings import Findings, Place, Span
from runner.config.interpolation import expand
from runner.config.wording import Path, nearest, quoted

Plain: TypeAlias = bool | int | float | str | None

_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII)
_REAL: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)
_LONGEST_NUMBER: Final = 40
_SUGGESTIONS: Final = 200
"""Near misses are costly to find; a file with more mistakes than this has another problem."""


class Refusal(NamedTuple):
    """One thing wrong with a value. Without a span, the value as a whole is meant."""

    code: Code
    message: str
    hint: str = ""
    span: Span | None = None


class Refused(Exception):
    """A value cannot be used. The message begins with a verb: the path of the value is put before it."""

    def __init__(self, *refusals: Refusal) -> None:
        super().__init__("; ".join([refusal.message for refusal in refusals]))
        self.refusals = refusals


def refuse(code: Code, message: str, hint: str = "", span: Span | None = None) -> Refused:
    """The exception for a single reason."""
    return Refused(Refusal(code, message, hint, span))


class Located(NamedTuple):
    """Where a key and its value stand; an item of a list is its own key."""

    key: Span
    value: Span

    @property
    def telling(self) -> Span:
        """The value's place, or the key's when the value is empty."""
        return self.key if self.value.is_empty else self.value


class Scalar(NamedTuple):
    """``expanded``: the value came from an expression, so its text means whatever its key wants it to mean."""

    value: Plain
    expanded: bool


@dataclass(slots=True)
class Reading:
    """``places`` knows what was written, ``invalid`` what is missing or cannot be used; both by path."""

    findings: Findings
    environ: Mapping[str, str]
    places: dict[Path, Located] = field(default_factory=dict)
    invalid: set[Path] = field(default_factory=set)
    _suggested: int = 0

    def nearest_place(self, path: Path) -> Located | None:
        """Where ``path`` stands or, when it was not written, the closest thing around it."""
        for length in range(len(path), -1, -1):
            located = self.places.get(path[:length])
            if located is not None:
                return located
        return None

    def known(self, path: Path) -> bool:
        """Whether the value at ``path``, written or defaulted, can be relied on."""
        return not any(path[:length] in self.invalid for length in range(len(path) + 1))

    def suggest(self, word: str, candidates: Mapping[str, object]) -> str | None:
        self._suggested += 1
        return nearest(word, candidates) if self._suggested <= _SUGGESTIONS else None

    def scalar(self, node: Node, expects: str) -> Scalar:
        """The value of a scalar, its expressions replaced. Raises Refused."""
        if not isinstance(node, ScalarNode):
            raise refuse(Code.WRONG_TYPE, f"must be {expects}, found {found(node)}", f"write {expects}")
        if "$" not in node.text:
            return Scalar(resolve(node.text) if node.plain else node.text, expanded=False)
        expansion = expand(node.text, self.environ, self.suggest)
        if expansion.faults:
            raise Refused(
                *[
                    Refusal(fault.code, f"holds an expression that fails: {fault.message}", fault.hint, span)
                    for fault in expansion.faults
                    for span in (self._span_within(node, fault.offset, fault.width),)
                ]
            )
        return Scalar(expansion.text, expansion.changed)

    def _span_within(self, node: ScalarNode, offset: int, width: int) -> Span | None:
        """The place of a part of a scalar, when the source shows it as it is (no escapes, no line breaks)."""
        line, column = node.span.start
        start = offset + (0 if node.plain else 1)
        place = Place(line, column + start)
        if not self.findings.shows(node.text[offset : offset + width], place):
            return None
        return Span(place, Place(line, place.column + width))


def resolve(text: str) -> Plain:
    """What an unquoted text means: only ``true`` and ``false`` are booleans, only decimal numbers are numbers.

    Raises Refused for a number that no computer could hold.
    """
    if text in ("", "null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if not _REAL.fullmatch(text):
        return text
    if len(text) > _LONGEST_NUMBER:
        raise refuse(Code.OUT_OF_RANGE, "is a number with too many digits", "put it in quotes if it is a text")
    if _INTEGER.fullmatch(text):
        return int(text)
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise refuse(Code.OUT_OF_RANGE, "is a number too large to hold", "put it in quotes if it is a text")
    return number


def found(node: Node) -> str:
    """A node in words, for messages; never the value of a variable."""
    match node:
        case MappingNode():
            return "a mapping"
        case SequenceNode():
            return "a list"
    if not node.plain or "${" in node.text:
        return f"the text {quoted(node.text)}"
    try:
        value = resolve(node.text)
    except Refused:
        return "a number beyond all bounds"
    if value is None:
        return "nothing"
    kind = "the text" if isinstance(value, str) else "the boolean" if isinstance(value, bool) else "the number"
    return f"{kind} {quoted(node.text)}"
