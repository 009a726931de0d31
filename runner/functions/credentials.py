"""The headers that the user set for an HTTP function, read again when the files that hold them change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from runner.clients.secret import Secret, SecretUnreadable
from runner.ports import FunctionNotValid

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING: Final = frozenset({"connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"})
_SHORTEST_REDACTED: Final = 6

_Stamp = tuple[int, int, int]


class Credentials:
    """``headers`` by name, and a bearer token that becomes ``Authorization``."""

    def __init__(self, headers: Mapping[str, Secret], bearer_token: Secret | None) -> None:
        self._secrets = [(name, "", secret) for name, secret in headers.items()]
        if bearer_token is not None:
            self._secrets.append(("Authorization", "Bearer ", bearer_token))
        self._stamps: list[_Stamp | None] = []
        self._lines: list[tuple[str, str]] = []
        self._values: list[str] = []

    def check(self) -> None:
        """Raises FunctionNotValid for a name or a value that HTTP does not allow, or a file that cannot be read."""
        seen: set[str] = set()
        for name, _, _ in self._secrets:
            lowered = name.lower()
            if not _TOKEN.fullmatch(name):
                raise FunctionNotValid(f"{name!r} is not a name for an HTTP header")
            if lowered in _FRAMING:
                raise FunctionNotValid(f"the HTTP header {name} belongs to the connection and cannot be set")
            if lowered in seen:
                raise FunctionNotValid(f"the HTTP header {name} is set twice")
            seen.add(lowered)
        try:
            self.lines()
        except SecretUnreadable as error:
            raise FunctionNotValid(str(error)) from error

    def lines(self) -> list[tuple[str, str]]:
        """Names and values as they are now. Raises SecretUnreadable, also for a value that HTTP does not allow."""
        stamps = [_stamp(secret) for _, _, secret in self._secrets]
        if stamps != self._stamps:
            lines: list[tuple[str, str]] = []
            values: list[str] = []
            for name, prefix, secret in self._secrets:
                value = secret.reveal().strip(" \t")
                if not _VALUE.fullmatch(value):
                    raise SecretUnreadable(
                        f"the value of the HTTP header {name} has characters that HTTP does not allow"
                    )
                lines.append((name, prefix + value))
                values.append(value)
            # The stamps were taken first: a file that changes in between is read once more, never missed.
            self._stamps, self._lines, self._values = stamps, lines, values
        return self._lines

    def redact(self, text: str) -> str:
        """``text`` without the values that are sent, should a function echo them."""
        for value in self._values:
            if len(value) >= _SHORTEST_REDACTED:
                text = text.replace(value, "***")
        return text


def _stamp(secret: Secret) -> _Stamp | None:
    if secret.path is None:
        return None
    try:
        status = secret.path.stat()
    except OSError as error:
        raise SecretUnreadable(f"cannot read the secret in {secret.path}: {error.strerror}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino
