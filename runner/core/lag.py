"""How old what a partition has not settled is."""

from __future__ import annotations

from runner.core.tracker import Tracker
from runner.model import Backlog

_FRESH = 10.0  # seconds for which a learnt end counts as the end


class Lag:
    """Knows since when a partition is behind, also where records have no timestamps or odd ones.

    Each end that is learnt is a mark: once all up to it is settled, the partition was current as of the moment at
    which the end was learnt.
    """

    __slots__ = ("_current_as_of", "_mark", "_tracker")

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._current_as_of: float | None = None
        self._mark: tuple[float, int] | None = None  # (when the end was learnt, records up to it)

    def note_end(self, backlog: Backlog | None) -> None:
        """What the source knows of the end, as of the tracker's last fetch."""
        if backlog is None or backlog.records is None:
            return
        end = self._tracker.fetched_records + backlog.records
        # Positions that hold no record make an end look farther than it is; a newer one that is nearer tells more.
        if self._mark is None or end <= self._mark[1]:
            self._mark = (backlog.learnt_at, end)

    def note_settled(self) -> None:
        if self._mark is not None and self._tracker.head >= self._mark[1]:
            self._current_as_of = max(self._current_as_of or 0.0, self._mark[0])
            self._mark = None

    def seconds(self, now: float, backlog: Backlog | None, oldest: float | None) -> float | None:
        """0 only while the position is the end as learnt within 10 s and all is settled; None when never known.

        Otherwise the age of the oldest unsettled record (``oldest``: its timestamp in seconds, None for none), at
        least the time since the partition was last known to be current. Timestamps in the future count as now."""
        self.note_settled()
        self.note_end(backlog)
        if backlog is not None and backlog.records == 0 and not self._tracker.unsettled_records:
            self._current_as_of = max(self._current_as_of or 0.0, backlog.learnt_at)
            if now - backlog.learnt_at <= _FRESH:
                return 0.0
        ages = [now - since for since in (self._current_as_of, oldest) if since is not None]
        return max(0.0, *ages) if ages else None
