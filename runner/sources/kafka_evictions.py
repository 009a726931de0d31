"""Recognises a second member with our instance id by how often it puts us out of the group."""

from __future__ import annotations

from collections import deque

from runner.model import Problem, Reason

_MOST = 3
_WINDOW = 120.0


class Evictions:
    """Two members with one ``group_instance_id`` put each other out in turn, and mostly no error ever says so."""

    def __init__(self, group: str, group_instance_id: str | None) -> None:
        """Without a ``group_instance_id`` nothing is ever recognised: nobody can take our place."""
        self._group = group
        self._group_instance_id = group_instance_id
        self._at: deque[float] = deque()

    def note(self, now: float) -> Problem | None:
        """This member was in the group, and the group does not know it any more. ``now`` is in seconds."""
        if self._group_instance_id is None:
            return None
        self._at.append(now)
        while now - self._at[0] > _WINDOW:
            self._at.popleft()
        if len(self._at) < _MOST:
            return None
        return Problem(
            Reason.DUPLICATE_MEMBER,
            f"another member of the group {self._group} has the group_instance_id {self._group_instance_id!r}: "
            f"it put this one out {len(self._at)} times within {_WINDOW:g} s",
            "give every member its own group_instance_id, such as the pod's name",
        )
