"""The destination of a simulated group and the sources of its members, which check what they are asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engine_harness.oracle import CheckedStream, Oracle, Violation
from runner.model import DeadLetter, Partition, Position
from runner.ports import CheckpointFenced, DestinationError
from runner.testing import MemoryDestination, MemorySource


class CheckedDestination(MemoryDestination):
    """Tells the oracle what it stores."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self._oracle = oracle

    def _store(self, letter: DeadLetter) -> DestinationError | None:
        error = super()._store(letter)
        if error is None:
            self._oracle.stored(letter)
        return error


class GroupSource(MemorySource):
    """A member's source: a checkpoint of a partition that it has let go, or was refused, is a violation (I6)."""

    def __init__(self, stream: CheckedStream, **options: Any) -> None:
        super().__init__(stream, **options)
        self._fenced: set[Partition] = set()

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        strangers = [each for each in positions if each not in self.assigned or each in self._fenced]
        if strangers:
            raise Violation(f"a checkpoint of {strangers}, which are not ours any more")
        try:
            await super().checkpoint(positions)
        except CheckpointFenced:
            self._fenced.update(positions)
            raise

    async def rebalance(self, partitions: Collection[Partition]) -> None:
        kept = [partition for partition in self.assigned if partition in partitions]
        await super().rebalance(partitions)
        self._fenced.intersection_update(kept)
