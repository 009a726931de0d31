"""The kind of value that is a set of static HTTP headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from runner.clients.secret import Secret
from runner.config.codes import Code
from runner.config.document import Node
from runner.config.kinds import Definitions, Kind, Schema, read_or_report
from runner.config.reading import Located, Reading
from runner.config.secrets import SecretText
from runner.config.sections import entries_of
from runner.config.wording import Path, quoted

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONNECTION: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS: Final = frozenset({"idempotency-key", "traceparent"})
_OUR_PREFIX: Final = "stream-runner-"


def _wrong_value(text: str) -> str | None:
    if re.search(r"[^\t\x20-\x7e\xa0-\xff]", text):
        return "must be Latin-1 text on one line"
    return "must not begin or end with a blank" if text != text.strip() else None


class Headers(Kind[Mapping[str, Secret]]):
    """Names to values; names that the connection or every invocation's identity need are refused."""

    expects = "a mapping of header names to values"

    def __init__(self) -> None:
        self._value = SecretText(_wrong_value, belongs_elsewhere=False)

    def read(self, node: Node, path: Path, reading: Reading) -> Mapping[str, Secret]:
        headers: dict[str, Secret] = {}
        seen: set[str] = set()
        for name, entry in entries_of(self, node).items():
            inner = (*path, name)
            reading.places[inner] = Located(entry.key.span, entry.value.span)
            wrong = _wrong_name(name, seen)
            if wrong is not None:
                reading.invalid.add(inner)
                reading.findings.add(
                    Code.HEADER_REFUSED, f"header {quoted(name)} {wrong[0]}", span=entry.key.span, hint=wrong[1]
                )
            seen.add(name.lower())
            value = read_or_report(self._value, entry.value, inner, reading)
            if value is not None:
                headers[name] = value
        return headers

    def schema(self, definitions: Definitions) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{_TOKEN.pattern}$"},
            "additionalProperties": self._value.schema(definitions),
        }


def _wrong_name(name: str, seen: set[str]) -> tuple[str, str] | None:
    """What is wrong with a name, and what to do."""
    folded = name.lower()
    if not _TOKEN.fullmatch(name):
        return "is not a header name", "letters, digits and hyphens make a name"
    if folded in seen:
        return "is there twice: header names know no case", "keep one of them"
    if folded in _CONNECTION:
        return "belongs to the connection", "remove it: it is set for every request"
    if folded in _OURS or folded.startswith(_OUR_PREFIX):
        return "says who an invocation is", "remove it: it is set for every invocation"
    return None
