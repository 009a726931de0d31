"""What every destination promises, as tests: subclass ``DestinationConformance`` and give it a ``harness`` fixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import anyio

from runner.model import Condition, DeadLetter, ErrorKind, FunctionError, Headers, Partition, Position, Record
from runner.ports import Destination, DestinationError

TIME_LIMIT = 45.0
"""Seconds for one call of a destination; a fault in it ends a test here and not at the runner's own limit."""


class StoredLetter(NamedTuple):
    """A dead letter as its destination holds it. ``headers`` are the original record's, without what was added."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: Partition
    position: str
    mapping: str
    condition: str
    attempts: int


class DestinationHarness(Protocol):
    """What the suite needs of one adapter. Every test gets a new one, which holds no letters."""

    def make_destination(self) -> Destination:
        """A destination, unopened."""
        ...

    async def read_back(self) -> Sequence[StoredLetter]:
        """All letters stored, in the order of their partitions."""
        ...

    async def make_unavailable(self) -> None:
        """Let the destination certainly refuse all letters, until ``make_available``."""
        ...

    async def make_available(self) -> None: ...


class DestinationConformance:
    """The port's promises. Methods are tests of pytest with anyio's plugin."""

    async def test_letters_are_stored_with_all_their_bytes(self, harness: DestinationHarness) -> None:
        letters = [
            a_letter(0, b"key", b"value"),
            a_letter(1, None, b"null key"),
            a_letter(2, b"tombstone", None),
            a_letter(3, b"", b""),
            a_letter(4, b"\xff\x00\n", b"\x80\r\nsecond line\n"),
            a_letter(5, b"k", b"v", (("a", b"1"), ("b", b"\xff\x00\n"), ("a", b"2"), ("empty", b""), ("null", None))),
        ]
        await store_all(harness.make_destination(), letters)
        assert list(await harness.read_back()) == [stored(letter) for letter in letters]

    async def test_every_condition_and_error_can_be_stored(self, harness: DestinationHarness) -> None:
        error = FunctionError(ErrorKind.ERROR, "ValueError", "no such order: \udcff \x00 \n", "a stack\n", 500)
        letters = [
            a_letter(position, b"k", b"v", condition=condition, error=problem)
            for position, (condition, problem) in enumerate((c, e) for c in Condition for e in (None, error))
        ]
        await store_all(harness.make_destination(), letters)
        assert list(await harness.read_back()) == [stored(letter) for letter in letters]

    async def test_an_unavailable_destination_refuses_and_stores_later(self, harness: DestinationHarness) -> None:
        letters = [a_letter(position, b"k", b"%d" % position) for position in range(3)]
        destination = harness.make_destination()
        await harness.make_unavailable()
        with anyio.fail_after(TIME_LIMIT):
            await destination.open()
            try:
                results = await destination.store(letters)
                assert len(results) == 3
                assert all(isinstance(result, DestinationError) and str(result) for result in results)
                await harness.make_available()
                assert await harness.read_back() == []
                assert list(await destination.store(letters)) == [None, None, None]
            finally:
                await destination.close()
        assert list(await harness.read_back()) == [stored(letter) for letter in letters]

    async def test_letters_outlive_the_destination(self, harness: DestinationHarness) -> None:
        letters = [a_letter(position, b"k", b"%d" % position) for position in range(2)]
        for letter in letters:
            await store_all(harness.make_destination(), [letter])
        assert list(await harness.read_back()) == [stored(letter) for letter in letters]

    async def test_no_letters_are_no_work(self, harness: DestinationHarness) -> None:
        await store_all(harness.make_destination(), [])
        assert await harness.read_back() == []

    async def test_close_may_be_called_unopened_and_twice(self, harness: DestinationHarness) -> None:
        await harness.make_destination().close()
        destination = harness.make_destination()
        await destination.open()
        await destination.close()
        await destination.close()

    async def test_it_says_where_it_stores(self, harness: DestinationHarness) -> None:
        assert harness.make_destination().description


def a_letter(
    position: Position,
    key: bytes | None,
    value: bytes | None,
    headers: Headers = (),
    *,
    condition: Condition = Condition.RETRY_ATTEMPTS_EXHAUSTED,
    error: FunctionError | None = None,
) -> DeadLetter:
    """A dead letter of partition 0 of ``orders``."""
    size = len(key or b"") + len(value or b"") + sum([1 + len(name) + len(content or b"") for name, content in headers])
    record = Record(Partition("orders", 0), position, key, value, headers, 1_700_000_000_123, 0, size)
    return DeadLetter(
        record=record,
        mapping="orders-to-charge-card",
        function="charge-card",
        condition=condition,
        attempts=3,
        error=error,
        given_up_at_ms=1_700_000_060_000,
        source="memory://orders",
        group="orders-to-charge-card",
    )


def stored(letter: DeadLetter) -> StoredLetter:
    """What ``letter`` must look like when it is read back."""
    record = letter.record
    return StoredLetter(
        record.key,
        record.value,
        record.headers,
        record.partition,
        str(record.position),
        letter.mapping,
        letter.condition.value,
        letter.attempts,
    )


async def store_all(destination: Destination, letters: Sequence[DeadLetter]) -> None:
    """One life of ``destination`` in which all ``letters`` are stored."""
    with anyio.fail_after(TIME_LIMIT):
        await destination.open()
        try:
            assert list(await destination.store(letters)) == [None] * len(letters)
        finally:
            await destination.close()
