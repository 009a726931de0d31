"""Writes one log message as one line, whatever its values hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

from runner.model import Partition

MAXIMUM_TEXT: Final = 4096
"""Characters of one value; what is longer is cut, and says so."""
MAXIMUM_ITEMS: Final = 1000
MAXIMUM_DEPTH: Final = 4

_FIRST: Final = ("timestamp", "level", "logger", "event", "mapping", "function", "topic", "partition")
_SHOWN_ALONE: Final = ("timestamp", "level", "logger", "event")

_RESET: Final = "\x1b[0m"
_COLOURS: Final = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}


def stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put what the standard library's record knows into the message: time (RFC 3339, UTC), level, logger."""
    record = event["_record"]
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    event["timestamp"] = moment.replace("+00:00", "Z")
    event["level"] = record.levelname.lower()
    event["logger"] = record.name
    return event


def plain(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every value one that JSON has, bounded in size, the well-known keys first."""
    ordered = {key: event.pop(key) for key in _FIRST if key in event}
    ordered.update(event)
    return {plain_text(str(key)): plain_value(value) for key, value in ordered.items()}


def plain_value(value: object, depth: int = 0) -> Any:
    """``value`` as JSON can hold it. Bytes may be somebody's payload and are never shown, only counted."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return plain_text(value)
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Partition():
            return plain_text(str(value))
        case BaseException():
            return plain_text(f"{type(value).__name__}: {value}")
    if depth < MAXIMUM_DEPTH:
        if isinstance(value, Mapping):
            items = list(value.items())[:MAXIMUM_ITEMS]
            return {plain_text(str(key)): plain_value(item, depth + 1) for key, item in items}
        if isinstance(value, list | tuple | AbstractSet):
            return [plain_value(item, depth + 1) for item in list(value)[:MAXIMUM_ITEMS]]
    return plain_text(str(value))


def plain_text(text: str) -> str:
    text = str(text)  # an enum's member is a string too, but has another repr
    if len(text) <= MAXIMUM_TEXT:
        return text
    return f"{text[:MAXIMUM_TEXT]}... ({len(text) - MAXIMUM_TEXT} more characters)"


def escaped(text: str) -> str:
    """``text`` with everything that a terminal or a line reader might act on written as a backslash escape."""
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text])


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """One JSON object in ASCII, which no encoding and no control character can break."""
    return json.dumps(event, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")


class ConsoleRenderer:
    """A line for people: time of day (UTC), level, event, then the other values as key=value."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        level = str(event["level"])
        moment = str(event["timestamp"])[11:23]
        values = [f"{key}={_shown(value)}" for key, value in event.items() if key not in _SHOWN_ALONE]
        line = escaped("  ".join([str(event["event"]), " ".join(values)]).rstrip())
        colour = _COLOURS.get(level, "") if self._colours else ""
        shown_level = f"{colour}{level.upper():<8}{_RESET}" if colour else f"{level.upper():<8}"
        return f"{moment} {shown_level} {line}"


def _shown(value: object) -> str:
    if isinstance(value, str) and value and not any(each in value for each in ' "=\\'):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
