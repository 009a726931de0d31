"""How many invocations may run at once, shared fairly."""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Permits:
    """A counted limit shared by members (the mappings of a process, or of a function).

    A member that holds none may take any free permit; a member that holds some must leave one free for each member
    that holds none. So no mapping takes the last one while another has none, however many there are and however many
    of their functions hang. With more members than permits not everybody can have one: then what is left free is no
    more than a quarter of the limit, and at least one, so that the permits are not idle for members that want nothing.
    """

    __slots__ = ("_asked", "_blocked", "_free", "_held", "_without", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._held: dict[Hashable, int] = {}
        self._without = 0  # members that hold none
        self._asked: Hashable | None = None  # who called try_take last
        self._blocked: dict[Hashable, Callable[[], None]] = {}  # in the order in which they were refused

    @property
    def in_use(self) -> int:
        return self.limit - self._free

    def join(self, member: Hashable) -> None:
        assert member not in self._held
        self._held[member] = 0
        self._without += 1
        self.wake()  # one more than there are permits for lowers what the others leave free

    def leave(self, member: Hashable) -> None:
        """What it still holds is free again."""
        held = self._held.pop(member)
        self._free += held
        if not held:
            self._without -= 1
        self._blocked.pop(member, None)
        self.wake()

    def resize(self, limit: int) -> None:
        """Permits above a lower limit are not taken away: they are missing when they come back."""
        self._free += limit - self.limit
        self.limit = limit
        self.wake()

    def try_take(self, member: Hashable, on_free: Callable[[], None]) -> bool:
        """Take one, or be remembered: ``on_free`` is called when one may be had."""
        self._asked = member
        held = self._held[member]
        if self._free > (self._kept_free if held else self._empty_handed_before(member)):
            self._free -= 1
            self._held[member] = held + 1
            if not held:
                self._without -= 1
            self._blocked.pop(member, None)
            return True
        self._blocked.setdefault(member, on_free)
        return False

    @property
    def _kept_free(self) -> int:
        if len(self._held) <= self.limit:
            return self._without
        return min(self._without, max(1, self.limit // 4))

    def _empty_handed_before(self, member: Hashable) -> int:
        """How many that hold none were refused before ``member`` was: they come first."""
        count = 0
        for other in self._blocked:
            if other == member:
                break
            count += not self._held[other]
        return count

    def give_back(self, member: Hashable) -> None:
        """Give one back. Nobody is woken yet: the caller may take it again at once; else it calls ``wake``."""
        held = self._held.get(member, 0)
        if not held:
            return  # it left meanwhile, and its permits were freed then
        self._held[member] = held - 1
        self._free += 1
        if held == 1:
            self._without += 1
            # It had its turn: the place in line that it got while it held one is behind those that held none.
            on_free = self._blocked.pop(member, None)
            if on_free is not None:
                self._blocked[member] = on_free

    def wake(self) -> None:
        """Call whoever was refused, in turn, while there is something to take; who asks no more is forgotten."""
        for member in list(self._blocked):
            if self._free <= 0:
                return
            on_free = self._blocked.get(member)
            if on_free is None:
                continue
            self._asked = None
            on_free()
            if self._asked != member:
                self._blocked.pop(member, None)
