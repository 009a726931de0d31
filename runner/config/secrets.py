"""The kind of values that are shown nowhere: a ``Secret``, bound to its file where the whole value is one."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Final

from runner.clients.secret import Secret
from runner.config.codes import Code
from runner.config.document import Node, ScalarNode
from runner.config.interpolation import read_file, whole_file
from runner.config.kinds import Definitions, Kind, Schema
from runner.config.reading import Reading, refuse
from runner.config.wording import Path, quoted, show

_NOTHING_TO_HIDE: Final = re.compile(r"\$\{(?:file:[^{}]+|[^{}:]+)\}")


def no_line_breaks(text: str) -> str | None:
    """What is wrong with a secret that has to fit on one line."""
    return "must be printable text on one line" if re.search(r"[\x00-\x1f\x7f]", text) else None


class SecretText(Kind[Secret]):
    """``check`` says what is wrong with a secret's content, never what the content is.

    A secret in a file is read at load too, so that a missing file is an error with a line.
    """

    expects = "a text"

    def __init__(self, check: Callable[[str], str | None] = no_line_breaks, *, belongs_elsewhere: bool = True) -> None:
        self._check = check
        self._belongs_elsewhere = belongs_elsewhere

    def read(self, node: Node, path: Path, reading: Reading) -> Secret:
        if not isinstance(node, ScalarNode):
            raise self.refusal(node)
        if not _NOTHING_TO_HIDE.fullmatch(node.text):
            reading.findings.mask(node.span)
        file = whole_file(node.text)
        if file is not None:
            self._accept(_content(file))
            return Secret(path=file)
        scalar = reading.scalar(node, self.expects)
        if not isinstance(scalar.value, str):
            missing = scalar.value is None
            raise refuse(
                Code.SECRET_EMPTY if missing else Code.WRONG_TYPE,
                "is empty" if missing else "must be a text, found a number or a boolean",
                "use ${VAR} or ${file:/path}" if missing else "put it in quotes",
            )
        self._accept(scalar.value)
        if self._belongs_elsewhere and not scalar.expanded:
            located = reading.nearest_place(path)
            reading.findings.add(
                Code.SECRET_IN_FILE,
                f"{show(path)} is written in the configuration itself",
                span=located.key if located else node.span,
                hint="use ${VAR}, or ${file:/path}, which is read again when the secret changes",
            )
        return Secret(literal=scalar.value)

    def _accept(self, content: str) -> None:
        if not content:
            raise refuse(Code.SECRET_EMPTY, "is empty", "check the variable or the file that it comes from")
        wrong = self._check(content)
        if wrong is not None:
            raise refuse(Code.MALFORMED, wrong, "check what the variable or the file holds")

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "string", "minLength": 1}


def _content(file: pathlib.Path) -> str:
    try:
        return read_file(file)
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, ValueError) else error.strerror or error
        raise refuse(
            Code.INTERPOLATED_FILE_UNREADABLE,
            f"cannot be read from {quoted(str(file))}: {reason}",
            "check the path and who may read it",
        ) from error
