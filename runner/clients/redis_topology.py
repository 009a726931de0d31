"""Which server a command goes to: the only one, the master that sentinels name, or the node that serves a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

import anyio

from runner.clients.redis_errors import FailureKind, RedisFailure, wants_login
from runner.clients.redis_questions import SharedQuestion, first_answer
from runner.clients.redis_slots import SLOTS
from runner.clients.redis_url import Address, Finding, RedisUrl
from runner.clients.redis_wire import Login, Reply, Wire, pack

_INTERVAL: Final = 0.5
"""Seconds between two questions to a cluster's nodes, unless one of them has told something new."""


class Topology(Protocol):
    """``slot`` is None for commands without a key. ``version`` is that of what was known when a place was looked up."""

    @property
    def version(self) -> int:
        """Rises with each answer that tells anew who serves what."""
        ...

    def known(self, slot: int | None) -> Address | None:
        """Where to go, as far as it is known without asking."""
        ...

    async def locate(self, slot: int | None) -> Address:
        """Where to connect to now. Raises RedisFailure. Who gives up waiting loses nothing: the next one waits on."""
        ...

    def forget(self, address: Address, version: int) -> None:
        """Something went wrong at ``address``: ask again before the next command goes there, and ask that one last."""
        ...

    def refused(self, slot: int, version: int) -> None:
        """A node said that nobody serves ``slot``: ask again, soon, before the next command about that slot."""
        ...

    def moved(self, slot: int, address: Address) -> None:
        """A node said who serves ``slot``."""
        ...

    async def close(self) -> None:
        """End what is being asked: who waits for it gets a RedisFailure, and so does who asks later. Takes no time."""
        ...


def topology_of(url: RedisUrl, login: Login) -> Topology:
    match url.finding:
        case Finding.STANDALONE:
            return _Standalone(url)
        case Finding.SENTINEL:
            return _Sentinels(url, login)
        case Finding.CLUSTER:
            return _Cluster(url, login)


class _Standalone:
    version = 0

    def __init__(self, url: RedisUrl) -> None:
        self._address = url.addresses[0]

    def known(self, slot: int | None) -> Address | None:
        return self._address

    async def locate(self, slot: int | None) -> Address:
        return self._address

    def forget(self, address: Address, version: int) -> None:
        """There is only one."""

    def refused(self, slot: int, version: int) -> None:
        raise AssertionError("a single server has no slots")

    def moved(self, slot: int, address: Address) -> None:
        raise AssertionError("a single server has no slots")

    async def close(self) -> None:
        """Nobody is ever asked."""


class _Sentinels:
    """The master is asked for at each connect, so that after a failover the next connection finds the new one."""

    version = 0

    def __init__(self, url: RedisUrl, login: Login) -> None:
        assert url.service is not None
        self._addresses = list(url.addresses)
        self._service = url.service
        self._login = login
        self._master: Address | None = None
        self._question = SharedQuestion(self._find, str(url))

    def known(self, slot: int | None) -> Address | None:
        return self._master

    async def locate(self, slot: int | None) -> Address:
        return await self._question.answer()

    def forget(self, address: Address, version: int) -> None:
        """Whatever the version: the next connect asks anyway. Who has named it is asked last then: it may be the one
        that has not heard of a failover, and would name it for ever."""
        if address == self._master:
            self._master = None
            self._addresses.append(self._addresses.pop(0))

    def refused(self, slot: int, version: int) -> None:
        raise AssertionError("servers behind sentinels have no slots")

    def moved(self, slot: int, address: Address) -> None:
        raise AssertionError("servers behind sentinels have no slots")

    async def close(self) -> None:
        await self._question.close()

    async def _find(self) -> Address:
        sentinel, master = await first_answer(self._addresses, self._ask)
        # The next connect begins with the one that answered, unless what it said proves wrong.
        self._addresses.sort(key=lambda address: address != sentinel)
        self._master = master
        return master

    async def _ask(self, address: Address) -> Address:
        command = pack(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service))
        # Sentinels have users of their own, and mostly none: nobody logs in until one asks for it.
        anonymous = Login(client_name=self._login.client_name, tls=self._login.tls)
        try:
            reply = await _ask_once(address, anonymous, command)
        except RedisFailure as failure:
            if not (wants_login(failure) or failure.kind is FailureKind.PERMISSION):
                raise
            reply = await _ask_once(address, self._login, command)
        if not isinstance(reply, list):
            raise RedisFailure(FailureKind.SERVICE_UNKNOWN, f"{address}: no master is named {self._service!r}")
        return Address(reply[0].decode(), int(reply[1]))


class _Cluster:
    """The nodes by slot, as some node told them, and as others have corrected that since.

    What is doubted is single nodes and slots: for all others the map that there is goes on to hold.
    """

    def __init__(self, url: RedisUrl, login: Login) -> None:
        self._seeds = url.addresses
        self._login = login
        self._nodes: list[Address | None] = [None] * SLOTS
        self._version = 0
        self._doubted_nodes: set[Address] = set()
        self._doubted_slots: set[int] = set()
        self._teller: Address | None = None  # of the map that there is
        self._teller_repeats_itself = False
        self._due_at = 0.0  # by the event loop's clock, unless there is news
        self._news = asyncio.Event()
        self._question = SharedQuestion(self._fetch, str(url))

    @property
    def version(self) -> int:
        return self._version

    def known(self, slot: int | None) -> Address | None:
        if slot is None:
            doubted = {None, *self._doubted_nodes}
            return next((node for node in self._nodes if node not in doubted), None)
        node = self._nodes[slot]
        # A node that has refused a slot is alive: until the others may be asked, it can as well be asked again.
        if node in self._doubted_nodes or (slot in self._doubted_slots and self._is_due):
            return None
        return node

    async def locate(self, slot: int | None) -> Address:
        address = self.known(slot)
        if address is None and (self._is_due or not self._is_unserved(slot)):
            await self._question.answer()
            # What others have doubted since is not asked about again on behalf of this one.
            address = self._nodes[slot] if slot is not None else self.known(None) or self._teller
        if address is None:
            raise RedisFailure(FailureKind.CLUSTER_DOWN, f"no node serves slot {slot}")
        return address

    def forget(self, address: Address, version: int) -> None:
        if self._may_be_doubted(version):
            self._doubted_nodes.add(address)

    def refused(self, slot: int, version: int) -> None:
        if self._may_be_doubted(version):
            self._doubted_slots.add(slot)

    def moved(self, slot: int, address: Address) -> None:
        self._nodes[slot] = address
        self._doubted_slots.discard(slot)
        self._news.set()

    async def close(self) -> None:
        await self._question.close()

    @property
    def _is_due(self) -> bool:
        """Whether the nodes may be asked without waiting."""
        return self._news.is_set() or asyncio.get_running_loop().time() >= self._due_at

    def _is_unserved(self, slot: int | None) -> bool:
        return slot is not None and self._version > 0 and self._nodes[slot] is None

    def _may_be_doubted(self, version: int) -> bool:
        """What has just been told says more than a failure of who went by what was told before."""
        return version == self._version or self._is_due

    async def _fetch(self) -> None:
        loop = asyncio.get_running_loop()
        with anyio.move_on_after(max(self._due_at - loop.time(), 0.0)):
            await self._news.wait()
        self._news.clear()
        suspects = self._suspects()
        try:
            self._teller, nodes = await first_answer(self._candidates(suspects), self._ask)
        finally:
            self._due_at = loop.time() + _INTERVAL
        self._teller_repeats_itself = not suspects.isdisjoint(nodes)
        self._nodes = nodes
        self._version += 1
        self._doubted_nodes.clear()
        self._doubted_slots.clear()

    def _suspects(self) -> set[Address]:
        refusing = [self._nodes[slot] for slot in self._doubted_slots]
        return {*self._doubted_nodes, *[node for node in refusing if node is not None]}

    def _candidates(self, suspects: set[Address]) -> list[Address]:
        """Whom to ask, the best first. The URL's come before the others: after a move of all nodes only their names are
        right. Who still named a suspect is let wait: it may be the one that has not heard of a failover."""

        def rank(node: Address) -> int:
            if node in suspects:
                return 3
            if node == self._teller:
                return 2 if self._teller_repeats_itself else 0
            return 1

        served = dict.fromkeys([node for node in self._nodes if node is not None])
        return sorted(dict.fromkeys([*self._seeds, *served]), key=rank)

    async def _ask(self, address: Address) -> list[Address | None]:
        reply = await _ask_once(address, self._login, pack(("CLUSTER", "SLOTS")))
        if not isinstance(reply, list) or not reply:
            # As a node says that is not a member yet, or not any more.
            raise RedisFailure(FailureKind.CLUSTER_DOWN, f"{address}: knows of no node that serves any slot")
        nodes: list[Address | None] = [None] * SLOTS
        for first, last, master, *_ in reply:
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
