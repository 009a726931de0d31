"""A producer that goes on through everything that may happen to its server, and knows what was accepted, and when."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from e2e_support.redis_group import StreamGroup, fields_of
from kafka_harness import oracle, producing
from kafka_harness.journal import entry_number
from kafka_harness.producing import Item, Placed
from redis_harness.client import connect, raw

_INTERVAL: Final = 0.02
_KEYS: Final = 7
_MOST_AT_ONCE: Final = 100
_TIMEOUT: Final = 2.0
_IS_NOT_ABOVE: Final = "equal or smaller than the target stream top item"


@dataclass(eq=False, slots=True)
class _Entry:
    """``id`` is "" until it is sent. ``is_uncertain``: it was sent, and nobody said what became of it."""

    item: Item
    id: str = ""
    is_uncertain: bool = False


_Lane: TypeAlias = tuple[StreamGroup, str]


class SteadyProducer:
    """Within its ``async with`` block every stream of the groups gets an entry every 20 ms; what was accepted is in
    the group's ``placed``, what a server has lost since included.

    What was refused is sent again under a new id. What nobody has answered is sent again under the same one, and looked
    for if that is refused: so every entry is accepted once, unless the server forgets that it was.
    """

    def __init__(self, groups: Sequence[StreamGroup], url: str) -> None:
        self.accepted_at: dict[oracle.Origin, float] = {}
        self.refusals = 0
        self._url = url
        self._waiting: dict[_Lane, deque[_Entry]] = {
            (group, stream): deque() for group in groups for stream in group.streams
        }
        self._stopped: set[str] = set()
        self._sending = asyncio.Lock()
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self._milliseconds = 0

    def placed(self) -> list[Placed]:
        """What was accepted within the block so far."""
        return [each for group in self._groups for each in group.placed if each.origin in self.accepted_at]

    @property
    def _groups(self) -> Iterator[StreamGroup]:
        yield from {group.base: group for group, _stream in self._waiting}.values()

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """Within this block nothing is on its way: what was accepted before was accepted, and noted."""
        async with self._sending:
            yield

    @contextmanager
    def without(self, streams: Sequence[str]) -> Iterator[None]:
        """Within this block these streams get nothing; their entries wait."""
        self._stopped.update(streams)
        try:
            yield
        finally:
            self._stopped.difference_update(streams)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_producing(), name="producer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._ending.set()
        if kind is None:
            await self._task  # not cancelled: an entry that is accepted must also be noted
            return
        self._task.cancel()  # what waits may wait for ever
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _keep_producing(self) -> None:
        async with connect(self._url, timeout=_TIMEOUT) as client:
            while not self._ending.is_set() or any(self._waiting.values()):
                if not self._ending.is_set():
                    self._produce()
                async with self._sending:
                    await self._send(client)
                await asyncio.sleep(_INTERVAL)

    def _produce(self) -> None:
        self._number += 1
        (item,) = producing.numbered(1, keys=_KEYS, start=self._number)
        for entries in self._waiting.values():
            entries.append(_Entry(item))

    async def _send(self, client: Redis) -> None:
        lot = [
            (lane, entry)
            for lane, entries in self._waiting.items()
            if lane[1] not in self._stopped
            for entry in islice(entries, _MOST_AT_ONCE)
        ]
        if not lot:
            return
        # Higher than all before: a stream takes its entries in this order only.
        self._milliseconds = max(time.time_ns() // 1_000_000, self._milliseconds + 1)
        for number, (_lane, entry) in enumerate(lot):
            entry.id = entry.id or f"{self._milliseconds}-{number}"
        try:
            async with client.pipeline(transaction=False) as pipeline:
                for (_group, stream), entry in lot:
                    words = [word for pair in fields_of(entry.item) for word in pair]
                    pipeline.execute_command("XADD", stream, entry.id, *words)
                replies = await pipeline.execute(raise_on_error=False)
            for ((group, stream), entry), reply in zip(lot, replies, strict=True):
                if await self._is_accepted(client, stream, entry, reply):
                    self._waiting[group, stream].remove(entry)
                    self._note(group, stream, entry)
                else:
                    self.refusals += 1
                    entry.id = ""  # later ones may have been accepted
        except (RedisConnectionError, RedisTimeoutError):
            self.refusals += 1
            for _lane, entry in lot:
                entry.is_uncertain = True

    async def _is_accepted(self, client: Redis, stream: str, entry: _Entry, reply: Any) -> bool:
        """Raises what is neither yes nor no."""
        if isinstance(reply, OutOfMemoryError):
            return False
        if entry.is_uncertain and isinstance(reply, ResponseError) and _IS_NOT_ABOVE in str(reply):
            # It is there, or it was refused while the server loaded its data, and a later one was not.
            return bool(await raw(client, "XRANGE", stream, entry.id, entry.id))
        if isinstance(reply, Exception):
            raise reply
        return True

    def _note(self, group: StreamGroup, stream: str, entry: _Entry) -> None:
        placed = Placed(stream, 0, entry_number(entry.id), entry.item.key, entry.item.value)
        self.accepted_at[placed.origin] = time.monotonic()
        group.placed.append(placed)
