"""A source that acknowledges record by record."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from runner.model import Fetched, Partition, Position, Record
from runner.testing import MemorySource


class KeepingSource(MemorySource):
    """Is told of each record, and hands out what it is told to have kept: ``carried`` attempts and ``suspects``.

    ``failure`` is raised by what asks whether something was kept or is ours; ``taken`` are another consumer's.
    """

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **keywords)  # type: ignore[arg-type]
        self.kept: dict[Position, int] = {}
        self.charges: list[tuple[Position, int]] = []
        self.told_settled: list[Position] = []
        self.carried: Mapping[int, int] = {}
        self.suspects: Sequence[int] = ()
        self.taken: Collection[Position] = ()
        self.failure: Exception | None = None

    def settled(self, partition: Partition, records: Sequence[Record]) -> None:
        self.told_settled += [record.position for record in records]

    def attempted(self, partition: Partition, attempts: Mapping[Position, int]) -> None:
        self.kept |= attempts

    async def charge(self, partition: Partition, attempts: Mapping[Position, int]) -> None:
        if self.failure is not None:
            raise self.failure
        self.charges += attempts.items()
        self.kept |= attempts

    async def still_ours(self, partition: Partition, records: Sequence[Record]) -> Sequence[bool]:
        if self.failure is not None:
            raise self.failure
        return [record.position not in self.taken for record in records]

    async def fetch(self) -> Sequence[Fetched]:
        return [each._replace(attempts=self.carried, suspects=self.suspects) for each in await super().fetch()]
