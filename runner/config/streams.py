"""The kind of a list of stream keys, in which many that differ by a number are written as one text."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import Final

from runner.config.codes import Code
from runner.config.document import Node, ScalarNode, SequenceNode
from runner.config.kinds import Definitions, Kind, Schema, read_or_report
from runner.config.reading import Located, Reading, Refused, refuse
from runner.config.scalars import Text
from runner.config.wording import Path, quoted, show

MOST_STREAMS: Final = 1000

_KEY: Final = Text("a stream's key", longest=512)
_RANGE: Final = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}", re.ASCII)


class StreamKeys(Kind[tuple[str, ...]]):
    """A list of texts, or one text; ``{N..M}`` in a text stands for each number from N to M. See ``expand_ranges``."""

    expects = "one or more stream keys"

    def read(self, node: Node, path: Path, reading: Reading) -> tuple[str, ...]:
        if not isinstance(node, (ScalarNode, SequenceNode)):
            raise self.refusal(node)
        nodes = node.items if isinstance(node, SequenceNode) else [node]
        streams: dict[str, Path] = {}
        for index, each in enumerate(nodes):
            inner = path if each is node else (*path, index)
            if each is not node:
                reading.places[inner] = Located(each.span, each.span)
            keys = read_or_report(_Expanded(), each, inner, reading)
            if inner in reading.invalid:
                reading.invalid.add(path)
            repeated = next((key for key in keys or () if key in streams), None)
            if repeated is not None:
                message = f"{show(inner)} repeats {quoted(repeated)} of {show(streams[repeated])}"
                reading.findings.add(Code.DUPLICATE_ITEM, message, span=each.span, hint="keep one of them")
                reading.invalid.add(path)
            streams |= dict.fromkeys(keys or (), inner)
            if len(streams) > MOST_STREAMS:
                raise _too_many("is")
        if not nodes:
            raise refuse(Code.OUT_OF_RANGE, "must be one stream at least", "name what to read")
        return tuple(streams)

    def schema(self, definitions: Definitions) -> Schema:
        text = _KEY.schema(definitions)
        return {"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_STREAMS}]}

    def show(self, value: tuple[str, ...]) -> object:
        return list(value)


class _Expanded(Kind[tuple[str, ...]]):
    """The keys that one text stands for."""

    expects = _KEY.expects

    def read(self, node: Node, path: Path, reading: Reading) -> tuple[str, ...]:
        text = _KEY.read(node, path, reading)
        if count_streams(text) > MOST_STREAMS:
            raise _too_many("stands for")
        keys = expand_ranges(text)
        if len(set(keys)) < len(keys):
            raise refuse(Code.DUPLICATE_ITEM, "stands for a stream twice", "put something between the ranges")
        return keys

    def schema(self, definitions: Definitions) -> Schema:
        return _KEY.schema(definitions)


def _too_many(verb: str) -> Refused:
    return refuse(
        Code.OUT_OF_RANGE, f"{verb} more than {MOST_STREAMS} streams", "share the streams out to several mappings"
    )


def count_streams(text: str) -> int:
    """How many keys ``expand_ranges`` makes of ``text``."""
    return math.prod([max(int(last) - int(first) + 1, 1) for first, last in _RANGE.findall(text)])


def expand_ranges(text: str) -> tuple[str, ...]:
    """The keys that ``text`` stands for, itself when it holds no range.

    ``{N..M}`` is a range where N and M are decimal numbers and N is not above M; every other brace is a part of the
    key. As in shells, numbers are as wide as the wider of the two where one of them begins with 0, and of two ranges
    the last changes fastest.
    """
    parts = _RANGE.split(text)  # what is around the ranges, and between them their two numbers
    choices = [[parts[0]]]
    for first, last, behind in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        choices += [_numbers(first, last) or [f"{{{first}..{last}}}"], [behind]]
    return tuple(["".join(chosen) for chosen in product(*choices)])


def _numbers(first: str, last: str) -> list[str]:
    is_padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if is_padded else 1
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
