"""The kinds of values that say where something is: URLs, hosts with ports, files."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from runner.clients.redis_url import RedisUrl, parse_redis_url
from runner.config.codes import Code
from runner.config.document import Node, ScalarNode, SequenceNode
from runner.config.kinds import Definitions, Kind, ScalarKind, Schema, or_expression, read_or_report
from runner.config.reading import Located, Reading, Scalar, refuse
from runner.config.scalars import ANY_TEXT, Text
from runner.config.wording import Path, quoted

_HOST: Final = r"(?:\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9]+)?\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}))"
_ADDRESS: Final = re.compile(rf"(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})", re.ASCII)
_LAST_PORT: Final = 65_535
_MOST_SERVERS: Final = 10


class Address(NamedTuple):
    """``host`` without the brackets of IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address | None:
    """``host:port`` or ``[IPv6]:port``; None for anything else."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > _LAST_PORT:
        return None
    return Address(match["host"].strip("[]"), int(match["port"]))


class ListenAddress(ScalarKind["str | None"]):
    """Where to listen; None: nowhere."""

    expects = "an address such as 127.0.0.1:9464, or off"

    def convert(self, node: Node, scalar: Scalar) -> str | None:
        if scalar.value is None or scalar.value == "off":
            return None
        if not isinstance(scalar.value, str) or parse_address(scalar.value) is None:
            everywhere = isinstance(scalar.value, str) and scalar.value.startswith(":")
            raise self.refusal(node, "write 0.0.0.0 for every interface" if everywhere else "", Code.MALFORMED)
        return scalar.value

    def schema(self, definitions: Definitions) -> Schema:
        address: Schema = {"type": "string", "pattern": f"^{_HOST}:[0-9]{{1,5}}$"}
        return or_expression({"anyOf": [address, {"const": "off"}, {"type": "null"}]}, definitions)


class Servers(Kind[tuple[str, ...]]):
    """Bootstrap servers: a list, or one text with commas; each ``host:port``."""

    expects = "one or more host:port"

    def read(self, node: Node, path: Path, reading: Reading) -> tuple[str, ...]:
        item = Text(self.expects, longest=_MOST_SERVERS * 300)
        nodes = node.items if isinstance(node, SequenceNode) else [node]
        if not isinstance(node, (ScalarNode, SequenceNode)):
            raise self.refusal(node)
        servers: list[str] = []
        for index, each in enumerate(nodes):
            inner = path if each is node else (*path, index)
            if each is not node:
                reading.places[inner] = Located(each.span, each.span)
            text = read_or_report(_Server(item), each, inner, reading)
            if inner in reading.invalid:
                reading.invalid.add(path)
            servers += text or ()
        if path not in reading.invalid and not 1 <= len(servers) <= _MOST_SERVERS:
            raise refuse(
                Code.OUT_OF_RANGE,
                f"must be 1 to {_MOST_SERVERS} servers, found {len(servers)}",
                "a few are enough: the others are learnt from them",
            )
        return tuple(servers)

    def schema(self, definitions: Definitions) -> Schema:
        text: Schema = {"type": "string", "minLength": 1}
        return {"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": _MOST_SERVERS}]}

    def show(self, value: tuple[str, ...]) -> object:
        return list(value)


class _Server(Kind[tuple[str, ...]]):
    """The servers in one text."""

    def __init__(self, text: Text) -> None:
        self.expects = text.expects
        self._text = text

    def read(self, node: Node, path: Path, reading: Reading) -> tuple[str, ...]:
        servers = tuple([part.strip() for part in self._text.read(node, path, reading).split(",")])
        for server in servers:
            if parse_address(server) is None:
                hint = f"write {server}:9092" if re.fullmatch(_HOST, server) else "write host:port, without a scheme"
                raise self.refusal(node, hint if "$" not in str(getattr(node, "text", "")) else "", Code.MALFORMED)
        return servers

    def schema(self, definitions: Definitions) -> Schema:
        return self._text.schema(definitions)


class Url(ScalarKind[str]):
    """An absolute http or https URL. It may hold a password, so that no message repeats it."""

    expects = "an http:// or https:// URL"

    def convert(self, node: Node, scalar: Scalar) -> str:
        if not isinstance(scalar.value, str) or not re.fullmatch(r"[\x21-\x7e]{1,2000}", scalar.value):
            raise refuse(Code.MALFORMED, f"must be {self.expects} without spaces", "percent-encode other characters")
        try:
            parts = urlsplit(scalar.value)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise refuse(Code.MALFORMED, f"must be {self.expects}", "check its host and port") from error
        if parts.scheme not in ("http", "https") or not host:
            raise refuse(Code.MALFORMED, f"must be {self.expects}", "write http://host:port/path")
        if port == 0:
            raise refuse(Code.MALFORMED, "must not have port 0", "write the port of the function")
        if "@" in parts.netloc:
            raise refuse(Code.MALFORMED, "must not hold a user or a password", "use bearer_token or headers")
        if "#" in scalar.value:
            raise refuse(Code.MALFORMED, "must not have a fragment ('#...')", "a fragment is never sent: remove it")
        return scalar.value

    def schema(self, definitions: Definitions) -> Schema:
        return or_expression({"type": "string", "pattern": r"^https?://[^\s@#]+$"}, definitions)


class RedisAddress(ScalarKind[RedisUrl]):
    """How Redis is found. A password in it is refused, so that no message repeats the text."""

    expects = "a URL such as redis://host:6379/0"

    def convert(self, node: Node, scalar: Scalar) -> RedisUrl:
        if not isinstance(scalar.value, str) or not re.fullmatch(r"[\x21-\x7e]{1,2000}", scalar.value):
            raise refuse(Code.MALFORMED, f"must be {self.expects}, without spaces", "write redis://host:port/database")
        try:
            return parse_redis_url(scalar.value)
        except ValueError as error:
            message, _, hint = str(error).partition(": ")
            raise refuse(Code.MALFORMED, message, hint) from error

    def schema(self, definitions: Definitions) -> Schema:
        return or_expression(
            {"type": "string", "pattern": r"^rediss?(\+sentinel|\+cluster)?://[^\s@?#]+$"}, definitions
        )

    def show(self, value: RedisUrl) -> object:
        return str(value)


class AnyPath(Kind[pathlib.Path]):
    """A path, relative to the working directory or absolute, to something that need not exist."""

    def __init__(self, expects: str = "a path") -> None:
        self.expects = expects
        self._text = Text(expects, ANY_TEXT, longest=4096)

    def read(self, node: Node, path: Path, reading: Reading) -> pathlib.Path:
        return pathlib.Path(self._text.read(node, path, reading))

    def schema(self, definitions: Definitions) -> Schema:
        return self._text.schema(definitions)

    def show(self, value: pathlib.Path) -> object:
        return str(value)


class DirectoryPath(AnyPath):
    """A directory, which may come to exist later."""

    def read(self, node: Node, path: Path, reading: Reading) -> pathlib.Path:
        directory = super().read(node, path, reading)
        if os.path.exists(directory) and not os.path.isdir(directory):  # noqa: PTH110, PTH112 - these raise nothing
            raise refuse(
                Code.PATH_UNUSABLE, f"must be a directory: {quoted(str(directory))} is a file", "name the directory"
            )
        return directory


class ReadableFile(AnyPath):
    """A file that exists and may be read."""

    def read(self, node: Node, path: Path, reading: Reading) -> pathlib.Path:
        file = super().read(node, path, reading)
        try:
            if not file.is_file():
                raise refuse(Code.PATH_UNUSABLE, f"names no file: {quoted(str(file))}", "check the path")
            with file.open("rb"):
                return file
        except OSError as error:
            raise refuse(
                Code.PATH_UNUSABLE, f"cannot be read: {quoted(str(file))}: {error.strerror}", "check who may read it"
            ) from error
