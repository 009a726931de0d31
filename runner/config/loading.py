"""A configuration file's way from bytes to models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from runner.config.checks import check
from runner.config.codes import Code
from runner.config.derivation import derive
from runner.config.diagnostics import ConfigInvalid
from runner.config.document import DocumentUnreadable, compose
from runner.config.findings import Findings, Place, Span
from runner.config.kinds import Definitions, Schema, read_or_report
from runner.config.models import Config
from runner.config.reading import Located, Reading
from runner.config.sections import Section

MAXIMUM_FILE_BYTES: Final = 1 << 20

_ROOT: Final = Section(Config)


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in ``path``, its expressions replaced from ``environ``.

    Raises ConfigInvalid with everything that is wrong, also when there is no such file.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreadable(name, Code.FILE_UNREADABLE, f"cannot be read: {reason}", "check the path") from error
    if len(content) > MAXIMUM_FILE_BYTES:
        raise _too_large(name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text: byte 0x{content[error.start]:02x} on line {line}"
        raise _unreadable(name, Code.NOT_UTF8, message, "save the file as UTF-8") from error
    return loads(text, name=name, environ=environ)


def loads(text: str, *, name: str, environ: Mapping[str, str]) -> Config:
    """The configuration in ``text``, which messages call ``name``. Raises ConfigInvalid with everything wrong."""
    if len(text.encode("utf-8", "surrogatepass")) > MAXIMUM_FILE_BYTES:
        raise _too_large(name)
    findings = Findings(name, text)
    try:
        root = compose(text, findings)
    except DocumentUnreadable as error:
        raise ConfigInvalid(findings.sorted()[0]) from error
    reading = Reading(findings, environ)
    # What the top level lacks is said of its beginning.
    start = Span(root.span.start, Place(root.span.start.line, root.span.start.column + 1))
    reading.places[()] = Located(start, start)
    config = read_or_report(_ROOT, root, (), reading)
    if config is not None:
        config = _judge(config, reading)
    errors, warnings = findings.sorted()
    if errors or config is None:
        raise ConfigInvalid(errors, warnings)
    return replace(config, warnings=tuple(warnings))


def json_schema() -> Schema:
    """JSON Schema, draft 7, of a configuration file, for editors."""
    definitions: Definitions = {}
    root = _ROOT.schema(definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Stream Runner's configuration",
        **root,
        "definitions": dict(sorted(definitions.items())),
    }


def _judge(config: Config, reading: Reading) -> Config:
    usable = replace(config, functions=config.functions or {}, mappings=config.mappings or {})
    derived = derive(usable, reading)
    check(derived, reading)
    return derived


def _unreadable(name: str, code: Code, message: str, hint: str) -> ConfigInvalid:
    findings = Findings(name)
    findings.add(code, message, hint=hint)
    return ConfigInvalid(findings.sorted()[0])


def _too_large(name: str) -> ConfigInvalid:
    return _unreadable(name, Code.FILE_TOO_LARGE, "is larger than 1 MiB", "split it, one process a file")
