"""Durations and sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_MILLISECONDS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_BYTES: Final = {
    "GiB": 1 << 30,
    "GB": 10**9,
    "MiB": 1 << 20,
    "MB": 10**6,
    "KiB": 1 << 10,
    "KB": 1000,
    "B": 1,
}
_NUMBER: Final = r"[0-9]{1,15}(\.[0-9]{1,9})?"

DURATION_PATTERN: Final = rf"^{_NUMBER}(ms|s|m|h|d)$"
SIZE_PATTERN: Final = rf"^{_NUMBER}(B|KB|KiB|MB|MiB|GB|GiB)$"

_DURATION: Final = re.compile(rf"({_NUMBER})(ms|s|m|h|d)", re.ASCII)
_SIZE: Final = re.compile(rf"({_NUMBER})(B|KB|KiB|MB|MiB|GB|GiB)", re.ASCII)


def parse_duration(text: str) -> float | None:
    """Seconds, None when ``text`` is not a number with a unit."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    return float(Decimal(match[1]) * _MILLISECONDS[match[3]] / 1000)


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` turns into the same number; ``seconds`` is not negative."""
    milliseconds = Decimal(repr(float(seconds))) * 1000
    if milliseconds == 0:
        return "0s"
    for unit, length in _MILLISECONDS.items():
        if milliseconds % length == 0:
            return f"{int(milliseconds // length)}{unit}"
    return f"{milliseconds.normalize():f}ms"


def parse_size(text: str) -> int | None:
    """Bytes, None when ``text`` is not a number with a unit that comes to whole bytes. KB is 1000, KiB is 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    size = Decimal(match[1]) * _BYTES[match[3]]
    return int(size) if size == size.to_integral_value() else None


def format_size(size: int) -> str:
    """The shortest text that ``parse_size`` turns into the same number; ``size`` is in bytes and not negative."""
    if size == 0:
        return "0B"
    unit, length = next((unit, length) for unit, length in _BYTES.items() if size % length == 0)
    return f"{size // length}{unit}"
