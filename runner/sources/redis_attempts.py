"""What this process knows of entries' attempts, and the server does not know yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice

from runner.model import Position
from runner.sources.redis_history import History
from runner.sources.redis_scripts import ATTEMPT, MOST_IDS


class Attempts:
    """Of one stream's entries, by id; outlives its assignments.

    What was not written when an assignment ended may have been overtaken: another may have tried the entry since. It
    counts when the entry is read again, and only where it adds to what the server knows, or takes back the last
    attempt, which the end has cut off."""

    def __init__(self) -> None:
        self._unwritten: dict[str, int] = {}
        self._from_before: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether something is to be written."""
        return bool(self._unwritten)

    def begin_assignment(self) -> None:
        """Also of one before which another has ended too early to read anything."""
        self._from_before |= self._unwritten
        self._unwritten = {}

    def end_history(self) -> None:
        """All that is still ours was read again."""
        self._from_before.clear()

    def note(self, attempts: Mapping[Position, int]) -> None:
        """So many were made, of entries by position."""
        self._unwritten.update({str(position): count for position, count in attempts.items()})

    def forget(self, ids: Iterable[str]) -> None:
        """Nobody will ask for them, or something newer was written."""
        for entry_id in ids:
            self._unwritten.pop(entry_id, None)

    def forget_all(self) -> None:
        """What was read before is given out anew."""
        self._unwritten.clear()
        self._from_before.clear()

    async def write(self, set_counts: Callable[[Mapping[str, int]], Awaitable[None]]) -> None:
        """By ``set_counts``, which sets delivery counts of at most MOST_IDS entries and raises what it likes; what it
        has not set is kept."""
        while self._unwritten:
            charged = dict(islice(self._unwritten.items(), MOST_IDS))
            await set_counts({entry_id: count * ATTEMPT for entry_id, count in charged.items()})
            for entry_id, count in charged.items():
                if self._unwritten.get(entry_id) == count:  # not charged again meanwhile
                    del self._unwritten[entry_id]

    def correct(self, history: History) -> History:
        """``history``, as the server tells it, with what we know better; that is to be written then."""
        if not self._from_before:
            return history
        better: dict[str, int] = {}
        for entry_id in history.known:
            count, told = self._from_before.pop(entry_id, None), history.attempts.get(entry_id, 0)
            if count is not None and (count > told or count == told - 1):
                better[entry_id] = count
        self._unwritten.update(better)
        attempts = {entry_id: count for entry_id, count in {**history.attempts, **better}.items() if count}
        return replace(history, attempts=attempts)
