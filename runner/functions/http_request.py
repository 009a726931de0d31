"""The body of an HTTP request, written only as long as its invocation may be started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter

_PIECE_BYTES: Final = 1 << 16


class _Withheld(Exception):
    """Ends the write, and with it the connection."""


class RequestBody(aiohttp.Payload):
    """``may_write`` is asked right before each piece is handed to the connection; the headers go with the first.

    Once it says no, the function never gets the whole request, and ``withheld`` is true. Large bodies go piece by
    piece, so that neither does the loop stand still nor does much of them lie in a buffer that nothing can hold back.
    """

    _autoclose = True  # there is nothing to close

    def __init__(self, body: bytes, may_write: Callable[[], bool]) -> None:
        super().__init__(body)
        self.withheld = False
        self._body = body
        self._size = len(body)
        self._may_write = may_write

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """``content_length`` is what the headers say: the size of the whole."""
        body = memoryview(self._body)
        for start in range(0, max(1, len(body)), _PIECE_BYTES):
            if start:
                await asyncio.sleep(0)
            if not self._may_write():
                self.withheld = True
                raise _Withheld
            await writer.write(body[start : start + _PIECE_BYTES])
