"""What one leaf of an event pattern matches: its literals and operators, compiled to tests of a single JSON scalar."""

from __future__ import annotations

import difflib
import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Final, TypeAlias, TypeGuard, cast

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]
Test: TypeAlias = Callable[[Scalar], bool]

OPERATORS: Final = ("anything-but", "cidr", "equals-ignore-case", "exists", "numeric", "prefix", "suffix", "wildcard")
_ANYTHING_BUT_FORMS: Final = ("equals-ignore-case", "prefix", "suffix", "wildcard")
_LOWER_BOUNDS: Final = (">", ">=")
_UPPER_BOUNDS: Final = ("<", "<=")


class PatternInvalid(Exception):
    """A pattern that cannot mean anything.

    ``path`` names the place: the pattern's index, then the keys and indexes that lead to what is wrong.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class Kind(Enum):
    """What values a field can hold, so that a pattern which could never match is refused."""

    ANY = "any"
    TEXT = "text"
    NUMBER = "number"


class LeafTest:
    """One leaf's list of alternatives: true for a scalar that any of them matches.

    Strings are equal when they are the same characters. Numbers are equal when they have the same value, however they
    are written (300, 300.0 and 3.0e2 are one number); booleans are not numbers.
    """

    __slots__ = ("_numbers", "_singletons", "_strings", "_tests")

    def __init__(self, literals: Iterable[Scalar], tests: Sequence[Test]) -> None:
        literals = tuple(literals)
        self._strings = frozenset([literal for literal in literals if isinstance(literal, str)])
        self._numbers = frozenset([literal for literal in literals if is_number(literal)])
        self._singletons = tuple([literal for literal in literals if literal is None or isinstance(literal, bool)])
        self._tests = tuple(tests)

    def __call__(self, value: Scalar) -> bool:
        if type(value) is str:
            equal = value in self._strings
        elif value is None or type(value) is bool:
            equal = any(value is singleton for singleton in self._singletons)
        else:
            equal = value in self._numbers
        return equal or any(test(value) for test in self._tests)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a JSON number: finite, not a boolean."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown word: a guess at what was meant, then everything that is known."""
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}known are {', '.join(known)}"


def compile_leaf(alternatives: Sequence[object], kind: Kind, path: Path) -> tuple[LeafTest | None, bool]:
    """Compile a leaf's list: the test of its alternatives for a value that is there (None when there are no such
    alternatives), and whether absence matches too. Raises PatternInvalid."""
    if not alternatives:
        raise PatternInvalid("an empty list matches nothing: name at least one value", path)
    literals: list[Scalar] = []
    tests: list[Test] = []
    absent = False
    for index, alternative in enumerate(alternatives):
        place = (*path, index)
        if not isinstance(alternative, Mapping):
            literals.append(_literal(alternative, kind, place))
            continue
        operator, argument = _only_member(alternative, OPERATORS, place)
        place = (*place, operator)
        if operator != "exists":
            tests.append(_compile_operator(operator, argument, kind, place))
        elif _boolean(argument, place):
            tests.append(_anything)
        else:
            absent = True
    return (LeafTest(literals, tests) if literals or tests else None), absent


def _literal(value: object, kind: Kind, path: Path) -> Scalar:
    if isinstance(value, str):
        _require(kind is not Kind.NUMBER, "this field is a number: a string never equals it", path)
        return value
    if is_number(value):
        _require(kind is not Kind.TEXT, "this field is compared as text: write the number as a string", path)
        return value
    if value is None or isinstance(value, bool):
        if isinstance(value, bool):
            _require(kind is Kind.ANY, f"this field is a {kind.value}: a boolean never equals it", path)
        return value
    if isinstance(value, Sequence):
        raise PatternInvalid("a list inside a list of alternatives matches nothing", path)
    raise PatternInvalid(f"{value!r} is not a JSON value", path)


def _compile_operator(operator: str, argument: object, kind: Kind, path: Path) -> Test:
    if operator == "anything-but":
        return _anything_but(argument, kind, path)
    if operator == "numeric":
        _require(kind is not Kind.TEXT, "'numeric' only matches numbers, and this field is compared as text", path)
        return _numeric(argument, path)
    _require(kind is not Kind.NUMBER, f"{operator!r} only matches strings, and this field is a number", path)
    return _compile_string_operator(operator, argument, path)


def _compile_string_operator(operator: str, argument: object, path: Path) -> Test:
    if operator == "prefix":
        return _prefix(argument, path)
    if operator == "suffix":
        return _suffix(argument, path)
    if operator == "equals-ignore-case":
        return _equals_ignore_case(argument, path)
    if operator == "wildcard":
        return _wildcard(argument, path)
    return _cidr(argument, path)


def _prefix(argument: object, path: Path) -> Test:
    if isinstance(argument, Mapping):
        start = _ignored_case(argument, path)
        return lambda value: isinstance(value, str) and value.casefold().startswith(start)
    text = _text(argument, path)
    return lambda value: isinstance(value, str) and value.startswith(text)


def _suffix(argument: object, path: Path) -> Test:
    if isinstance(argument, Mapping):
        end = _ignored_case(argument, path)
        return lambda value: isinstance(value, str) and value.casefold().endswith(end)
    text = _text(argument, path)
    return lambda value: isinstance(value, str) and value.endswith(text)


def _ignored_case(argument: Mapping[object, object], path: Path) -> str:
    operator, text = _only_member(argument, ("equals-ignore-case",), path)
    return _text(text, (*path, operator)).casefold()


def _equals_ignore_case(argument: object, path: Path) -> Test:
    text = _text(argument, path).casefold()
    return lambda value: isinstance(value, str) and value.casefold() == text


def _wildcard(argument: object, path: Path) -> Test:
    first, *others = _wildcard_parts(_text(argument, path), path)
    if not others:
        return lambda value: value == first
    *middle, last = others

    def matches(value: Scalar) -> bool:
        # Taking each part at its first place is enough, and never backtracks as a regular expression would.
        if not isinstance(value, str) or not value.startswith(first):
            return False
        start, end = len(first), len(value) - len(last)
        for part in middle:
            found = value.find(part, start, max(start, end))
            if found < 0:
                return False
            start = found + len(part)
        return start <= end and value.endswith(last)

    return matches


def _wildcard_parts(text: str, path: Path) -> list[str]:
    r"""Split at each ``*``; ``\*`` and ``\\`` stand for themselves."""
    parts = [""]
    characters = iter(text)
    previous_was_star = False
    for character in characters:
        if character == "*":
            _require(not previous_was_star, "two '*' in a row mean no more than one: leave one out", path)
            parts.append("")
        elif character == "\\":
            escaped = next(characters, "")
            _require(escaped in ("*", "\\") and escaped != "", r"a backslash escapes only '*' or '\'", path)
            parts[-1] += escaped
        else:
            parts[-1] += character
        previous_was_star = character == "*"
    return parts


def _cidr(argument: object, path: Path) -> Test:
    text = _text(argument, path)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise PatternInvalid(f"{text!r} is not an IP network such as '10.0.0.0/24'", path) from error

    def matches(value: Scalar) -> bool:
        if not isinstance(value, str):
            return False
        try:
            return ipaddress.ip_address(value) in network
        except ValueError:  # not an address, hence in no network
            return False

    return matches


def _anything_but(argument: object, kind: Kind, path: Path) -> Test:
    if isinstance(argument, Mapping):
        _require(kind is not Kind.NUMBER, "this form only matches strings, and this field is a number", path)
        operator, excluded = _only_member(argument, _ANYTHING_BUT_FORMS, path)
        place = (*path, operator)
        tests = [
            _compile_string_operator(operator, _non_empty(text, where), where)
            for text, where in _one_or_more(excluded, place)
        ]
        return lambda value: not any(test(value) for test in tests)
    literals = [_literal(value, kind, where) for value, where in _one_or_more(argument, path)]
    _require(
        all(isinstance(literal, str) for literal in literals) or all(is_number(literal) for literal in literals),
        "'anything-but' takes strings only or numbers only",
        path,
    )
    equal = LeafTest(literals, ())
    return lambda value: not equal(value)


def _one_or_more(argument: object, path: Path) -> list[tuple[object, Path]]:
    """The members of a list, or the single value that stands for a list of one, each with its place."""
    if isinstance(argument, str) or not isinstance(argument, Sequence):
        return [(argument, path)]
    _require(len(argument) > 0, "an empty list excludes nothing: name at least one value", path)
    return [(value, (*path, index)) for index, value in enumerate(argument)]


def _numeric(argument: object, path: Path) -> Test:
    if isinstance(argument, str) or not isinstance(argument, Sequence) or len(argument) not in (2, 4):
        raise PatternInvalid("'numeric' takes [operator, number], or two of them for a range", path)
    comparisons = []
    for index in range(0, len(argument), 2):
        operator, operand = argument[index], argument[index + 1]
        _require(
            operator in ("=", *_LOWER_BOUNDS, *_UPPER_BOUNDS),
            f"{operator!r} is no comparison: use =, <, <=, > or >=",
            (*path, index),
        )
        _require(is_number(operand), f"{operand!r} is not a number", (*path, index + 1))
        comparisons.append((cast("str", operator), cast("float", operand)))
    if len(comparisons) == 2:
        (lower, bottom), (upper, top) = comparisons
        _require(lower in _LOWER_BOUNDS, "a range begins with > or >=", (*path, 0))
        _require(upper in _UPPER_BOUNDS, "a range ends with < or <=", (*path, 2))
        _require(bottom < top, "this range is empty: its bottom is not below its top", path)
    tests = [_comparison(operator, operand) for operator, operand in comparisons]
    return lambda value: is_number(value) and all(test(value) for test in tests)


def _comparison(operator: str, operand: float) -> Callable[[int | float], bool]:
    if operator == "=":
        return lambda value: value == operand
    if operator == "<":
        return lambda value: value < operand
    if operator == "<=":
        return lambda value: value <= operand
    if operator == ">":
        return lambda value: value > operand
    return lambda value: value >= operand


def _anything(_: Scalar) -> bool:
    return True


def _only_member(operation: Mapping[object, object], known: Sequence[str], path: Path) -> tuple[str, object]:
    if len(operation) != 1:
        raise PatternInvalid(f"one operator is expected here, not {len(operation)}", path)
    [(operator, argument)] = operation.items()
    if operator not in known:
        raise PatternInvalid(f"unknown operator {operator!r}: {did_you_mean(str(operator), known)}", path)
    return cast("str", operator), argument


def _text(value: object, path: Path) -> str:
    if not isinstance(value, str):
        raise PatternInvalid(f"a string is expected here, not {value!r}", path)
    return value


def _non_empty(value: object, path: Path) -> str:
    text = _text(value, path)
    _require(text != "", "an empty string is no limit here", path)
    return text


def _boolean(value: object, path: Path) -> bool:
    if not isinstance(value, bool):
        raise PatternInvalid(f"'exists' takes true or false, not {value!r}", path)
    return value


def _require(condition: bool, message: str, path: Path) -> None:
    if not condition:
        raise PatternInvalid(message, path)
