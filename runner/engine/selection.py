"""Which records a mapping invokes its function with."""

from __future__ import annotations

from collections.abc import Sequence

from runner.engine.policy import MappingPolicy
from runner.model import Record, Settlement


def select(
    records: Sequence[Record], policy: MappingPolicy
) -> tuple[Sequence[Record], Sequence[tuple[Settlement, Sequence[Record]]]]:
    """The records that are wanted, and the others by why they are not; each in their order."""
    refused: list[tuple[Settlement, Sequence[Record]]] = []
    if policy.skip_tombstones:
        tombstones = [record for record in records if record.value is None]
        if tombstones:
            refused.append((Settlement.SKIPPED, tombstones))
            records = [record for record in records if record.value is not None]
    wants = policy.wants
    if wants is None:
        return records, refused
    wanted = [record for record in records if wants(record)]
    if len(wanted) < len(records):
        kept = {record.sequence for record in wanted}
        refused.append((Settlement.FILTERED, [record for record in records if record.sequence not in kept]))
    return wanted, refused
