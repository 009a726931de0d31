"""A TCP proxy between a client and a server, on which tests stall either direction or cut the line."""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from kafka_harness.ports import free_port

_CHUNK_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction(enum.Flag):
    TO_SERVER = enum.auto()
    TO_CLIENT = enum.auto()
    BOTH = TO_SERVER | TO_CLIENT


@dataclass
class _Line:
    """One connection; ``reply_bytes`` have come to the client since it last sent something."""

    reply_bytes: int = 0


class Proxy:
    """Passes on what comes to its ``port`` on 127.0.0.1 to another one. Runs in the loop of its ``async with`` block.

    ``stall`` is a network that swallows packets: connections stay open, what was sent arrives after ``resume``, late.
    ``cut`` is a server that is gone: connections are reset, new ones are refused until ``resume``.
    ``swallow`` is a network that delivers too late: what it has swallowed is the test's to deliver.
    ``delay`` is a server far away: seconds that each piece of what is sent to it is on its way.
    ``longest_reply`` is a network that is too slow: of a longer one, in bytes, the connection is reset; None: of none.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.delay = 0.0
        self.longest_reply: int | None = None
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._gates = {direction: asyncio.Event() for direction in Direction.BOTH}
        self._swallows: Callable[[bytes], bool] = lambda _: False
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        for gate in self._gates.values():
            gate.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """For a server that asks for no password."""
        return f"redis://{self.address}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def stall(self, direction: Direction = Direction.BOTH) -> None:
        """Hold back what is sent in this direction from now on; the end of a connection too."""
        for one in direction:
            self._gates[one].clear()

    def swallow(self, what: Callable[[bytes], bool]) -> asyncio.Future[bytes]:
        """The next that is sent to the server and for which ``what`` holds; it does not get there."""
        swallowed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def swallows(data: bytes) -> bool:
            if swallowed.done() or not what(data):
                return False
            swallowed.set_result(data)
            return True

        self._swallows = swallows
        return swallowed

    async def cut(self) -> None:
        """Reset every connection and refuse new ones; what was held back is lost."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop_connections()

    async def drop_connections(self) -> None:
        """Reset every connection; new ones are welcome, unless the line is cut."""
        dropped = dict(self._connections)
        for task, writers in dropped.items():
            for writer in writers:
                _reset(writer)
            task.cancel()
        if dropped:
            await asyncio.wait(dropped)
        for task in dropped:
            if not task.cancelled():
                task.result()

    async def resume(self, direction: Direction = Direction.BOTH) -> None:
        """Let pass what was held back in this direction, and accept connections again if the line was cut."""
        for one in direction:
            self._gates[one].set()
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            # It came just before the line was cut.
            _reset(writer)
            return
        writers = [writer]
        task = asyncio.get_running_loop().create_task(self._serve(reader, writers))
        self._connections[task] = writers
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> None:
        """``writers`` holds that to the client, and gets the one to the server."""
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            writers.append(server_writer)
            line = _Line()
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass_on(reader, server_writer, Direction.TO_SERVER, line))
                ways.create_task(self._pass_on(server_reader, writers[0], Direction.TO_CLIENT, line))
        except* OSError:
            # One end is gone without a farewell, or was never there: so shall the other learn it.
            for one in writers:
                _reset(one)
        finally:
            for one in writers:
                one.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction, line: _Line
    ) -> None:
        while True:
            data = await reader.read(_CHUNK_BYTES)
            await self._gates[direction].wait()
            if not data:
                if writer.can_write_eof() and not writer.is_closing():
                    writer.write_eof()
                return
            if direction is Direction.TO_SERVER:
                await asyncio.sleep(self.delay)
                line.reply_bytes = 0
                if self._swallows(data):
                    continue
            else:
                line.reply_bytes += len(data)
                if self.longest_reply is not None and line.reply_bytes > self.longest_reply:
                    raise ConnectionResetError
            writer.write(data)
            await writer.drain()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cut()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection at once, so that the other side gets a reset instead of an end of data."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
