"""A listener that keeps what a source tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection

from runner.model import Lease, Partition, Position, Problem


class RecordingListener:
    """Remembers every call, in order. ``on_revoked`` runs inside ``revoked``, as a drain does.

    ``owned`` is what was assigned and not revoked since; ``losses`` are (partition, first, next available, records).
    """

    def __init__(self, on_revoked: Callable[[Collection[Partition]], Awaitable[None]] | None = None) -> None:
        self.assignments: list[Collection[Partition]] = []
        self.revocations: list[Collection[Partition]] = []
        self.problems: list[tuple[Partition, Problem | None]] = []
        self.losses: list[tuple[Partition, Position, Position, int | None]] = []
        self.warnings: list[str] = []
        self.owned: set[Partition] = set()
        self.leases: dict[Partition, list[Lease]] = {}
        self.lost_partitions: list[Collection[Partition]] = []
        self.acknowledged_records: Counter[Partition] = Counter()
        self.taken_records: Counter[Partition] = Counter()
        self.trimmed_records: Counter[Partition] = Counter()
        self._on_revoked = on_revoked

    def assigned(self, partitions: Collection[Partition]) -> None:
        self.assignments.append(list(partitions))
        self.owned.update(partitions)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.revocations.append(list(partitions))
        if self._on_revoked is not None:
            await self._on_revoked(partitions)
        self.owned.difference_update(partitions)

    def leased(self, partition: Partition, lease: Lease) -> None:
        self.leases.setdefault(partition, []).append(lease)

    def acknowledged(self, partition: Partition, records: int) -> None:
        self.acknowledged_records[partition] += records

    def taken(self, partition: Partition, records: int) -> None:
        self.taken_records[partition] += records

    async def lost(self, partitions: Collection[Partition]) -> None:
        self.lost_partitions.append(list(partitions))
        self.owned.difference_update(partitions)

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None:
        self.problems.append((partition, problem))

    def data_lost(self, partition: Partition, first: Position, next_available: Position, records: int | None) -> None:
        self.losses.append((partition, first, next_available, records))

    def trimmed(self, partition: Partition, records: int) -> None:
        self.trimmed_records[partition] += records

    def source_warning(self, text: str) -> None:
        self.warnings.append(text)
