"""``${VAR}``, ``${VAR:-default}`` and ``${file:/path}`` in a scalar, after YAML has been parsed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from runner.config.codes import Code
from runner.config.wording import quoted

MAXIMUM_FILE_BYTES: Final = 1 << 20

Suggest: TypeAlias = Callable[[str, Mapping[str, str]], str | None]
"""Of a word and known ones, the one that was probably meant."""

_MOST_FAULTS: Final = 100

_EXPRESSION: Final = re.compile(r"\$(?:\$|\{(?P<body>[^{}]*)\}|(?P<broken>\{))")
_VARIABLE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>.*))?", re.DOTALL | re.ASCII)
_WHOLE_FILE: Final = re.compile(r"\$\{file:(?P<path>[^{}]+)\}")
_FORMS: Final = "the forms are ${VAR}, ${VAR:-default} and ${file:/path}; a plain ${ is written $${"


class Fault(NamedTuple):
    """What is wrong with one expression; ``offset`` and ``width`` in characters say where it is in the scalar."""

    code: Code
    message: str
    hint: str
    offset: int
    width: int


class Expansion(NamedTuple):
    """``text`` means something only without ``faults``. ``changed``: an expression was replaced."""

    text: str
    changed: bool
    faults: tuple[Fault, ...]


class _Unusable(Exception):
    def __init__(self, code: Code, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def expand(text: str, environ: Mapping[str, str], suggest: Suggest) -> Expansion:
    """Replace every expression in ``text``; what is put in is not looked at again. The same fault is told once."""
    faults: dict[str, Fault] = {}
    parts: list[str] = []
    end = 0
    changed = False
    for match in _EXPRESSION.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[0] == "$$":
            parts.append("$")
            continue
        changed = True
        if match[0] in faults or len(faults) == _MOST_FAULTS:
            continue
        try:
            parts.append(_value(match, environ, suggest))
        except _Unusable as unusable:
            width = match.end() - match.start()
            faults[match[0]] = Fault(unusable.code, unusable.message, unusable.hint, match.start(), width)
    parts.append(text[end:])
    return Expansion("".join(parts), changed, tuple(faults.values()))


def whole_file(text: str) -> Path | None:
    """The path when ``text`` is one ``${file:...}`` and nothing else."""
    match = _WHOLE_FILE.fullmatch(text)
    return None if match is None else Path(match["path"])


def read_file(path: Path) -> str:
    """A small text file without its trailing newline. Raises OSError and UnicodeDecodeError."""
    if not path.is_file():
        # Reading a pipe or a device could wait for ever.
        raise OSError("it is not a file" if path.exists() else "there is no such file")
    with path.open("rb") as file:
        content = file.read(MAXIMUM_FILE_BYTES + 1)
    if len(content) > MAXIMUM_FILE_BYTES:
        raise OSError("it is larger than 1 MiB")
    return content.decode("utf-8").rstrip("\r\n")


def _value(match: re.Match[str], environ: Mapping[str, str], suggest: Suggest) -> str:
    body = match["body"]
    if body is None:
        raise _Unusable(Code.INTERPOLATION_MALFORMED, "'${' without its '}', or one expression inside another", _FORMS)
    if body.startswith("file:"):
        return _file(body.removeprefix("file:"))
    variable = _VARIABLE.fullmatch(body)
    if variable is None:
        hint = f"write ${{{body.removeprefix('env:')}}}" if body.startswith("env:") else _FORMS
        raise _Unusable(Code.INTERPOLATION_MALFORMED, "it has none of the known forms", hint)
    return _variable(variable, environ, suggest)


def _file(name: str) -> str:
    if not name:
        raise _Unusable(Code.INTERPOLATION_MALFORMED, "'${file:}' names no file", _FORMS)
    try:
        return read_file(Path(name))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or (
            "it is not UTF-8 text" if isinstance(error, ValueError) else error
        )
        raise _Unusable(
            Code.INTERPOLATED_FILE_UNREADABLE,
            f"cannot read {quoted(name)}: {reason}",
            "check the path and who may read it",
        ) from error


def _variable(variable: re.Match[str], environ: Mapping[str, str], suggest: Suggest) -> str:
    name = variable["name"]
    value = environ.get(name)
    if variable["fallback"] is not None and not value:
        return variable["default"]
    if value is None:
        near = suggest(name, environ)
        raise _Unusable(
            Code.VARIABLE_UNDEFINED,
            f"environment variable {quoted(name)} is not set",
            (f"did you mean {quoted(near)}? Otherwise " if near else "")
            + f"set it, or give a default: ${{{name}:-default}}",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable(
            Code.VARIABLE_NOT_TEXT, f"environment variable {quoted(name)} is not UTF-8 text", "set it to text"
        ) from error
    return value
