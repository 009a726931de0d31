"""Which records a function wants: Lambda's event patterns, compiled once, applied to each record.

A pattern is an object whose fields must all match; a leaf is a list of alternatives of which one must. Its top-level
fields are a record's own: the metadata ``topic``, ``partition``, ``offset`` (the position), ``timestamp`` (epoch
milliseconds), ``timestampType`` and ``headers`` (an object: name to the list of that header's values, decoded as UTF-8
with U+FFFD for what is not), the data ``key`` and ``value``.

Data under an object is decoded as JSON; data under a list is compared as text. A missing key or value is JSON null in
both. Data that does not have the pattern's form (not UTF-8, not a JSON object or array under an object, such a one
under a list) is left out of the pattern: the record is judged by the pattern's other fields.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from runner.core.patterns import (
    OPERATORS,
    Kind,
    LeafTest,
    Path,
    PatternInvalid,
    Scalar,
    compile_leaf,
    did_you_mean,
)
from runner.model import Record

__all__ = ["Filter", "PatternInvalid", "compile_filters"]

MAXIMUM_EVENT_DEPTH: Final = 100
"""Levels of nesting; a key or value with more counts as not JSON."""

MAXIMUM_PATTERN_DEPTH: Final = 32
MAXIMUM_COMBINATIONS: Final = 1000
"""Conjunctions that the ``$or`` of one pattern may multiply to (EventBridge's limit)."""

_METADATA_KINDS: Final = {
    "topic": Kind.TEXT,
    "partition": Kind.NUMBER,
    "offset": Kind.ANY,
    "timestamp": Kind.NUMBER,
    "timestampType": Kind.TEXT,
}
_FIELDS: Final = (*_METADATA_KINDS, "headers", "key", "value")  # in the order of what looking at them costs
_TAKE_LISTS: Final = ("anything-but", "numeric")
_RESERVED_IN_OR: Final = frozenset([*OPERATORS, "exactly", "=", "<", "<=", ">", ">="])

Json: TypeAlias = Scalar | dict[str, "Json"] | list["Json"]
FieldPath: TypeAlias = tuple[str, ...]


class _Leaf:
    """The tests that a scalar at this place must all pass; there is one, unless ``$or`` names a field again."""

    __slots__ = ("tests",)

    def __init__(self) -> None:
        self.tests: list[LeafTest] = []


class _Branch:
    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: dict[str, _Leaf | _Branch] = {}


class _Section(NamedTuple):
    """What one conjunction asks of one top-level field. ``absent`` are paths below it that must have no leaf."""

    field: str
    tree: _Leaf | _Branch | None
    absent: Sequence[FieldPath]
    as_text: bool


class _Term(NamedTuple):
    """One leaf of a conjunction: a test of what is at ``fields``, or (None) that nothing is there."""

    fields: FieldPath
    test: LeafTest | None
    path: Path


_Conjunction: TypeAlias = tuple[_Term, ...]


class _Mismatch:
    """Stands for data that does not have the form that the pattern is about."""


_MISMATCH: Final = _Mismatch()


class Filter:
    """True for a record that any pattern matches; with no patterns, for every record. Holds no state between calls."""

    __slots__ = ("_conjunctions",)

    def __init__(self, conjunctions: Sequence[Sequence[_Section]]) -> None:
        self._conjunctions = conjunctions

    def __call__(self, record: Record) -> bool:
        if not self._conjunctions:
            return True
        view = _View(record)
        return any(all(_section_matches(section, view) for section in sections) for sections in self._conjunctions)


def compile_filters(patterns: Sequence[Mapping[str, object]]) -> Filter:
    """Compile patterns as YAML or JSON gives them.

    Raises PatternInvalid, whose path begins with the pattern's index.
    """
    conjunctions: list[Sequence[_Section]] = []
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, Mapping):
            raise PatternInvalid("a pattern is an object of fields", (index,))
        conjunctions += [_sections(conjunction) for conjunction in _expand(pattern, (), (index,))]
    return Filter(conjunctions)


def fields_named_as_operators(pattern: Mapping[str, object]) -> Iterator[tuple[Path, Sequence[object]]]:
    """Of a valid pattern, the paths to fields of key or value that have an operator's name, each with the list of
    alternatives that the operator of this name would be: it may have been meant."""
    for name, wanted in pattern.items():
        if name in OPERATORS:
            yield (name,), _as_operator(name, wanted)
        elif isinstance(wanted, Mapping) and name != "headers":
            yield from [((name, *path), meant) for path, meant in fields_named_as_operators(wanted)]
        elif _is_or(name, wanted):
            for index, choice in enumerate(cast("Sequence[Mapping[str, object]]", wanted)):
                yield from [((name, index, *path), meant) for path, meant in fields_named_as_operators(choice)]


def _as_operator(name: str, wanted: object) -> Sequence[object]:
    if isinstance(wanted, Sequence) and not isinstance(wanted, str) and name not in _TAKE_LISTS:
        return [{name: each} for each in wanted]
    return [{name: wanted}]


# --- Compiling: a pattern becomes its conjunctions, so that two fields are always looked for in one array element. ---


def _expand(pattern: Mapping[str, object], fields: FieldPath, path: Path) -> list[_Conjunction]:
    if not pattern:
        raise PatternInvalid("an empty object matches everything: name at least one field", path)
    if len(fields) >= MAXIMUM_PATTERN_DEPTH or len(path) > 3 * MAXIMUM_PATTERN_DEPTH:
        raise PatternInvalid(f"patterns nest at most {MAXIMUM_PATTERN_DEPTH} levels", path)
    product: list[_Conjunction] = [()]
    for name, wanted in pattern.items():
        place: Path = (*path, str(name))
        if not isinstance(name, str):  # YAML allows any scalar as a key
            raise PatternInvalid(f"the field name {name!r} is not a string", place)
        choices = _expand_or(wanted, fields, place) if _is_or(name, wanted) else _field(name, wanted, fields, place)
        if len(product) * len(choices) > MAXIMUM_COMBINATIONS:
            raise PatternInvalid(f"'$or' multiplies to more than {MAXIMUM_COMBINATIONS} combinations", place)
        product = [left + right for left, right in itertools.product(product, choices)]
    return product


def _is_or(name: str, wanted: object) -> bool:
    """``$or`` is an OR only over two or more objects none of which has an operator's name as a field."""
    return (
        name == "$or"
        and isinstance(wanted, Sequence)
        and len(wanted) >= 2
        and all(isinstance(choice, Mapping) and _RESERVED_IN_OR.isdisjoint(choice) for choice in wanted)
    )


def _expand_or(wanted: object, fields: FieldPath, path: Path) -> list[_Conjunction]:
    choices: list[_Conjunction] = []
    for index, choice in enumerate(cast("Sequence[Mapping[str, object]]", wanted)):
        choices += _expand(choice, fields, (*path, index))
    return choices


def _field(name: str, wanted: object, parents: FieldPath, path: Path) -> list[_Conjunction]:
    fields = (*parents, name)
    if not parents and name not in _FIELDS:
        if name == "$or":
            raise PatternInvalid("'$or' takes a list of two or more objects of fields, none named as an operator", path)
        raise PatternInvalid(f"records have no field {name!r}: {did_you_mean(name, _FIELDS)}", path)
    if isinstance(wanted, Mapping):
        _refuse_object(fields, path)
        return _expand(wanted, fields, path)
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        if parents and name in OPERATORS:
            meant = f"{{{parents[-1]!r}: [{{{name!r}: {wanted!r}}}]}}"
            raise PatternInvalid(f"operators stand in a list of alternatives: write {meant}", path)
        raise PatternInvalid(f"a list of alternatives or an object is expected here: write [{wanted!r}]", path)
    if fields == ("headers",):
        raise PatternInvalid("'headers' takes an object: header names, each with a list of alternatives", path)
    test, absent = compile_leaf(wanted, _kind(fields), path)
    if absent and not parents:
        raise PatternInvalid(f"{name!r} is never absent: a record without a key or value has null there", path)
    choices: list[_Conjunction] = [] if test is None else [(_Term(fields, test, path),)]
    if absent:
        choices.append((_Term(fields, None, path),))
    return choices


def _refuse_object(fields: FieldPath, path: Path) -> None:
    if fields[0] in _METADATA_KINDS or (fields[0] == "headers" and len(fields) > 1):
        raise PatternInvalid(f"{fields[-1]!r} holds a single value: it takes a list of alternatives", path)


def _kind(fields: FieldPath) -> Kind:
    if fields[0] == "headers" or fields in (("key",), ("value",)):
        return Kind.TEXT
    return _METADATA_KINDS.get(fields[0], Kind.ANY)


def _sections(conjunction: _Conjunction) -> list[_Section]:
    sections = []
    for field in _FIELDS:
        terms = [term for term in conjunction if term.fields[0] == field]
        if not terms:
            continue
        root = _Branch()
        for term in terms:
            _plant(root, term)
        absent = [term.fields[1:] for term in terms if term.test is None]
        tree = root.fields.get(field)
        as_text = field in ("key", "value") and isinstance(tree, _Leaf)
        if as_text and absent:
            raise PatternInvalid("this field is matched both as text and as an object", terms[-1].path)
        sections.append(_Section(field, tree, absent, as_text))
    return sections


def _plant(root: _Branch, term: _Term) -> None:
    if term.test is None:
        return
    node = root
    for name in term.fields[:-1]:
        child = node.fields.setdefault(name, _Branch())
        if isinstance(child, _Leaf):
            raise PatternInvalid("this field is matched both as a value and as an object", term.path)
        node = child
    leaf = node.fields.setdefault(term.fields[-1], _Leaf())
    if isinstance(leaf, _Branch):
        raise PatternInvalid("this field is matched both as a value and as an object", term.path)
    leaf.tests.append(term.test)


# --- Matching ---


class _View:
    """One record as patterns see it; each of key and value is decoded when first asked for, and once."""

    __slots__ = ("_decoded", "_record")

    def __init__(self, record: Record) -> None:
        self._record = record
        self._decoded: dict[str, Json | _Mismatch] = {}

    def field(self, name: str, as_text: bool) -> Json | _Mismatch:
        record = self._record
        match name:
            case "key":
                return self._data(name, record.key, as_text)
            case "value":
                return self._data(name, record.value, as_text)
            case "topic":
                return record.partition.topic
            case "partition":
                return record.partition.number
            case "offset":
                return record.position
            case "timestamp":
                return record.timestamp_ms
            case "timestampType":
                return record.timestamp_type.value
        return _headers(record)

    def _data(self, name: str, data: bytes | None, as_text: bool) -> Json | _Mismatch:
        if data is None:
            return None
        if not as_text:
            decoded = self._json(name, data)
            return decoded if isinstance(decoded, dict | list) or decoded is None else _MISMATCH
        # Only what begins like an object or an array can be one: other text needs no parser.
        if data.lstrip()[:1] in (b"{", b"[") and self._json(name, data) is not _MISMATCH:
            return _MISMATCH
        try:
            return data.decode()
        except UnicodeDecodeError:  # the contract: data that is not UTF-8 is left out of the pattern
            return _MISMATCH

    def _json(self, name: str, data: bytes) -> Json | _Mismatch:
        if name not in self._decoded:
            self._decoded[name] = _decode(data)
        return self._decoded[name]


def _decode(data: bytes) -> Json | _Mismatch:
    try:
        decoded: Json = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the contract: it is left out of the pattern
        return _MISMATCH
    if data.count(b"{") + data.count(b"[") > MAXIMUM_EVENT_DEPTH and _deeper_than(decoded, MAXIMUM_EVENT_DEPTH):
        return _MISMATCH
    return decoded


def _deeper_than(value: Json, bound: int) -> bool:
    level: list[Json] = [value]
    for _ in range(bound + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: Json) -> Sequence[Json]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _headers(record: Record) -> Json:
    headers: dict[str, Json] = {}
    for name, value in record.headers:
        values = headers.setdefault(name, [])
        cast("list[Json]", values).append(None if value is None else value.decode("utf-8", "replace"))
    return headers


def _section_matches(section: _Section, view: _View) -> bool:
    value = view.field(section.field, section.as_text)
    if isinstance(value, _Mismatch):
        return True
    if any(_has_leaf(value, fields) for fields in section.absent):
        return False
    return section.tree is None or _matches(section.tree, value)


def _matches(node: _Leaf | _Branch, value: Json) -> bool:
    """All fields below ``node`` are looked for in the same element of an array: they must not match in different
    ones."""
    if isinstance(value, list):
        return any(_matches(node, element) for element in value)
    if isinstance(value, dict):
        return isinstance(node, _Branch) and all(
            name in value and _matches(child, value[name]) for name, child in node.fields.items()
        )
    return isinstance(node, _Leaf) and all(test(value) for test in node.tests)


def _has_leaf(value: Json, fields: FieldPath) -> bool:
    """Whether a scalar is at ``fields``, anywhere in the event; an object or an empty array there is no leaf."""
    found = [value]
    for name in fields:
        found = [
            element[name]
            for element in itertools.chain.from_iterable(map(_elements, found))
            if isinstance(element, dict) and name in element
        ]
    return any(not isinstance(element, dict) for element in itertools.chain.from_iterable(map(_elements, found)))


def _elements(value: Json) -> Iterator[Json]:
    if isinstance(value, list):
        for element in value:
            yield from _elements(element)
    else:
        yield value
