"""The kind of value that is one of Lambda's event patterns, written as YAML or as AWS's JSON text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, NoReturn, cast

from runner.config.codes import Code
from runner.config.document import MAXIMUM_DEPTH, MappingNode, Node, SequenceNode
from runner.config.findings import Span
from runner.config.kinds import Definitions, Kind, Schema, meant
from runner.config.reading import Reading, refuse
from runner.config.wording import Path, quoted, show

LONGEST_PATTERN: Final = 4096
"""AWS's limit, in characters of JSON without blanks."""

_LONGEST_HINT: Final = 200


@dataclass(frozen=True, slots=True)
class FilterPattern:
    """One pattern; equal to another when its ``text``, compact JSON, is the same."""

    text: str

    def to_dict(self) -> dict[str, object]:
        """A fresh copy in JSON's types."""
        return cast("dict[str, object]", json.loads(self.text))


class Pattern(Kind[FilterPattern]):
    """Checked by compiling it; what is wrong inside a YAML pattern is reported at its own place."""

    expects = "an event pattern: a mapping, or a JSON object as a text"

    def read(self, node: Node, path: Path, reading: Reading) -> FilterPattern:
        if isinstance(node, MappingNode):
            pattern = _plain(node, reading)
        else:
            text = reading.scalar(node, self.expects).value
            if not isinstance(text, str):
                raise self.refusal(node)
            pattern = self._from_json(text)
        compact = json.dumps(pattern, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(compact) > LONGEST_PATTERN:
            raise refuse(
                Code.OUT_OF_RANGE, f"is longer than {LONGEST_PATTERN} characters of JSON", "use several filters"
            )
        _compile(cast("dict[str, object]", pattern), node)
        _warn(cast("dict[str, object]", pattern), node, path, reading)
        return FilterPattern(compact)

    def _from_json(self, text: str) -> object:
        if len(text) > 2 * LONGEST_PATTERN:
            raise refuse(
                Code.OUT_OF_RANGE, f"is longer than {LONGEST_PATTERN} characters of JSON", "use several filters"
            )
        try:
            pattern = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
            raise refuse(Code.PATTERN_INVALID, f"is not JSON: {reason}", "a YAML mapping may stand here too") from error
        if not isinstance(pattern, dict):
            raise refuse(Code.PATTERN_INVALID, "must be a JSON object", 'such as {"value": {"kind": ["refund"]}}')
        if _is_deep(pattern):
            raise refuse(Code.PATTERN_INVALID, f"is nested more than {MAXIMUM_DEPTH} levels deep", "name fewer levels")
        return pattern

    def schema(self, definitions: Definitions) -> Schema:
        return {"anyOf": [{"type": "object"}, {"type": "string", "minLength": 2}]}

    def show(self, value: FilterPattern) -> object:
        return value.to_dict()


def _plain(node: Node, reading: Reading) -> object:
    """A node in JSON's types; a quoted scalar stays a text, an unquoted expression is what its text means."""
    match node:
        case MappingNode():
            return {name: _plain(entry.value, reading) for name, entry in node.entries.items()}
        case SequenceNode():
            return [_plain(item, reading) for item in node.items]
    scalar = reading.scalar(node, "a value of JSON")
    return meant(scalar) if node.plain else scalar.value


def _compile(pattern: dict[str, object], node: Node) -> None:
    from runner.core.filters import PatternInvalid, compile_filters

    try:
        compile_filters([pattern])
    except PatternInvalid as error:
        # The path begins with the number of the pattern, which stands alone here.
        inside = error.path[1:]
        at = f" at {show(inside)}" if inside else ""
        hint = "patterns are those of AWS Lambda's event filtering"
        message = f"is not a valid pattern{at}: {error}"
        raise refuse(Code.PATTERN_INVALID, message, hint, _span_of(node, inside)) from error


def _warn(pattern: dict[str, object], node: Node, path: Path, reading: Reading) -> None:
    from runner.core.filters import fields_named_as_operators

    for inside, alternatives in fields_named_as_operators(pattern):
        name, parent = str(inside[-1]), str(inside[-2])
        operation = json.dumps(alternatives, ensure_ascii=False)
        reading.findings.add(
            Code.FIELD_NAMED_AS_OPERATOR,
            f"{show((*path, *inside))} is taken for a field {quoted(name)} inside of {quoted(parent)}: "
            "an operator stands in a list",
            span=_span_of(node, inside),
            hint=f"for the operator write {quoted(parent)}: {operation[:_LONGEST_HINT]}",
        )


def _span_of(node: Node, path: Path) -> Span:
    """Where the innermost part of ``path`` that the source shows stands."""
    span = node.span
    for part in path:
        if isinstance(node, MappingNode) and part in node.entries:
            span, node = node.entries[part].key.span, node.entries[part].value
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            span = node.span
        else:
            break
    return span


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"key {quoted(name)} is there twice")
        result[name] = value
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MAXIMUM_DEPTH):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
    return bool(level)
