"""What a source has kept of earlier deliveries of its records."""

from __future__ import annotations

from collections.abc import Sequence

from runner.model import Fetched, Record


class Carried:
    """Attempts that were charged in earlier assignments, and suspects: records that were handed over again and again
    without an outcome, as those are that kill their function. A suspect runs alone, so that no other dies with it."""

    __slots__ = ("_attempts", "_suspects")

    def __init__(self) -> None:
        self._attempts: dict[int, int] = {}  # by sequence
        self._suspects: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._attempts or self._suspects)

    def note(self, fetched: Fetched) -> None:
        if fetched.attempts or fetched.suspects:
            self._attempts.update(fetched.attempts)
            self._suspects.update(fetched.suspects)

    def before(self, first: int, before: int) -> int:
        """Where a batch that begins with the sequence ``first`` has to end, at the latest ``before``."""
        ends = [suspect + (suspect == first) for suspect in self._suspects if suspect >= first]
        return min([before, *ends])

    def is_suspect(self, record: Record) -> bool:
        return record.sequence in self._suspects

    def take(self, batch: Sequence[Record]) -> dict[int, int]:
        """The attempts of the records of ``batch``, by sequence; they are forgotten here."""
        self._suspects.difference_update([record.sequence for record in batch])
        return {
            record.sequence: self._attempts.pop(record.sequence)
            for record in batch
            if record.sequence in self._attempts
        }
