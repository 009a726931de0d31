"""How long to sit out of the race for the entries of a shared stream, after having been too late for one."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 0.0025
_LONGEST: Final = 0.02


class LateWakes:
    """An entry wakes everybody who waits, at the cost of an XREAD and a script each, and is one's.

    Who comes too late again and again sits out, twice as long each time, which bounds what many cost who wait for
    entries that come fast. Who is alone is never too late."""

    __slots__ = ("_pause", "_was_woken")

    def __init__(self) -> None:
        self._pause = _FIRST
        self._was_woken = False

    def note(self, was_woken: bool) -> None:
        """A wait has ended, by an entry or by its time."""
        self._was_woken = was_woken

    def came(self) -> None:
        """Entries were read."""
        self._was_woken = False
        self._pause = _FIRST

    def pause(self) -> float:
        """Nothing was read: the seconds to sit out before the next wait."""
        if not self._was_woken:
            self._pause = _FIRST
            return 0.0
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST)
        return pause
