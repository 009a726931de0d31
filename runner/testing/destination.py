"""A destination that keeps its dead letters in memory, and fails or hangs when told to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import anyio

from runner.model import DeadLetter
from runner.ports import DestinationError


class MemoryDestination:
    """``letters`` are those stored, in order. While ``available`` is False every letter is refused.

    ``faults`` are the results of the next letters, one each, in order: an error refuses that letter, None stores it.
    """

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.available = True
        self.faults: deque[DestinationError | None] = deque()
        self._held: anyio.Event | None = None

    @property
    def description(self) -> str:
        return "memory"

    def hold(self) -> None:
        """Let every ``store`` hang, until ``release``."""
        self._held = anyio.Event()

    def release(self) -> None:
        if self._held is not None:
            self._held.set()
            self._held = None

    async def open(self) -> None:
        """Nothing is needed."""

    async def store(self, letters: Sequence[DeadLetter]) -> Sequence[DestinationError | None]:
        if self._held is not None:
            await self._held.wait()
        return [self._store(letter) for letter in letters]

    def _store(self, letter: DeadLetter) -> DestinationError | None:
        if not self.available:
            return DestinationError("the memory destination is not available")
        error = self.faults.popleft() if self.faults else None
        if error is None:
            self.letters.append(letter)
        return error

    async def close(self) -> None:
        """Nothing is held."""
