"""Which server a command goes to: the only one, the master that sentinels name, or the node that serves a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from runner.clients.redis_errors import FailureKind, RedisFailure, wants_login
from runner.clients.redis_slots import SLOTS
from runner.clients.redis_url import Address, Finding, RedisUrl
from runner.clients.redis_wire import Login, Reply, Wire, pack

T = TypeVar("T")

_ASK_TIMEOUT: Final = 1.0
"""Seconds that a sentinel or a node may take to say where to go, before the next one is asked."""


class Topology(Protocol):
    """``slot`` is None for commands without a key."""

    def known(self, slot: int | None) -> Address | None:
        """Where to go, as far as it is known without asking."""
        ...

    async def locate(self, slot: int | None) -> Address:
        """Where to connect to now. Raises RedisFailure; takes a second for each server that does not answer."""
        ...

    def forget(self, address: Address) -> None:
        """Something went wrong at ``address``: ask again before the next command, and ask that one last."""
        ...

    def moved(self, slot: int, address: Address) -> None:
        """A node said who serves ``slot``."""
        ...


def topology_of(url: RedisUrl, login: Login) -> Topology:
    match url.finding:
        case Finding.STANDALONE:
            return _Standalone(url.addresses[0])
        case Finding.SENTINEL:
            assert url.service is not None
            return _Sentinels(url.addresses, url.service, login)
        case Finding.CLUSTER:
            return _Cluster(url.addresses, login)


class _Standalone:
    def __init__(self, address: Address) -> None:
        self._address = address

    def known(self, slot: int | None) -> Address | None:
        return self._address

    async def locate(self, slot: int | None) -> Address:
        return self._address

    def forget(self, address: Address) -> None:
        """There is only one."""

    def moved(self, slot: int, address: Address) -> None:
        raise AssertionError("a single server has no slots")


class _Sentinels:
    """The master is asked for at each connect, so that after a failover the next connection finds the new one."""

    def __init__(self, addresses: tuple[Address, ...], service: str, login: Login) -> None:
        self._addresses = list(addresses)
        self._service = service
        self._login = login
        self._master: Address | None = None

    def known(self, slot: int | None) -> Address | None:
        return self._master

    async def locate(self, slot: int | None) -> Address:
        sentinel, master = await _first_answer(self._addresses, self._ask)
        # The next connect begins with the one that answered.
        self._addresses.sort(key=lambda address: address != sentinel)
        self._master = master
        return master

    def forget(self, address: Address) -> None:
        self._master = None

    def moved(self, slot: int, address: Address) -> None:
        raise AssertionError("servers behind sentinels have no slots")

    async def _ask(self, address: Address) -> Address:
        command = pack(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service))
        # Sentinels have users of their own, and mostly none: nobody logs in until one asks for it.
        anonymous = Login(client_name=self._login.client_name, tls=self._login.tls)
        try:
            reply = await _ask_once(address, anonymous, command)
        except RedisFailure as failure:
            if not wants_login(failure):
                raise
            reply = await _ask_once(address, self._login, command)
        if not isinstance(reply, list):
            raise RedisFailure(FailureKind.SERVICE_UNKNOWN, f"{address}: no master is named {self._service!r}")
        return Address(reply[0].decode(), int(reply[1]))


class _Cluster:
    """The nodes by slot, as some node told them, and as others have corrected that since."""

    def __init__(self, seeds: tuple[Address, ...], login: Login) -> None:
        self._seeds = seeds
        self._login = login
        self._nodes: list[Address | None] = [None] * SLOTS
        self._is_current = False
        self._suspect: Address | None = None
        self._asking = asyncio.Lock()

    def known(self, slot: int | None) -> Address | None:
        if not self._is_current:
            return None
        return self._nodes[slot] if slot is not None else next((node for node in self._nodes if node is not None), None)

    async def locate(self, slot: int | None) -> Address:
        async with self._asking:
            if self.known(slot) is None:
                served = dict.fromkeys([node for node in self._nodes if node is not None])
                candidates = sorted([*served, *self._seeds], key=lambda node: node == self._suspect)
                _, self._nodes = await _first_answer(candidates, self._ask)
                self._is_current = True
        address = self.known(slot)
        if address is None:
            self._is_current = False
            raise RedisFailure(FailureKind.CLUSTER_DOWN, f"no node serves slot {slot}")
        return address

    def forget(self, address: Address) -> None:
        self._is_current = False
        self._suspect = address

    def moved(self, slot: int, address: Address) -> None:
        self._nodes[slot] = address

    async def _ask(self, address: Address) -> list[Address | None]:
        reply = await _ask_once(address, self._login, pack(("CLUSTER", "SLOTS")))
        nodes: list[Address | None] = [None] * SLOTS
        for first, last, master, *_ in reply if isinstance(reply, list) else []:
            node = _node_of(master, address)
            nodes[first : last + 1] = [node] * (last + 1 - first)
        return nodes


def _node_of(described: Sequence[Any], asked: Address) -> Address:
    """A node that does not know its own name is the one that was asked, at the port that it says."""
    host = described[0]
    is_known = host is not None and host not in (b"", b"?")
    return Address(host.decode() if is_known else asked.host, int(described[1]))


async def _ask_once(address: Address, login: Login, command: bytes) -> Reply:
    wire = await Wire.connect(address, 0, login)
    try:
        return await wire.call(command)
    finally:
        wire.drop()


async def _first_answer(addresses: Sequence[Address], ask: Callable[[Address], Awaitable[T]]) -> tuple[Address, T]:
    """What the first of ``addresses`` that answers says. Raises the first failure when none does."""
    first: RedisFailure | None = None
    for address in dict.fromkeys(addresses):
        try:
            async with asyncio.timeout(_ASK_TIMEOUT):
                return address, await ask(address)
        except RedisFailure as failure:
            first = first or failure
        except TimeoutError:
            first = first or RedisFailure(FailureKind.TIMEOUT, f"{address}: no answer within {_ASK_TIMEOUT:g} s")
    assert first is not None, "a URL names at least one server"
    raise first
