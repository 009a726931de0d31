"""Commands that a client has given up on, and that reach the server nevertheless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis_harness.server import RedisServer
from runner.clients.redis import Script


def calls(script: Script, *arguments: bytes) -> Callable[[bytes], bool]:
    """For ``Proxy.swallow``: the call of a script with these among its arguments."""
    wanted = [script.digest.encode(), *(b"\r\n%b\r\n" % each for each in arguments)]
    return lambda data: all(each in data for each in wanted)


async def arrives_late(command: bytes, server: RedisServer) -> bytes:
    """What the server answers; nobody hears it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(command)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer
