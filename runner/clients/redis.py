"""A Redis client that gives raw replies: a single server, the master behind sentinels, or a cluster."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from runner.clients.redis_errors import Effect, FailureKind, RedisFailure, refusal
from runner.clients.redis_slots import slot_of
from runner.clients.redis_topology import Topology, topology_of
from runner.clients.redis_url import Address, Finding, RedisUrl
from runner.clients.redis_wire import Login, Reply, Wire, pack
from runner.clients.secret import Secret
from runner.clients.tls import CurrentSslContext, TlsSettings

_MOST_CONNECTIONS: Final = 16
_IMMEDIATE_TRIES: Final = 5
"""A slot is followed so often without a pause; then a node that sends us round in circles costs little."""
_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_GROWTH: Final = 1.5
"""From pause to pause: what is over after a moment is noticed at once, and what lasts costs little."""

_FOLLOWED: Final = frozenset(
    {FailureKind.MOVED, FailureKind.ASK, FailureKind.TRY_AGAIN, FailureKind.CLUSTER_DOWN, FailureKind.MASTER_DOWN}
)
"""Refusals of a cluster's node after which the same command is sent again, for as long as the caller waits."""
_NEEDS_NO_PAUSE: Final = frozenset({FailureKind.MOVED, FailureKind.ASK})
_PLACE_IS_DOUBTFUL: Final = frozenset(
    {
        FailureKind.UNREACHABLE,
        FailureKind.NAME_UNKNOWN,
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION_LOST,
        FailureKind.LOADING,
        FailureKind.READ_ONLY,
        FailureKind.MASTER_DOWN,
    }
)
"""Not where a node says that nobody serves a slot: its connections are good, and its other slots may be served."""
_ELSEWHERE: Final = re.compile(r"(?:MOVED|ASK) (?P<slot>\d+) (?P<host>.*):(?P<port>\d+)")
_ASKING: Final = pack(("ASKING",))


@dataclass(frozen=True, kw_only=True)
class RedisConnection:
    """How Redis is reached. ``tls`` says how with a URL that uses TLS; the password is read at every connect."""

    url: RedisUrl
    client_name: str
    username: str | None = None
    password: Secret | None = None
    tls: TlsSettings | None = None

    @cached_property
    def login(self) -> Login:
        tls = CurrentSslContext(self.tls or TlsSettings()) if self.url.uses_tls else None
        return Login(client_name=self.client_name, username=self.username, password=self.password, tls=tls)

    def __str__(self) -> str:
        return str(self.url)


class Script:
    """A Lua script, which servers know by the digest of its source once they have seen it.

    ``is_divisible``: what it does to each of its keys it could do by itself. While keys are at two nodes of a cluster
    it is refused at once, and does not wait until they are together again."""

    __slots__ = ("digest", "is_divisible", "source")

    def __init__(self, source: str, *, is_divisible: bool = False) -> None:
        self.source = source
        self.is_divisible = is_divisible
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class _Command:
    """One command on its way. ``sent``: it may have reached the server at ``place``, which has not refused it.

    ``version`` is that of what was known of the topology when ``place`` was looked up.
    """

    __slots__ = ("followed", "last_refusal", "packed", "place", "sent", "slot", "version")

    def __init__(self, packed: bytes, slot: int | None, followed: AbstractSet[FailureKind]) -> None:
        self.packed = packed
        self.slot = slot
        self.followed = followed
        self.place: Address | None = None
        self.version = 0
        self.sent = False
        self.last_refusal: RedisFailure | None = None

    def overdue(self, place: str, timeout: float) -> RedisFailure:
        """The failure of a command whose time is over."""
        if self.sent:
            return RedisFailure(FailureKind.TIMEOUT, f"{place}: no answer within {timeout:g} s", Effect.UNKNOWN)
        if self.last_refusal is not None:
            return self.last_refusal
        return RedisFailure(FailureKind.TIMEOUT, f"{place}: no connection within {timeout:g} s")


class _Commands:
    """Sends commands over at most ``connections`` connections of its own to each server, so that one that hangs holds
    up no other's commands. Failed ones are not used again."""

    def __init__(self, connection: RedisConnection, topology: Topology, connections: int) -> None:
        self._connection = connection
        self._topology = topology
        self._permits: defaultdict[Address, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(connections))
        self._idle: defaultdict[Address, list[Wire]] = defaultdict(list)
        self._in_use: set[Wire] = set()
        self._is_cluster = connection.url.finding is Finding.CLUSTER
        self._closed = False

    async def execute(
        self,
        args: tuple[bytes | str | int, ...],
        key: bytes | None,
        timeout: float,
        followed: AbstractSet[FailureKind] = _FOLLOWED,
    ) -> Reply:
        slot = slot_of(key) if self._is_cluster and key is not None else None
        command = _Command(pack(args), slot, followed)
        try:
            async with asyncio.timeout(timeout):
                return await self._deliver(command)
        except TimeoutError as error:
            if command.place is not None:
                # One that is silent may have been replaced by another that is not.
                self._doubt(FailureKind.TIMEOUT, command.place, command.version)
            raise command.overdue(str(self._connection), timeout) from error

    async def run(
        self, script: Script, keys: Sequence[bytes], args: Sequence[bytes | str | int], timeout: float
    ) -> Reply:
        key = keys[0] if keys else None
        rest = (len(keys), *keys, *args)
        followed = _FOLLOWED - {FailureKind.TRY_AGAIN} if script.is_divisible else _FOLLOWED
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            return await self.execute(("EVALSHA", script.digest, *rest), key, timeout, followed)
        except RedisFailure as failure:
            if failure.kind is not FailureKind.NO_SCRIPT:
                raise
        left = max(deadline - asyncio.get_running_loop().time(), 0.0)
        return await self.execute(("EVAL", script.source, *rest), key, left, followed)

    def refused(self, text: bytes) -> RedisFailure:
        failure = refusal(text.decode("utf-8", "replace"))
        for address in list(self._idle):
            self._doubt(failure.kind, address, self._topology.version)
        return failure

    async def close(self) -> None:
        self._closed = True
        wires = [*self._in_use, *[wire for wires in self._idle.values() for wire in wires]]
        self._idle.clear()
        for wire in wires:
            wire.drop()
        # The event loop closes the sockets in its next turn.
        await asyncio.sleep(0)

    async def _deliver(self, command: _Command) -> Reply:
        """Send it until some server takes it: where it was sent first, or where that one says. Raises RedisFailure."""
        asked: Address | None = None
        detours, pause = 0, _PAUSE
        while True:
            try:
                return await self._try(command, asked)
            except RedisFailure as failure:
                if not self._is_cluster or failure.kind not in command.followed:
                    raise
                asked = self._follow(failure, command)
                if failure.kind not in _NEEDS_NO_PAUSE:
                    await asyncio.sleep(pause)
                    pause = min(pause * _GROWTH, _LONGEST_PAUSE)
                    continue
                detours += 1
                if detours > _IMMEDIATE_TRIES:
                    await asyncio.sleep(_PAUSE)

    def _follow(self, refusal: RedisFailure, command: _Command) -> Address | None:
        """The node to be asked next, just this once; None for the one that serves the slot."""
        place = command.place
        # It has answered: should the time be over before the next try, nothing is wrong with it.
        command.last_refusal, command.place = refusal, None
        if refusal.kind is FailureKind.CLUSTER_DOWN and command.slot is not None:
            self._topology.refused(command.slot, command.version)
        elsewhere = _ELSEWHERE.match(refusal.text)
        if elsewhere is None:
            return None
        assert place is not None, "somebody has refused it"
        # A node that does not know the other's host says only the port: the host is its own.
        host = elsewhere["host"].strip("[]")
        address = Address(place.host if host in ("", "?") else host, int(elsewhere["port"]))
        if refusal.kind is FailureKind.ASK:
            return address
        self._topology.moved(int(elsewhere["slot"]), address)
        return None

    async def _try(self, command: _Command, asked: Address | None) -> Reply:
        while True:
            address = asked or self._topology.known(command.slot) or await self._topology.locate(command.slot)
            async with self._permits[address]:
                command.place, command.version = address, self._topology.version
                wire = await self._wire(address, command, asked)
                if wire is not None:
                    return await self._call(command, wire, asks=asked is not None)
                command.place = None

    async def _call(self, command: _Command, wire: Wire, *, asks: bool) -> Reply:
        self._in_use.add(wire)
        try:
            if asks:
                await wire.call(_ASKING)
            command.sent = True
            return await wire.call(command.packed)
        except RedisFailure as failure:
            command.sent = failure.effect is Effect.UNKNOWN
            self._doubt(failure.kind, wire.address, command.version)
            raise
        finally:
            self._in_use.discard(wire)
            self._put_back(wire)

    async def _wire(self, address: Address, command: _Command, asked: Address | None) -> Wire | None:
        """A connection to ``address``; None when another is to be used by now, unless it was ``asked`` for."""
        if self._closed:
            raise RedisFailure(FailureKind.CLOSED, str(self._connection))
        if asked is None and self._topology.known(command.slot) != address:
            return None
        wire = self._take(address)
        if wire is not None:
            return wire
        if asked is None and await self._topology.locate(command.slot) != address:
            return None
        self._sweep()
        try:
            wire = await Wire.connect(address, self._connection.url.database, self._connection.login)
        except RedisFailure as failure:
            self._doubt(failure.kind, address, command.version)
            raise
        if self._closed:
            wire.drop()
            raise RedisFailure(FailureKind.CLOSED, str(self._connection))
        return wire

    def _take(self, address: Address) -> Wire | None:
        idle = self._idle[address]
        while idle:
            wire = idle.pop()
            if wire.is_usable:
                return wire
            wire.drop()
        return None

    def _sweep(self) -> None:
        """Drop what servers have closed, also those that nobody goes to any more."""
        for wires in self._idle.values():
            for wire in [each for each in wires if not each.is_usable]:
                wires.remove(wire)
                wire.drop()

    def _put_back(self, wire: Wire) -> None:
        if wire.is_usable and not self._closed:
            self._idle[wire.address].append(wire)
        else:
            wire.drop()

    def _doubt(self, kind: FailureKind, address: Address, version: int) -> None:
        """After some failures the server at ``address`` may be the wrong one, and its other connections as well."""
        if kind not in _PLACE_IS_DOUBTFUL:
            return
        self._topology.forget(address, version)
        for wire in self._idle.pop(address, []):
            wire.drop()


class RedisClient:
    """One logical client; connections are made as they are needed. Only what a server refused is ever sent again.

    Replies are raw, by RESP2: bytes, integers, None and lists of them. Every call says how many seconds it may take,
    connecting included, and raises RedisFailure; a command that was cut off, by that or by cancellation, costs its
    connection. In a cluster a call goes to the node of its key.
    """

    def __init__(self, connection: RedisConnection, *, connections: int = _MOST_CONNECTIONS) -> None:
        self._connection = connection
        self._topology = topology_of(connection.url, connection.login)
        self._commands = _Commands(connection, self._topology, connections)

    @property
    def description(self) -> str:
        """The URL, which holds no secret."""
        return str(self._connection)

    @property
    def is_cluster(self) -> bool:
        return self._connection.url.finding is Finding.CLUSTER

    async def execute(self, *args: bytes | str | int, key: bytes | None = None, timeout: float) -> Reply:
        """The reply to one command. ``key`` is one that it is about, None when there is none."""
        return await self._commands.execute(args, key, timeout)

    async def run(
        self, script: Script, keys: Sequence[bytes], args: Sequence[bytes | str | int], timeout: float
    ) -> Reply:
        """The reply of ``script``, which is sent to servers that do not know it. In a cluster ``keys`` share a slot."""
        return await self._commands.run(script, keys, args, timeout)

    def refused(self, text: bytes) -> RedisFailure:
        """The failure of a command inside a script, which answered with its error's ``text`` instead of failing.

        To be asked for, and not made by ``refusal``: where another server would do better, that one is found by this.
        """
        return self._commands.refused(text)

    def dedicated(self, read_timeout: float, *, connections: int = 1) -> DedicatedRedis:
        """At most so many connections of its own to each server, and no more than a client has; made when they are
        needed, for commands that block or must not wait for others."""
        most = min(connections, _MOST_CONNECTIONS)
        return DedicatedRedis(_Commands(self._connection, self._topology, most), read_timeout)

    async def close(self) -> None:
        """Close what it has opened itself: commands under way fail, and those of its dedicated ones that have not found
        their server yet. Takes no time, never raises."""
        await self._commands.close()
        await self._topology.close()


class DedicatedRedis:
    """As RedisClient, but over few connections, all its own, and with ``read_timeout`` seconds a call if not said."""

    def __init__(self, commands: _Commands, read_timeout: float) -> None:
        self._commands = commands
        self._read_timeout = read_timeout

    async def execute(self, *args: bytes | str | int, key: bytes | None = None, timeout: float | None = None) -> Reply:
        """A call that blocks needs a timeout beyond the time for which it blocks."""
        return await self._commands.execute(args, key, self._read_timeout if timeout is None else timeout)

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[bytes | str | int],
        timeout: float | None = None,
    ) -> Reply:
        return await self._commands.run(script, keys, args, self._read_timeout if timeout is None else timeout)

    def refused(self, text: bytes) -> RedisFailure:
        """As RedisClient.refused."""
        return self._commands.refused(text)

    async def close(self) -> None:
        """As RedisClient.close."""
        await self._commands.close()
