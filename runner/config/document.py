"""YAML text as a tree in which every node knows its place; no node has a meaning yet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple, NoReturn, TypeAlias

import yaml

from runner.config.codes import Code
from runner.config.excerpts import looks_secret
from runner.config.findings import Findings, Place, Span
from runner.config.wording import quoted

MAXIMUM_DEPTH: Final = 64
MAXIMUM_VALUES: Final = 50_000
"""Values in the tree, each counted as often as an alias repeats it."""

_NOT_PRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SYNTAX_HINTS: Final = (
    ("cannot start any token", "indent with spaces, never tabs; put text that begins with @, ` or % in quotes"),
    ("mapping values are not allowed", "put text that contains ': ' in quotes, and check the indentation"),
    ("expected <block end>", "check the indentation: keys of one mapping begin in the same column"),
    ("did not find expected key", "check the indentation: keys of one mapping begin in the same column"),
    ("could not find expected ':'", "every key is followed by a colon and a space"),
    ("unexpected end of stream", "a quote that is opened here is never closed"),
    ("expected ',' or", "a bracket that is opened is never closed, or a comma is missing"),
)
_SYNTAX_HINT: Final = "look for a quote, a bracket or a comma that is missing, here or before"


@dataclass(slots=True, eq=False)
class ScalarNode:
    """``plain``: written without quotes. ``refused``: already reported, to be passed over silently."""

    span: Span
    text: str
    plain: bool
    refused: bool = False
    size: ClassVar[int] = 1
    height: ClassVar[int] = 0


@dataclass(slots=True, eq=False)
class SequenceNode:
    """``size``: values below and itself; ``height``: levels below."""

    span: Span
    items: list[Node] = field(default_factory=list)
    refused: bool = False
    size: int = 1
    height: int = 0


class Entry(NamedTuple):
    """A key with what it holds."""

    key: ScalarNode
    value: Node


@dataclass(slots=True, eq=False)
class MappingNode:
    """``size``: values below and itself; ``height``: levels below."""

    span: Span
    entries: dict[str, Entry] = field(default_factory=dict)
    refused: bool = False
    size: int = 1
    height: int = 0


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


class DocumentUnreadable(Exception):
    """The text has no tree. The reason is among the findings."""


def compose(text: str, findings: Findings) -> Node:
    """The only document of ``text``. Reports what is wrong with single nodes and goes on; bounded in time and memory.

    Raises DocumentUnreadable after it has reported why there is no tree.
    """
    unprintable = _NOT_PRINTABLE.search(text)
    if unprintable is not None:
        _report_unprintable(text, unprintable.start(), findings)
        raise DocumentUnreadable
    composer = _Composer(findings)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except yaml.YAMLError as error:
        _report_syntax(error, findings)
        raise DocumentUnreadable from error
    if composer.root is None or _is_nothing(composer.root):
        findings.add(Code.EMPTY, "the file is empty", hint="a configuration needs at least 'functions' and 'mappings'")
        raise DocumentUnreadable
    return composer.root


def _is_nothing(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.plain and node.text == ""


def _report_unprintable(text: str, index: int, findings: Findings) -> None:
    before = text[:index]
    start = max(before.rfind("\n"), before.rfind("\r")) + 1
    place = Place(len(re.findall(r"\r\n|[\n\r]", before)) + 1, index - start + 1)
    findings.add(
        Code.CHARACTER_NOT_ALLOWED,
        f"the character U+{ord(text[index]):04X} is not allowed in YAML",
        span=Span(place, Place(place.line, place.column + 1)),
        hint='write it as an escape in double quotes, such as "\\x07", if it is meant',
        with_excerpt=False,
    )


def _report_syntax(error: yaml.YAMLError, findings: Findings) -> None:
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed")
    context = getattr(error, "context", None)
    mark = getattr(error, "problem_mark", None)
    place = Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
    findings.add(
        Code.YAML_SYNTAX,
        f"not valid YAML: {problem}" + (f" {context}" if context else ""),
        span=Span(place, Place(place.line, place.column + 1)),
        hint=next((hint for part, hint in _SYNTAX_HINTS if part in problem), _SYNTAX_HINT),
    )


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet; ``key`` is None while a value is passed over, which may be a secret."""

    node: SequenceNode | MappingNode
    anchor: str | None
    has_key: bool = False
    key: ScalarNode | None = None
    hides_value: bool = False


class _Composer:
    """Turns YAML events into the tree without recursion, so that depth costs no stack."""

    def __init__(self, findings: Findings) -> None:
        self.root: Node | None = None
        self._findings = findings
        self._open: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._written = 0

    def take(self, event: yaml.Event) -> None:
        start, end = event.start_mark, event.end_mark
        assert start is not None
        assert end is not None
        span = Span(Place(start.line + 1, start.column + 1), Place(end.line + 1, end.column + 1))
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._fail(Code.SEVERAL_DOCUMENTS, span, "a second YAML document begins here", "keep one a file")
            case yaml.ScalarEvent():
                plain = not event.style
                node = ScalarNode(span, event.value, plain, self._refuses_tag(event.tag, span))
                self._remember(event.anchor, node)
                self._attach(node)
            case yaml.AliasEvent():
                self._attach(self._aliased(event.anchor, span))
            case yaml.SequenceStartEvent():
                self._begin(SequenceNode(span, refused=self._refuses_tag(event.tag, span)), event.anchor)
            case yaml.MappingStartEvent():
                self._begin(MappingNode(span, refused=self._refuses_tag(event.tag, span)), event.anchor)
            case yaml.CollectionEndEvent():
                closed = self._open.pop()
                self._remember(closed.anchor, closed.node)
                self._attach(closed.node)

    def _begin(self, node: SequenceNode | MappingNode, anchor: str | None) -> None:
        self._open.append(_Open(node, anchor))
        self._check_depth(len(self._open), node.span)
        if anchor is not None:
            self._anchors.pop(anchor, None)

    def _remember(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _aliased(self, anchor: str | None, span: Span) -> Node:
        node = self._anchors.get(anchor or "")
        if node is None:
            inside = any(each.anchor == anchor for each in self._open)
            text = f"alias '*{anchor}' stands inside what it repeats" if inside else f"alias '*{anchor}' has no anchor"
            self._fail(Code.ALIAS_WITHOUT_ANCHOR, span, text, "an alias repeats an anchor that stands before it")
        self._check_depth(len(self._open) + node.height, span)
        return node

    def _attach(self, node: Node) -> None:
        self._written += 1
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.node.size += node.size
        parent.node.height = max(parent.node.height, node.height + 1)
        if max(parent.node.size, self._written) > MAXIMUM_VALUES:
            self._fail(
                Code.TOO_MANY_VALUES,
                node.span,
                f"the file comes to more than {MAXIMUM_VALUES:,} values",
                "aliases count as often as they repeat their anchor",
            )
        if isinstance(parent.node, SequenceNode):
            parent.node.items.append(node)
        elif not parent.has_key:
            parent.key, parent.has_key = self._key(parent.node, node), True
            parent.hides_value = isinstance(node, ScalarNode) and looks_secret(node.text)
        else:
            if parent.key is not None:
                parent.node.entries[parent.key.text] = Entry(parent.key, node)
            elif isinstance(node, ScalarNode) and parent.hides_value:
                self._findings.mask(node.span)
            parent.has_key = False

    def _key(self, parent: MappingNode, node: Node) -> ScalarNode | None:
        """The key to file a value under; None when it cannot be filed, which has been reported then."""
        if not isinstance(node, ScalarNode):
            self._findings.add(
                Code.KEY_NOT_TEXT, "a key must be a text, not a collection", span=node.span, hint="write a name"
            )
            return None
        if node.plain and node.text == "<<":
            self._findings.add(
                Code.MERGE_KEY,
                "merge keys ('<<') are not supported",
                span=node.span,
                hint="repeat a whole value with an anchor and an alias (&name, *name), or write the keys out",
            )
            return None
        earlier = parent.entries.get(node.text)
        if earlier is not None:
            self._findings.add(
                Code.DUPLICATE_KEY,
                f"key {quoted(node.text)} is there twice",
                span=node.span,
                hint=f"the first one is on line {earlier.key.span.start.line}: keep one of them",
            )
            return None
        return None if node.refused else node

    def _check_depth(self, depth: int, span: Span) -> None:
        if depth > MAXIMUM_DEPTH:
            self._fail(
                Code.NESTED_TOO_DEEP, span, f"nested more than {MAXIMUM_DEPTH} levels deep", "no key is that deep"
            )

    def _refuses_tag(self, tag: str | None, span: Span) -> bool:
        if tag is None:
            return False
        self._findings.add(
            Code.TAG,
            f"YAML tag {quoted(tag)} is not allowed",
            span=span,
            hint="write the value alone; its key says its type",
        )
        return True

    def _fail(self, code: Code, span: Span, message: str, hint: str = "") -> NoReturn:
        self._findings.add(code, message, span=span, hint=hint, with_excerpt=False)
        raise DocumentUnreadable
