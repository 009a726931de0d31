"""Who owned which stream and when, as the server itself logged the scripts that write the leases."""

from __future__ import annotations

import asyncio
import itertools
import re
from types import TracebackType
from typing import NamedTuple, Self

from e2e_support.redis_group import StreamGroup
from redis_harness.server import RedisServer

# The server writes a command's words in quotes; those that tests use hold none.
_WORDS = re.compile(rb'"([^"]*)"')
_LONGEST_LINE = 1 << 24


class Ownership(NamedTuple):
    """One owner's time, in the server's milliseconds. ``released``: it gave the stream back before its end."""

    owner: bytes
    generation: int
    taken_at_ms: int
    expires_at_ms: int
    released: bool


class OwnershipWatch:
    """Within its ``async with`` block notes every lease that is taken, renewed and given back, by MONITOR."""

    def __init__(self, server: RedisServer, group: StreamGroup) -> None:
        self._port = server.port
        self._lease_ms = round(group.lease * 1000)
        self._histories: dict[bytes, list[Ownership]] = {group.lease_key(stream): [] for stream in group.streams}
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    def histories(self) -> list[list[Ownership]]:
        """Of each stream, oldest first."""
        return list(self._histories.values())

    def assert_one_owner_at_a_time(self) -> None:
        """Every stream had owners, none of which took it before the time of the one before it was over. One that was
        held up gives a stream up by its own clock, earlier, and may take it again at once: it is no other."""
        for key, owners in self._histories.items():
            assert owners, f"nobody ever owned {key!r}"
            for before, after in itertools.pairwise(owners):
                assert after.generation > before.generation, f"{key!r}: {before}, then {after}"
                is_free = before.released or after.taken_at_ms >= before.expires_at_ms
                assert is_free or after.owner == before.owner, f"{key!r}: {before}, then {after}"

    async def __aenter__(self) -> Self:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=_LONGEST_LINE)
        self._writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        self._task = asyncio.create_task(self._keep_noting(reader))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._writer is not None
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.close()
        await self._writer.wait_closed()
        if not self._task.cancelled():
            self._task.result()

    async def _keep_noting(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if b' lua] "HSET" ' in line:
                _command, key, *pairs = _WORDS.findall(line)
                if key in self._histories:
                    self._note(self._histories[key], dict(zip(pairs[::2], pairs[1::2], strict=True)))
        raise AssertionError("the server ended its log")

    def _note(self, owners: list[Ownership], written: dict[bytes, bytes]) -> None:
        if b"expires_at" not in written:
            return
        expires_at_ms = int(written[b"expires_at"])
        if written.get(b"owner"):
            taken_at_ms = expires_at_ms - self._lease_ms
            new = Ownership(written[b"owner"], int(written[b"generation"]), taken_at_ms, expires_at_ms, released=False)
            owners.append(new)
        elif b"owner" in written:
            owners[-1] = owners[-1]._replace(released=True)
        else:
            owners[-1] = owners[-1]._replace(expires_at_ms=expires_at_ms)
