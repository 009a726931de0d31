"""Where a stream is read from when it becomes ours, and what was lost of it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from runner.clients.redis_entries import compare_ids, following_id, parse_id, previous_id
from runner.clients.redis_wire import Reply
from runner.sources.starting import StartingPosition

FIRST_ID: Final = "0-1"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a stream whose group is not there, from the server and from what this process has seen.

    ``checkpoint``: the server's, where it has one. ``is_forgotten``: somebody may have read it, and the server has lost
    what it knew of that. ``entries_added``: as many the stream had at the last look; None: that is not known.
    """

    checkpoint: str | None = None
    is_forgotten: bool = False
    entries_added: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group as the server shows it. ``lag`` is None where the server cannot tell."""

    last_delivered: str
    lag: int | None
    lowest_pending: str | None


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as the server shows it. ``entries_added`` is None before Redis 7; ``lost`` where nothing was trimmed
    unread, as far as the server can tell."""

    length: int
    last_generated: str
    entries_added: int | None
    group: Group | None
    lost: Lost | None


@dataclass(frozen=True, slots=True)
class Lost:
    """So many ``entries`` were trimmed before anybody read them: those behind ``delivered`` up to ``next_available``.

    ``passed`` counts all entries before ``next_available`` that the stream ever had."""

    entries: int
    delivered: str
    next_available: str
    passed: int

    @property
    def first(self) -> str:
        return following_id(self.delivered)

    def beyond(self, told: Lost | None) -> int:
        """How many there are more than in ``told``, which may be an earlier look at the same."""
        if told is None or told.delivered != self.delivered:
            return self.entries
        return min(self.entries, self.passed - told.passed)


class CheckpointMissing(Exception):
    """The group is gone, and nobody knows how far it was: what happens is the user's policy."""


def read_inspection(reply: Sequence[Reply]) -> Stream:
    """What INSPECT has answered."""
    stream = reply[1]
    assert isinstance(stream, list)
    length, last_generated, entries_added = stream
    has_group = len(reply) > 2
    return Stream(
        length=_number(length) or 0,
        last_generated=_text(last_generated),
        entries_added=_number(entries_added),
        group=_group(_members(reply[2]), reply[3]) if has_group else None,
        lost=read_lost(reply[4]) if has_group else None,
    )


def read_lost(reply: Reply) -> Lost | None:
    """What INSPECT, PASS_OVER and READ say of entries that were trimmed unread."""
    assert isinstance(reply, list)
    if not reply:
        return None
    entries, delivered, first, last, passed = reply
    assert isinstance(entries, int)
    assert isinstance(passed, int)
    return Lost(entries, _text(delivered), _text(first) or following_id(_text(last)), passed)


def first_checkpoint(stream: Stream, known: Known, starting: StartingPosition, timestamp: float | None) -> str:
    """The id to begin at when the group has to be made. Raises CheckpointMissing.

    The starting position counts only where nobody has ever read: later it would pass over what came meanwhile.
    """
    if known.checkpoint is not None:
        return _checkpoint_in(stream, known.checkpoint, known.entries_added)
    if known.is_forgotten:
        if stream.entries_added != stream.length:
            raise CheckpointMissing
        return FIRST_ID  # all that this stream ever had is still there
    match starting:
        case StartingPosition.TRIM_HORIZON:
            return FIRST_ID
        case StartingPosition.LATEST:
            return following_id(stream.last_generated)
        case StartingPosition.AT_TIMESTAMP:
            assert timestamp is not None
            # A group that begins behind the end would be given nothing until an id gets there, if one ever does.
            wanted = max(f"{int(timestamp * 1000)}-0", FIRST_ID, key=parse_id)
            return min(wanted, following_id(stream.last_generated), key=parse_id)


def checkpoint_of(group: Group) -> str:
    """The checkpoint of a group that was made elsewhere."""
    behind = following_id(group.last_delivered)  # lower, where the group was set back
    return behind if group.lowest_pending is None else min(group.lowest_pending, behind, key=parse_id)


def _checkpoint_in(stream: Stream, checkpoint: str, entries_added: int | None) -> str:
    # Ids and counts only grow: a stream that has not come as far as it had is another one under the same name.
    if stream.entries_added is not None and stream.entries_added < (entries_added or 0):
        return FIRST_ID
    return checkpoint if compare_ids(stream.last_generated, previous_id(checkpoint)) >= 0 else FIRST_ID


def _group(group: dict[bytes, Reply], pending: Reply) -> Group:
    assert isinstance(pending, list)
    return Group(
        last_delivered=_text(group[b"last-delivered-id"]),
        lag=_number(group.get(b"lag")),
        lowest_pending=_text(pending[1]) if pending[0] else None,
    )


def _members(reply: Reply) -> dict[bytes, Reply]:
    assert isinstance(reply, list)
    return {name: value for name, value in zip(reply[::2], reply[1::2], strict=True) if isinstance(name, bytes)}


def _number(value: Reply) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: Reply) -> str:
    assert isinstance(value, bytes)
    return value.decode("ascii")
