"""The kinds of collections: sections with known keys, lists, and mappings whose keys are names."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, Generic, TypeVar, cast, dataclass_transform

from runner.config.codes import Code
from runner.config.document import Entry, MappingNode, Node, ScalarNode, SequenceNode
from runner.config.excerpts import looks_secret
from runner.config.kinds import Definitions, Kind, Schema, read_or_report
from runner.config.reading import Located, Reading, refuse
from runner.config.wording import Path, listed, quoted, show

T = TypeVar("T")
D = TypeVar("D")
H = TypeVar("H", bound=Hashable)

_METADATA: Final = "key"
_EXACTLY_ONE: Final = "__exactly_one__"
_REQUIRED: Final[Any] = dataclasses.MISSING
_UNUSABLE: Final[Any] = None
"""Stands in a model for a value that is missing or invalid; such a model never leaves this package."""


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One key of a section. ``derived`` says in words where the value comes from when it is not written."""

    kind: Kind[Any]
    description: str
    default: Any
    derived: str

    @property
    def is_required(self) -> bool:
        return self.default is _REQUIRED and not self.derived


def key(kind: Kind[T], description: str, *, default: D = _REQUIRED) -> T | D:
    """A field of a section; required without a default."""
    metadata = {_METADATA: Key(kind, description, default, "")}
    if isinstance(default, Mapping):
        # A mapping has no hash, which dataclasses take for a default that instances would share and change.
        return cast("T | D", dataclasses.field(default_factory=lambda: default, metadata=metadata))
    return cast("T | D", dataclasses.field(default=default, metadata=metadata))


def derived_key(kind: Kind[T], description: str, *, derived: str) -> T:
    """A field whose value, when it is not written, follows from other values as ``derived`` says."""
    return cast("T", dataclasses.field(metadata={_METADATA: Key(kind, description, _REQUIRED, derived)}))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(key, derived_key))
def section(*, exactly_one: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass whose fields are the keys of a section; of ``exactly_one``, one has to be written."""

    def decorate(cls: type[T]) -> type[T]:
        setattr(cls, _EXACTLY_ONE, exactly_one)
        return dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    return decorate


def keys_of(model: type[object]) -> dict[str, Key]:
    """The keys of a section by name, in the order of their declaration."""
    fields = dataclasses.fields(cast("Any", model))
    return {each.name: each.metadata[_METADATA] for each in fields if _METADATA in each.metadata}


class Section(Kind[T], Generic[T]):
    """A mapping with the keys of ``model``; every other key is refused."""

    expects = "a mapping"

    def __init__(self, model: type[T]) -> None:
        self._model = model
        self._keys = keys_of(model)
        self._exactly_one: tuple[str, ...] = getattr(model, _EXACTLY_ONE)

    def read(self, node: Node, path: Path, reading: Reading) -> T:
        entries = entries_of(self, node)
        unknown = [entry for name, entry in entries.items() if name not in self._keys]
        mistyped = {self._report_unknown(entry, path, reading) for entry in unknown}
        for name, key in self._keys.items():
            if key.is_required and name not in entries:
                reading.invalid.add((*path, name))
                if name not in mistyped:
                    self._report_missing(name, key, path, reading)
        values = {name: self._value(name, key, entries.get(name), path, reading) for name, key in self._keys.items()}
        if self._exactly_one:
            self._check_exactly_one(entries, mistyped, path, reading)
        return self._model(**values)

    def _value(self, name: str, key: Key, entry: Entry | None, path: Path, reading: Reading) -> Any:
        fallback = _UNUSABLE if key.default is _REQUIRED else key.default
        if entry is None:
            return fallback
        inner = (*path, name)
        reading.places[inner] = Located(entry.key.span, entry.value.span)
        if key.default is None and not isinstance(key.kind, Section) and is_null(entry.value):
            return None
        value = read_or_report(key.kind, entry.value, inner, reading)
        return value if inner not in reading.invalid else fallback

    def _report_missing(self, name: str, key: Key, path: Path, reading: Reading) -> None:
        located = reading.nearest_place(path)
        reading.findings.add(
            Code.MISSING_KEY,
            f"{show(path)} lacks the key {quoted(name)}",
            identity=name,
            span=located.key if located else None,
            hint=f"add {quoted(name)}: {key.description[0].lower()}{key.description[1:].rstrip('.')}",
        )

    def _report_unknown(self, entry: Entry, path: Path, reading: Reading) -> str | None:
        """The key that was probably meant."""
        name = entry.key.text
        near = reading.suggest(name, self._keys)
        if isinstance(entry.value, ScalarNode) and looks_secret(f"{name} {near}"):
            reading.findings.mask(entry.value.span)
        reading.findings.add(
            Code.UNKNOWN_KEY,
            f"unknown key {quoted(name)} in {show(path)}",
            identity=name,
            span=entry.key.span,
            hint=f"did you mean {quoted(near)}?" if near else f"the keys here are {', '.join(self._keys)}",
        )
        return near

    def _check_exactly_one(
        self, entries: Mapping[str, Entry], mistyped: set[str | None], path: Path, reading: Reading
    ) -> None:
        written = [name for name in self._exactly_one if name in entries]
        if len(written) == 1:
            return
        reading.invalid.add(path)
        if written:
            message = f"{show(path)} must have only one of {listed(self._exactly_one)}, found {' and '.join(written)}"
            span = entries[written[1]].key.span
            reading.findings.add(Code.NOT_EXACTLY_ONE, message, span=span, hint="keep one of them")
        elif mistyped.isdisjoint(self._exactly_one):
            located = reading.nearest_place(path)
            reading.findings.add(
                Code.NOT_EXACTLY_ONE,
                f"{show(path)} must have one of the keys {listed(self._exactly_one)}",
                span=located.key if located else None,
                hint=f"add {listed([quoted(name) for name in self._exactly_one])}",
            )

    def schema(self, definitions: Definitions) -> Schema:
        name = self._model.__name__
        if name not in definitions:
            definition: Schema = {"type": "object"}
            definitions[name] = definition
            definition["description"] = inspect.getdoc(self._model) or ""
            definition["properties"] = {
                name: described(key, key.kind.schema(definitions)) for name, key in self._keys.items()
            }
            definition["additionalProperties"] = False
            required = [name for name, key in self._keys.items() if key.is_required]
            if required:
                definition["required"] = required
            if self._exactly_one:
                definition["oneOf"] = [{"required": [name]} for name in self._exactly_one]
        return {"$ref": f"#/definitions/{name}"}


def described(key: Key, schema: Schema) -> Schema:
    """``schema`` with the key's description and default. Draft 7 ignores what stands beside a ``$ref``."""
    described: Schema = {"description": key.description}
    if key.derived:
        described["description"] = f"{key.description} Default: {key.derived}."
    elif key.default is None and not isinstance(key.kind, Section):
        schema = {"anyOf": [schema, {"type": "null"}]}
    elif key.default is not _REQUIRED and not dataclasses.is_dataclass(key.default) and key.default is not None:
        described["default"] = key.kind.show(key.default)
    return described | ({"allOf": [schema]} if "$ref" in schema else schema)


def entries_of(kind: Kind[Any], node: Node) -> dict[str, Entry]:
    """The entries of a mapping. Raises Refused for any other node."""
    if isinstance(node, MappingNode):
        return node.entries
    raise kind.refusal(node, "write {} for its defaults" if is_null(node) else "")


def is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.plain and node.text in ("", "~", "null")


class Items(Kind[tuple[H, ...]], Generic[H]):
    """A list of ``item``, each at most once."""

    def __init__(self, item: Kind[H], minimum: int, maximum: int) -> None:
        self._item = item
        self._minimum = minimum
        self._maximum = maximum
        self.expects = f"a list of {minimum} to {maximum} items"

    def read(self, node: Node, path: Path, reading: Reading) -> tuple[H, ...]:
        if not isinstance(node, SequenceNode):
            raise self.refusal(node, "put it in brackets: [...]" if isinstance(node, ScalarNode) else "")
        if not self._minimum <= len(node.items) <= self._maximum:
            raise refuse(Code.OUT_OF_RANGE, f"must be {self.expects}, found {len(node.items)}", "add or remove items")
        values: list[H] = []
        complete = True
        for index, item in enumerate(node.items):
            inner = (*path, index)
            reading.places[inner] = Located(item.span, item.span)
            invalid_before = len(reading.invalid)
            value = read_or_report(self._item, item, inner, reading)
            if len(reading.invalid) > invalid_before:
                complete = False
            elif value in values:
                complete = False
                message = f"{show(inner)} repeats {show((*path, values.index(value)))}"
                reading.findings.add(Code.DUPLICATE_ITEM, message, span=item.span, hint="keep one of them")
            values.append(cast("H", value))
        if not complete:
            reading.invalid.add(path)
        return tuple(values)

    def schema(self, definitions: Definitions) -> Schema:
        return {
            "type": "array",
            "items": self._item.schema(definitions),
            "minItems": self._minimum,
            "maxItems": self._maximum,
        }

    def show(self, value: tuple[H, ...]) -> object:
        return [self._item.show(item) for item in value]


class Named(Kind[Mapping[str, T]], Generic[T]):
    """A mapping from names, which match ``name_pattern``, to ``item``; unusable items are left out."""

    def __init__(self, item: Kind[T], expects: str, name_pattern: str, name_expects: str) -> None:
        self._item = item
        self.expects = expects
        self._name = re.compile(name_pattern, re.ASCII)
        self._name_expects = name_expects

    def read(self, node: Node, path: Path, reading: Reading) -> Mapping[str, T]:
        values: dict[str, T] = {}
        for name, entry in entries_of(self, node).items():
            inner = (*path, name)
            reading.places[inner] = Located(entry.key.span, entry.value.span)
            if not self._name.fullmatch(name):
                message = f"{quoted(name)} in {show(path)} is not {self._name_expects}"
                reading.findings.add(Code.MALFORMED, message, span=entry.key.span, hint="give it another name")
            value = read_or_report(self._item, entry.value, inner, reading)
            if value is not None and inner not in reading.invalid:
                values[name] = value
        return values

    def schema(self, definitions: Definitions) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self._name.pattern})$"},
            "additionalProperties": self._item.schema(definitions),
        }

    def show(self, value: Mapping[str, T]) -> object:
        return {name: self._item.show(item) for name, item in value.items()}
