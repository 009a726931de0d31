"""What a kind of value is: how it is read from a node, and how JSON Schema describes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Generic, TypeAlias, TypeVar

from runner.config.codes import Code
from runner.config.document import Node
from runner.config.reading import Plain, Reading, Refused, Scalar, found, refuse, resolve
from runner.config.wording import Path, show

T = TypeVar("T")

Schema: TypeAlias = dict[str, object]
Definitions: TypeAlias = dict[str, Schema]

EXPRESSION_DEFINITION: Final = "expression"


class Kind(ABC, Generic[T]):
    """``expects`` completes "must be ..."."""

    expects: str

    @abstractmethod
    def read(self, node: Node, path: Path, reading: Reading) -> T:
        """The value. Raises Refused; a collection reports what is wrong inside it and goes on."""

    @abstractmethod
    def schema(self, definitions: Definitions) -> Schema:
        """JSON Schema, draft 7; adds what it refers to to ``definitions``."""

    def show(self, value: T) -> object:
        """``value`` as somebody would write it, in JSON's types."""
        return value

    def refusal(self, node: Node, hint: str = "", code: Code = Code.WRONG_TYPE) -> Refused:
        """Wrong type, or another reason why ``node`` is not what is expected."""
        usual = "write a value within these bounds" if code is Code.OUT_OF_RANGE else f"write {self.expects}"
        return refuse(code, f"must be {self.expects}, found {self.found(node)}", hint or usual)

    def found(self, node: Node) -> str:
        """``node`` in words. What stands where a collection belongs may be a misplaced secret: it is not shown."""
        return found(node).partition(" '")[0]


class ScalarKind(Kind[T]):
    """Read from a scalar. Where the value is no text, an expression (``${VAR}``) may stand for it."""

    def read(self, node: Node, path: Path, reading: Reading) -> T:
        return self.convert(node, reading.scalar(node, self.expects))

    def found(self, node: Node) -> str:
        return found(node)

    @abstractmethod
    def convert(self, node: Node, scalar: Scalar) -> T:
        """Raises Refused."""


def meant(scalar: Scalar) -> Plain:
    """What the scalar means to a key that wants no text: an expression's text is taken like an unquoted one."""
    if scalar.expanded and isinstance(scalar.value, str):
        return resolve(scalar.value.strip())
    return scalar.value


def or_expression(schema: Schema, definitions: Definitions) -> Schema:
    """``schema``, or a text with an expression in it."""
    definitions[EXPRESSION_DEFINITION] = {
        "type": "string",
        "pattern": r"\$\{[^{}]+\}",
        "description": "Replaced when the file is read: ${VAR}, ${VAR:-default} or ${file:/path}.",
    }
    return {"anyOf": [schema, {"$ref": f"#/definitions/{EXPRESSION_DEFINITION}"}]}


def read_or_report(kind: Kind[T], node: Node, path: Path, reading: Reading) -> T | None:
    """The value; None after what is wrong with it was reported and ``path`` marked invalid."""
    if node.refused:
        reading.invalid.add(path)
        return None
    try:
        return kind.read(node, path, reading)
    except Refused as refused:
        reading.invalid.add(path)
        located = reading.nearest_place(path)
        for refusal in refused.refusals:
            span = refusal.span or (located.telling if located else node.span)
            message = f"{show(path)} {refusal.message}"
            reading.findings.add(refusal.code, message, span=span, hint=refusal.hint, identity=refusal.message)
        return None
