"""Configurations whose text says what is wrong with it, at the place where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest

from runner.config import Config, ConfigInvalid, Diagnostic, loads

_MARK = re.compile(r"«(?P<code>[EW]\d{3})(?:\|(?P<hint>[^»]*))?»")


class Expected(NamedTuple):
    """``hint`` is a part of the hint."""

    line: int
    column: int
    code: str
    hint: str


class Judgement(NamedTuple):
    """What was said about a text, and what its marks had announced. ``config`` is None when it was refused."""

    text: str
    expected: list[Expected]
    found: list[Diagnostic]
    config: Config | None

    def check(self) -> None:
        """Nothing less and nothing more than announced, each at its place with its hint."""
        places = [(each.line, each.column, str(each.code)) for each in self.found]
        assert places == [(line, column, code) for line, column, code, _ in self.expected]
        for diagnostic, expected in zip(self.found, self.expected, strict=True):
            assert diagnostic.hint, diagnostic
            assert expected.hint in diagnostic.hint
            assert "\n" not in str(diagnostic)


Judge = Callable[..., Judgement]


def _unmarked(marked: str) -> tuple[str, list[Expected]]:
    lines: list[str] = []
    expected: list[Expected] = []
    for number, line in enumerate(marked.split("\n"), start=1):
        while mark := _MARK.search(line):
            expected.append(Expected(number, mark.start() + 1, mark["code"], mark["hint"] or ""))
            line = line[: mark.start()] + line[mark.end() :]
        lines.append(line)
    return "\n".join(lines), sorted(expected)


@pytest.fixture
def judge() -> Judge:
    """Take a text in which «E103|part of the hint» stands before what is wrong, and say what is found in it."""

    def judge_text(marked: str, environ: Mapping[str, str] | None = None) -> Judgement:
        text, expected = _unmarked(marked)
        config = None
        try:
            config = loads(text, name="config.yaml", environ=environ or {})
            found = list(config.warnings)
        except ConfigInvalid as invalid:
            found = sorted([*invalid.errors, *invalid.warnings], key=lambda each: (each.line, each.column, each.code))
        return Judgement(text, expected, found, config)

    return judge_text
