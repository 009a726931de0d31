"""The kinds of single values: texts, numbers, booleans, choices, durations, sizes and points in time."""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from runner.config.codes import Code
from runner.config.document import Node
from runner.config.kinds import Definitions, Kind, ScalarKind, Schema, meant, or_expression
from runner.config.reading import Plain, Reading, Scalar, refuse
from runner.config.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from runner.config.wording import Path, listed, nearest, quoted

E = TypeVar("E", bound=enum.StrEnum)
P = TypeVar("P")

ANY_TEXT: Final = r"[^\x00-\x1f\x7f]+"

_LAST_INSTANT: Final = 253_402_300_799  # the end of the year 9999
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)


class Text(ScalarKind[str]):
    """A text that matches ``pattern`` as a whole, at most ``longest`` characters."""

    def __init__(self, expects: str, pattern: str = ANY_TEXT, *, longest: int = 1000, hint: str = "") -> None:
        self.expects = expects
        self._pattern = re.compile(pattern, re.ASCII)
        self._longest = longest
        self._hint = hint

    def convert(self, node: Node, scalar: Scalar) -> str:
        if not isinstance(scalar.value, str):
            quotes = "put it in quotes" if scalar.value is not None else self._hint
            raise self.refusal(node, quotes)
        if len(scalar.value) > self._longest:
            raise refuse(Code.OUT_OF_RANGE, f"must not be longer than {self._longest} characters", "shorten it")
        if not self._pattern.fullmatch(scalar.value):
            raise self.refusal(node, self._hint, Code.MALFORMED)
        return scalar.value

    def schema(self, definitions: Definitions) -> Schema:
        own: Schema = {"type": "string", "maxLength": self._longest, "pattern": f"^(?:{self._pattern.pattern})$"}
        return or_expression(own, definitions)


class NormalisedText(Kind[str]):
    """A text in the one spelling that ``normalise`` makes of it."""

    def __init__(self, text: Text, normalise: Callable[[str], str]) -> None:
        self.expects = text.expects
        self._text = text
        self._normalise = normalise

    def read(self, node: Node, path: Path, reading: Reading) -> str:
        return self._normalise(self._text.read(node, path, reading))

    def schema(self, definitions: Definitions) -> Schema:
        return self._text.schema(definitions)


class WholeNumber(ScalarKind[int]):
    """From ``minimum`` to ``maximum``, both allowed."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self.expects = f"a whole number from {minimum} to {maximum}"
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, node: Node, scalar: Scalar) -> int:
        value = meant(scalar)
        if isinstance(value, bool) or not isinstance(value, int):
            quoted_number = isinstance(value, str) and value.lstrip("-").isdecimal()
            raise self.refusal(
                node, "write the number without quotes or leading zeros" if quoted_number else "write digits"
            )
        if not self._minimum <= value <= self._maximum:
            raise self.refusal(node, code=Code.OUT_OF_RANGE)
        return value

    def schema(self, definitions: Definitions) -> Schema:
        own: Schema = {"type": "integer", "minimum": self._minimum, "maximum": self._maximum}
        return or_expression(own, definitions)


class Flag(ScalarKind[bool]):
    """``true`` or ``false``; YAML 1.1's other spellings are texts here."""

    expects = "true or false"

    def convert(self, node: Node, scalar: Scalar) -> bool:
        value = meant(scalar)
        if isinstance(value, bool):
            return value
        word = value.lower() if isinstance(value, str) and not scalar.expanded else ""
        intended = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
        raise self.refusal(node, f"write {intended[word]}" if word in intended else "")

    def schema(self, definitions: Definitions) -> Schema:
        return or_expression({"type": "boolean"}, definitions)


class Choice(ScalarKind[E], Generic[E]):
    """A member of ``members``, in our spelling or in AWS's (``aws``: its spelling to ours).

    ``planned`` are values that will have a meaning one day and are refused until then.
    """

    def __init__(self, members: type[E], *, aws: Mapping[str, E] | None = None, planned: tuple[str, ...] = ()) -> None:
        self._values = {member.value: member for member in members} | dict(aws or {})
        self._planned = planned
        self.expects = listed(members)
        self._words = self.expects

    def convert(self, node: Node, scalar: Scalar) -> E:
        value = scalar.value
        if not isinstance(value, str):
            raise self.refusal(node)
        if value in self._values:
            return self._values[value]
        if value in self._planned:
            raise refuse(Code.NOT_BUILT, f"cannot be {quoted(value)}: that is not built", f"use {self._words}")
        near = None if scalar.expanded else nearest(value, self._values)
        raise self.refusal(node, f"did you mean {quoted(near)}?" if near else "", Code.UNKNOWN_CHOICE)

    def schema(self, definitions: Definitions) -> Schema:
        return or_expression({"type": "string", "enum": list(self._values)}, definitions)

    def show(self, value: E) -> object:
        return value.value


class Duration(ScalarKind[float]):
    """Seconds, from ``minimum`` to ``maximum`` (both allowed); only 0 needs no unit."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.expects = f"a duration from {format_duration(minimum)} to {format_duration(maximum)}"
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, node: Node, scalar: Scalar) -> float:
        if _is_number(meant(scalar), 0):
            seconds = 0.0
        else:
            seconds = _quantity(self, node, scalar, parse_duration, "500ms, 30s, 5m, 6h or 7d")
        if not self._minimum <= seconds <= self._maximum:
            raise self.refusal(node, code=Code.OUT_OF_RANGE)
        return seconds

    def schema(self, definitions: Definitions) -> Schema:
        own: Schema = {"type": "string", "pattern": DURATION_PATTERN}
        return or_expression(own if self._minimum > 0 else {"anyOf": [own, {"const": 0}]}, definitions)

    def show(self, value: float) -> object:
        return format_duration(value)


class DurationOrNever(ScalarKind["float | None"]):
    """Seconds, or None for AWS's -1."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self._duration = Duration(minimum, maximum)
        self.expects = f"{self._duration.expects}, or -1 for never"

    def convert(self, node: Node, scalar: Scalar) -> float | None:
        return None if _is_number(meant(scalar), -1) else self._duration.convert(node, scalar)

    def schema(self, definitions: Definitions) -> Schema:
        return {"anyOf": [{"const": -1}, self._duration.schema(definitions)]}

    def show(self, value: float | None) -> object:
        return -1 if value is None else self._duration.show(value)


class Size(ScalarKind[int]):
    """Bytes, from ``minimum`` to ``maximum`` (both allowed)."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self.expects = f"a size from {format_size(minimum)} to {format_size(maximum)}"
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, node: Node, scalar: Scalar) -> int:
        size = _quantity(self, node, scalar, parse_size, "512KB, 6MB or 1GiB (KB is 1000 bytes, KiB 1024)")
        if not self._minimum <= size <= self._maximum:
            raise self.refusal(node, code=Code.OUT_OF_RANGE)
        return size

    def schema(self, definitions: Definitions) -> Schema:
        return or_expression({"type": "string", "pattern": SIZE_PATTERN}, definitions)

    def show(self, value: int) -> object:
        return format_size(value)


class Instant(ScalarKind[float]):
    """A point in time, in epoch seconds: such a number, or an RFC 3339 text."""

    expects = "epoch seconds, or a time with its offset such as 2025-01-31T08:00:00Z"

    def convert(self, node: Node, scalar: Scalar) -> float:
        value = meant(scalar)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not 0 <= value <= _LAST_INSTANT:
                raise self.refusal(node, "AWS's unit is seconds, not milliseconds", Code.OUT_OF_RANGE)
            return float(value)
        if not isinstance(value, str) or not _RFC3339.fullmatch(value):
            without_offset = isinstance(value, str) and _RFC3339.fullmatch(value + "Z")
            raise self.refusal(node, "add the offset: Z or +01:00" if without_offset else "", Code.MALFORMED)
        try:
            seconds = datetime.datetime.fromisoformat(value.upper().replace(" ", "T")).timestamp()
        except (ValueError, OverflowError) as error:
            raise self.refusal(node, "there is no such time", Code.MALFORMED) from error
        if seconds < 0:
            raise self.refusal(node, "no record is older than 1970", Code.OUT_OF_RANGE)
        return seconds

    def schema(self, definitions: Definitions) -> Schema:
        number: Schema = {"type": "number", "minimum": 0, "maximum": _LAST_INSTANT}
        text: Schema = {"type": "string", "pattern": f"^{_RFC3339.pattern}$"}
        return or_expression({"anyOf": [number, text]}, definitions)


def _is_number(value: Plain, number: int) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == number


def _quantity(kind: Kind[P], node: Node, scalar: Scalar, parse: Callable[[str], P | None], examples: str) -> P:
    value = meant(scalar)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise kind.refusal(node, f"a unit is missing: write {examples}")
    quantity = parse(value) if isinstance(value, str) else None
    if quantity is None:
        raise kind.refusal(node, f"write a number and its unit without a space: {examples}", Code.MALFORMED)
    return quantity
