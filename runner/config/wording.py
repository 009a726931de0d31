"""How messages name paths, values and near misses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indexes from the top of a configuration."""

_SHOWN: Final = 60
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def quoted(text: str) -> str:
    """``text`` in quotes, on one line, without control characters, cut when long."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return "'" + "".join([c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut]) + "'"


def show(path: Path) -> str:
    """``mappings.orders.source.kafka.topics[0]``; the top is called "the file"."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if len(part) <= _SHOWN and part.isprintable() else quoted(part)
            text += f".{name}" if text else name
    return text or "the file"


def listed(words: Iterable[object]) -> str:
    """``a, b or c``."""
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def nearest(word: str, candidates: Collection[str]) -> str | None:
    """The candidate that was probably meant: AWS's spelling of it, or a near miss."""
    if len(word) > _SHOWN:
        return None
    snake = _CAMEL.sub("_", word).lower().replace("-", "_").removesuffix("_in_seconds")
    folded = {candidate.lower(): candidate for candidate in candidates}
    if snake in folded:
        return folded[snake]
    match = difflib.get_close_matches(snake, folded, n=1, cutoff=0.6)
    return folded[match[0]] if match else None
