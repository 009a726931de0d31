"""Reads the body of an HTTP response, decoded, up to a cap."""

from __future__ import annotations

import zlib
from typing import Final, Protocol

import aiohttp

_GZIP_OR_ZLIB: Final = 47


class BodyUnusable(Exception):
    """The body is larger than the cap or its encoding cannot be undone. The text is for people."""


class _Decoder(Protocol):
    def feed(self, data: bytes, room: int) -> bytes:
        """Decode at most ``room`` bytes, or one more, which says that there is more."""
        ...

    def finish(self) -> None:
        """Raises BodyUnusable when the body ended too early."""
        ...


class _Identity:
    def feed(self, data: bytes, room: int) -> bytes:
        return data

    def finish(self) -> None:
        pass


class _Inflate:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._begun = False

    def feed(self, data: bytes, room: int) -> bytes:
        decoded = bytearray()
        while data and len(decoded) <= room:
            if self._stream.eof:
                self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
            self._begun = True
            try:
                decoded += self._stream.decompress(data, room + 1 - len(decoded))
            except zlib.error as error:
                raise BodyUnusable(f"the response is not what its Content-Encoding says: {error}") from error
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return bytes(decoded)

    def finish(self) -> None:
        if self._begun and not self._stream.eof:
            raise BodyUnusable("the compressed response ends too early")


def _decoder(encoding: str) -> _Decoder:
    match encoding.strip().lower():
        case "" | "identity":
            return _Identity()
        case "gzip" | "x-gzip" | "deflate":
            return _Inflate()
        case _:
            raise BodyUnusable(f"the response has a Content-Encoding that was not asked for: {encoding[:64]!r}")


async def read_body(response: aiohttp.ClientResponse, maximum: int) -> bytes:
    """The body, at most ``maximum`` bytes of it decoded.

    Raises BodyUnusable; what is left of the body is then unread, and the connection must be closed. Raises what
    aiohttp raises when the connection is lost.
    """
    decoder = _decoder(response.headers.get("Content-Encoding", ""))
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += decoder.feed(chunk, maximum - len(body))
        if len(body) > maximum:
            raise BodyUnusable(f"the response is larger than {maximum} bytes")
    decoder.finish()
    return bytes(body)


async def read_beginning(response: aiohttp.ClientResponse, maximum: int) -> bytes:
    """The first ``maximum`` bytes, decoded; fewer when the encoding breaks off. What it does not drain, it closes."""
    body = bytearray()
    try:
        decoder = _decoder(response.headers.get("Content-Encoding", ""))
        async for chunk in response.content.iter_any():
            body += decoder.feed(chunk, maximum - len(body))
            if len(body) > maximum:
                response.close()
                break
    except BodyUnusable as error:
        response.close()
        body += f" ({error})".encode()
    return bytes(body[:maximum])
