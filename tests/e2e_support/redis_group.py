"""Redis streams with the group that reads them: what was produced, and whether every promise about it was kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from redis.asyncio import Redis

from e2e_support.configuration import QUICK_BACKOFF, http, process
from e2e_support.looking import mapping_view
from kafka_harness import oracle
from kafka_harness.behaviour import REFUSED
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, entry_number
from kafka_harness.producing import Item, Placed
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.topics import Consumed
from kafka_harness.waiting import until_async
from redis_harness.client import Entry, Fields, Pending, add_many, pending, read_stream
from runner.clients.redis_slots import companion_key

STREAMS: Final = 8
LEASE: Final = 2.0
HEARTBEAT: Final = 0.4

Delivery: TypeAlias = Literal["ordered", "shared"]

_FUNCTION = "function"
_KEY, _VALUE = b"key", b"value"


@dataclass(eq=False)
class StreamGroup:
    """``number`` streams named ``base.0`` and so on; ``base`` is the name of the mapping and its group too, and
    ``base.letters`` the stream of dead letters. ``lease`` and ``heartbeat`` are in seconds."""

    base: str
    lease: float = LEASE
    heartbeat: float = HEARTBEAT
    placed: list[Placed] = field(default_factory=list)
    number: int = STREAMS
    delivery: Delivery = "ordered"

    @property
    def streams(self) -> list[str]:
        return [f"{self.base}.{number}" for number in range(self.number)]

    @property
    def letters_stream(self) -> str:
        return f"{self.base}.letters"

    def lease_key(self, stream: str) -> bytes:
        return companion_key(stream.encode(), f":stream-runner:{self.base}".encode())

    def configuration(self, url: str, function: FunctionProcess, **options: Any) -> dict[str, Any]:
        """Of a process with the one mapping; ``options`` are the mapping's own."""
        return process({_FUNCTION: http(function.url)}, {self.base: self.mapping(url, **options)})

    def mapping(self, url: str, **options: Any) -> dict[str, Any]:
        """The mapping alone, of a function that is named ``function``."""
        source = {
            "url": url,
            "streams": f"{self.base}.{{0..{self.number - 1}}}",
            "key_field": _KEY.decode(),
            "value_field": _VALUE.decode(),
            "lease": f"{self.lease:g}s",
            "heartbeat": f"{round(self.heartbeat * 1000)}ms",
        }
        if self.delivery != "ordered":
            source["delivery"] = self.delivery
        return {
            "function": _FUNCTION,
            "source": {"redis_streams": source},
            "retry_backoff": QUICK_BACKOFF,
            "commit_interval": "200ms",
            "commit_timeout": "1s",
            "destination_config": {"on_failure": {"redis_streams": {"stream": self.letters_stream}}},
            **options,
        }

    # --- what is in the streams

    async def add(self, client: Redis, stream: str, items: Iterable[Item]) -> list[Placed]:
        """Add ``items`` to one of the streams."""
        items = list(items)
        ids = await add_many(client, stream, [fields_of(item) for item in items])
        placed = [
            Placed(stream, 0, entry_number(id_.decode()), item.key, item.value)
            for id_, item in zip(ids, items, strict=True)
        ]
        self.placed += placed
        return placed

    async def pending(self, client: Redis) -> dict[str, list[Pending]]:
        """The pending entries of each stream that has any."""
        found = {stream: await pending(client, stream, self.base) for stream in self.streams}
        return {stream: entries for stream, entries in found.items() if entries}

    async def letters(self, client: Redis) -> list[Consumed]:
        """All dead letters so far."""
        return [letter_of(self.letters_stream, entry) for entry in await read_stream(client, self.letters_stream)]

    async def until_settled(
        self, client: Redis, function: FunctionProcess, *, acknowledged: bool = True, timeout: float = 60.0
    ) -> None:
        """Wait until every record is handled or dead-lettered, and with ``acknowledged`` until nothing is pending."""
        left: dict[str, int] = {}

        async def settled() -> bool:
            done = set(oracle.handled_at(function.calls()))
            done |= {origin_of(letter) for letter in await self.letters(client)}
            left["unsettled"] = sum(each.origin not in done for each in self.placed)
            left["pending"] = sum(map(len, (await self.pending(client)).values())) if acknowledged else 0
            return not any(left.values())

        try:
            await until_async(settled, what="every record is settled", timeout=timeout, every=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {left}") from error

    async def assert_promises(
        self, client: Redis, calls: Sequence[Call], *, by: oracle.Unit | None, poison: bytes | None = None
    ) -> None:
        """Nothing lost, nothing pending, first successes in order and no overlap within a generation ``by`` key or
        partition (None: there is no order), and one dead letter, unchanged, of exactly each record whose value holds
        ``poison``."""
        letters = await self.letters(client)
        oracle.assert_calls_understood(calls)
        oracle.assert_nothing_lost(self.placed, calls, letters, origin=origin_of)
        oracle.assert_dead_letters_unchanged(self.placed, letters, origin=origin_of)
        if by is not None:
            oracle.assert_ordered(calls, by=by)
            for generation in by_generation(calls).values():
                oracle.assert_no_overlap(generation, by=by)
        expected = {each.origin for each in self.placed if poison is not None and poison in (each.value or b"")}
        assert sorted(origin_of(letter) for letter in letters) == sorted(expected)
        assert await self.pending(client) == {}


def origin_of(letter: Consumed) -> oracle.Origin:
    """Where a dead letter came from. Raises LookupError when it does not say."""
    stream = letter.header("stream-runner-original-topic") or b""
    position = letter.header("stream-runner-original-position") or b""
    return f"{stream.decode()}-0", entry_number(position.decode())


def by_generation(calls: Iterable[Call]) -> dict[int, list[Call]]:
    """The calls of each generation, those of different streams together where they share a number."""
    found: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
        found[call.generation].append(call)
    return found


def generations(calls: Iterable[Call], partition: str) -> list[list[Call]]:
    """The calls of a partition by generation, lowest first."""
    found = by_generation(call for call in calls if call.partition == partition)
    return [found[generation] for generation in sorted(found)]


def refused(calls: Iterable[Call]) -> list[Call]:
    """The calls that came when a higher generation of their stream had been seen."""
    return [call for call in calls if call.status == REFUSED]


def assert_generations_never_fall(calls: Iterable[Call]) -> None:
    """In the order in which the function was given calls, no stream's generation falls; refused ones do not count."""
    newest: dict[str, Call] = {}
    for call in sorted(calls, key=lambda call: call.start_ns):
        if call.status == REFUSED:
            continue
        assert call.generation > 0, f"a call without a generation: {call}"
        before = newest.get(call.partition, call)
        assert call.generation >= before.generation, f"{call} came after {before}"
        newest[call.partition] = call


async def owned_streams(runner: RunnerProcess, group: StreamGroup) -> list[str]:
    """The streams that are assigned to a runner, by name."""
    shown = (await mapping_view(runner, group.base))["partitions"]
    return sorted(str(each["topic"]) for each in shown if each["assigned"])


async def until_owned(
    expected: dict[RunnerProcess, int], group: StreamGroup, *, timeout: float = 20.0
) -> dict[RunnerProcess, list[str]]:
    """Wait until each runner has so many streams, all at one time; returns which."""

    async def owned() -> dict[RunnerProcess, list[str]] | None:
        found = {runner: await owned_streams(runner, group) for runner in expected}
        return found if {runner: len(streams) for runner, streams in found.items()} == expected else None

    wanted = {runner.name: number for runner, number in expected.items()}
    found = await until_async(owned, what=f"streams are owned as {wanted}", timeout=timeout)
    assert found is not None
    return found


def fields_of(item: Item) -> Fields:
    """An item as the entry of a stream."""
    assert item.key is not None
    assert item.value is not None
    return [(_KEY, item.key), (_VALUE, item.value)]


def letter_of(stream: str, entry: Entry) -> Consumed:
    """A dead letter as the oracle knows them: what is neither key nor value is a header."""
    id_, fields = entry
    content = dict(fields[:2])
    headers = tuple((name.decode(), value) for name, value in fields[2:])
    number = entry_number(id_.decode())
    return Consumed(stream, 0, number, content.get(_KEY), content.get(_VALUE), headers, 0, True)
