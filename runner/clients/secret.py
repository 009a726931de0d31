"""A secret that is read when it is needed and shown nowhere."""

from __future__ import annotations

from pathlib import Path


class SecretUnreadable(Exception):
    """The file that holds a secret cannot be read. The message names the file, never its content."""


class Secret:
    """A literal, or a file's content without its trailing newline, read again at every ``reveal``.

    Equal when bound to the same literal or the same file, so that a reload sees an unchanged mapping as unchanged.
    """

    __slots__ = ("_literal", "_path")

    def __init__(self, *, literal: str | None = None, path: Path | None = None) -> None:
        if (literal is None) == (path is None):
            raise ValueError("a secret is either a literal or a file")
        self._literal = literal
        self._path = path

    @property
    def path(self) -> Path | None:
        return self._path

    def reveal(self) -> str:
        """The secret as it is now. Raises SecretUnreadable."""
        if self._literal is not None:
            return self._literal
        assert self._path is not None
        try:
            return self._path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretUnreadable(f"cannot read the secret in {self._path}: {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return (self._literal, self._path) == (other._literal, other._path)

    def __hash__(self) -> int:
        return hash((self._literal, self._path))

    def __repr__(self) -> str:
        return "Secret(***)" if self._path is None else f"Secret(path={str(self._path)!r})"
