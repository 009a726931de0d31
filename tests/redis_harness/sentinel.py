"""A master and its replica, watched by sentinels that promote the replica when the master is gone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.exceptions import ConnectionError  # noqa: A004

from kafka_harness.waiting import until_async
from redis_harness import client
from redis_harness.flavour import Flavour, sentinel_command
from redis_harness.instance import Instance
from redis_harness.options import RedisOptions, quoted
from redis_harness.server import RedisServer

_READY_TIMEOUT = 30.0


class SentinelProcess(Instance):
    """One sentinel. It keeps what it learns in its configuration file."""

    def __init__(self, flavour: Flavour, directives: list[str]) -> None:
        super().__init__(f"sentinel-{flavour}")
        self._flavour = flavour
        self._directives = directives

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def _command(self, configuration: Path) -> list[str]:
        program, *options = sentinel_command(self._flavour)
        return [program, str(configuration), *options]

    def _configuration(self) -> str:
        directives = [f"port {self.port}", "bind 127.0.0.1", f"dir {quoted(str(self.directory))}", *self._directives]
        return "".join(f"{line}\n" for line in directives)


class Sentinel:
    """Two servers and one to three sentinels, the majority of which must agree that the master is gone.

    A master that does not answer for ``down_after_ms`` is taken for gone; below 1,500 a live one is too at times, since
    a sentinel makes a new connection only once a second. A promotion that does not succeed is tried again after twice
    ``failover_timeout_ms``. Raises ValueError when TLS is asked for.
    """

    service = "main"
    """The name under which clients ask the sentinels for the master."""

    def __init__(
        self,
        flavour: Flavour,
        *,
        sentinels: int = 1,
        options: RedisOptions | None = None,
        down_after_ms: int = 2_000,
        failover_timeout_ms: int = 2_000,
    ) -> None:
        options = options or RedisOptions()
        if options.tls:
            raise ValueError("a master under Sentinel is offered without TLS only")
        master = RedisServer(flavour, options=options)
        following = {"replicaof": f"127.0.0.1 {master.port}", **options.overrides}
        replica = RedisServer(flavour, options=dataclasses.replace(options, overrides=following))
        self.servers = (master, replica)
        quorum = sentinels // 2 + 1
        directives = [
            f"sentinel monitor {self.service} 127.0.0.1 {master.port} {quorum}",
            f"sentinel down-after-milliseconds {self.service} {down_after_ms}",
            f"sentinel failover-timeout {self.service} {failover_timeout_ms}",
        ]
        if options.password is not None:
            directives.append(f"sentinel auth-pass {self.service} {quoted(options.password)}")
        self.sentinels = tuple(SentinelProcess(flavour, directives) for _ in range(sentinels))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every sentinel."""
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    async def start(self) -> None:
        """Start all; returns when the replica has all data and every sentinel would promote it."""
        master, replica = self.servers
        master.start()
        replica.start()
        # A sentinel that finds no replica at its first look has the next one ten seconds later.
        await self._until_following(replica, master)
        for sentinel in self.sentinels:
            sentinel.start()
        await self._until_watched()

    async def master(self) -> RedisServer:
        """The present master, as the first running sentinel says."""
        async with client.connect(self._first_running().url) as connected:
            _, port = await client.raw(connected, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return self._server_at(int(port))

    async def replica(self) -> RedisServer:
        """The server that is not the master."""
        return self._other(await self.master())

    async def cut_off_replica(self) -> None:
        """From now on the replica gets nothing more from the master; returns when nothing is on its way either."""
        master, replica = await self.master(), await self.replica()
        async with client.connect(replica.url) as connected:
            # A login that the master refuses: to the sentinels it is its replica as before.
            await client.raw(connected, "CONFIG", "SET", "masterauth", "refused")
            await client.raw(connected, "CLIENT", "KILL", "TYPE", "master")

        async def is_cut_off() -> bool:
            role = await _role(replica)
            return bool(role[0] == b"slave" and role[3] != b"connected")

        await until_async(is_cut_off, what=f"{replica.address} hears nothing of {master.address}")

    async def failover(self, *, freeze: bool = False, timeout: float = _READY_TIMEOUT) -> RedisServer:
        """``kill -9`` the master, or ``freeze`` it, wait until the replica is promoted and every running sentinel says
        so; returns it.

        Raises TimeoutError. See ``rejoin``, which is for a master that was killed.
        """
        gone = await self.master()
        if freeze:
            gone.pause()
        else:
            gone.kill()
        promoted = self._other(gone)

        async def is_promoted() -> bool:
            if (await _role(promoted))[0] != b"master":
                return False
            views = [await self._view(sentinel, "MASTER") for sentinel in self._running()]
            return all(int(view[b"port"]) == promoted.port for view in views)

        await until_async(is_promoted, what=f"{promoted.address} is promoted", timeout=timeout)
        return promoted

    async def rejoin(self) -> None:
        """Start the dead server again as a replica; returns when it follows the master and could be promoted itself."""
        master, dead = await self.master(), await self.replica()
        await dead.restart()
        # The sentinels would give this order too, some twenty seconds later.
        async with client.connect(dead.url) as connected:
            await client.raw(connected, "REPLICAOF", "127.0.0.1", master.port)
        await self._until_following(dead, master)
        await self._until_watched()

    def stop(self) -> None:
        for instance in (*self.sentinels, *self.servers):
            instance.stop()

    def output(self) -> str:
        return "\n".join(instance.output() for instance in (*self.servers, *self.sentinels))

    async def _until_following(self, replica: RedisServer, master: RedisServer) -> None:
        async def follows() -> bool:
            role = await _role(replica)
            return role[0] == b"slave" and role[2:4] == [master.port, b"connected"]

        what = f"{replica.address} follows {master.address}"
        await until_async(follows, what=what, timeout=_READY_TIMEOUT)

    async def _until_watched(self) -> None:
        async def watched() -> bool:
            return all([await self._sees_all(sentinel) for sentinel in self._running()])

        await until_async(watched, what="every sentinel would promote the replica", timeout=_READY_TIMEOUT)

    async def _sees_all(self, sentinel: SentinelProcess) -> bool:
        master = await self._view(sentinel, "MASTER")
        if master[b"flags"] != b"master" or int(master[b"num-other-sentinels"]) != len(self.sentinels) - 1:
            return False
        async with client.connect(sentinel.url) as connected:
            replicas = [_as_view(one) for one in await client.raw(connected, "SENTINEL", "REPLICAS", self.service)]
        return [one[b"flags"] for one in replicas] == [b"slave"]

    async def _view(self, sentinel: SentinelProcess, what: str) -> dict[bytes, bytes]:
        async with client.connect(sentinel.url) as connected:
            return _as_view(await client.raw(connected, "SENTINEL", what, self.service))

    def _running(self) -> list[SentinelProcess]:
        return [sentinel for sentinel in self.sentinels if sentinel.running]

    def _first_running(self) -> SentinelProcess:
        return self._running()[0]

    def _server_at(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)

    def _other(self, server: RedisServer) -> RedisServer:
        return next(other for other in self.servers if other is not server)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _as_view(flat: list[Any]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def _role(server: RedisServer) -> list[Any]:
    """What ROLE says; its first word is unknown when the question was cut off."""
    try:
        async with client.connect(server.url) as connected:
            return list(await client.raw(connected, "ROLE"))
    except ConnectionError:
        # A sentinel that gives a server another role ends the connections of its clients.
        return [b"unknown"]
