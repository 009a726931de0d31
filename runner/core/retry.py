"""When to try again, and when to stop trying."""

from __future__ import annotations

from dataclasses import dataclass

from runner.model import NO_TIMESTAMP, Record

FOR_EVER = -1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Times are in seconds. ``maximum_attempts`` excludes the first try, as AWS counts; -1 tries for ever.

    ``maximum_age`` is a record's greatest age by its own timestamp, None for no limit.
    """

    maximum_attempts: int = FOR_EVER
    initial_backoff: float = 0.2
    maximum_backoff: float = 30.0
    maximum_retry_after: float = 300.0
    maximum_age: float | None = None

    def backoff(self, tries: int, jitter: float) -> float:
        """Seconds to wait after ``tries`` (from 1) that did not succeed; ``jitter`` is uniform in [0, 1).

        Exponential with full jitter: anywhere between nothing and the doubled bound, so that lanes that failed
        together do not come again together."""
        return min(self.maximum_backoff, self.initial_backoff * 2.0 ** min(tries - 1, 62)) * jitter

    def is_exhausted(self, attempts: int) -> bool:
        """Whether a record that ``attempts`` invocations were charged to is given up."""
        return self.maximum_attempts != FOR_EVER and attempts > self.maximum_attempts

    def expires_at(self, record: Record) -> float:
        """The time at which the record is too old; infinity when it never is."""
        if self.maximum_age is None or record.timestamp_ms == NO_TIMESTAMP:
            return float("inf")
        return record.timestamp_ms / 1000.0 + self.maximum_age
