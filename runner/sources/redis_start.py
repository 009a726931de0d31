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
    """What is known of a stream when its lease was taken.

    ``checkpoint`` is the one kept with the lease, or the one that this process remembers; None: there is none.
    ``was_owned``: somebody owned it before. ``was_absent``: this process has seen that there was no such stream.
    """

    checkpoint: str | None
    was_owned: bool
    was_absent: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group as the server shows it. ``entries_read`` is None where the server cannot tell."""

    last_delivered: str
    entries_read: int | None
    lag: int | None
    lowest_pending: str | None


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as the server shows it. ``entries_added`` is None before Redis 7."""

    length: int
    last_generated: str
    first: str | None
    entries_added: int | None
    group: Group | None


@dataclass(frozen=True, slots=True)
class Lost:
    """Entries that were trimmed before anybody read them: from ``first`` up to ``next_available``.

    ``total`` counts all that the group ever lost."""

    first: str
    next_available: str
    total: int


class CheckpointMissing(Exception):
    """The group is gone, and nobody knows how far it was: what happens is the user's policy."""


def read_inspection(reply: Sequence[Reply]) -> Stream:
    """What INSPECT has answered."""
    stream = _members(reply[1])
    first = stream[b"first-entry"]
    group = None if len(reply) < 3 else _group(_members(reply[2]), reply[3])
    return Stream(
        length=_number(stream[b"length"]) or 0,
        last_generated=_text(stream[b"last-generated-id"]),
        first=_text(first[0]) if isinstance(first, list) and first else None,
        entries_added=_number(stream.get(b"entries-added")),
        group=group,
    )


def first_checkpoint(stream: Stream, known: Known, starting: StartingPosition, timestamp: float | None) -> str:
    """The id to begin at when the group has to be made. Raises CheckpointMissing.

    The starting position counts only where nobody has ever read: later it would pass over what came meanwhile.
    """
    if known.was_absent:
        return FIRST_ID
    if known.checkpoint is not None:
        # Ids only grow: a stream that has not come as far as it had is another one under the same name.
        is_new = compare_ids(stream.last_generated, previous_id(known.checkpoint)) < 0
        return FIRST_ID if is_new else known.checkpoint
    if known.was_owned:
        raise CheckpointMissing
    match starting:
        case StartingPosition.TRIM_HORIZON:
            return FIRST_ID
        case StartingPosition.LATEST:
            return following_id(stream.last_generated)
        case StartingPosition.AT_TIMESTAMP:
            assert timestamp is not None
            return max(f"{int(timestamp * 1000)}-0", FIRST_ID, key=parse_id)


def checkpoint_of(group: Group) -> str:
    """The checkpoint of a group that was made elsewhere."""
    return group.lowest_pending or following_id(group.last_delivered)


def lost_entries(stream: Stream) -> Lost | None:
    """What the group never got, as far as the server's counters show it; they are there from Redis 7 on."""
    group = stream.group
    if group is None or group.entries_read is None or stream.entries_added is None:
        return None
    if stream.first is not None and compare_ids(stream.first, group.last_delivered) <= 0:
        return None  # what is trimmed goes from the beginning, and there something is left that was delivered
    total = stream.entries_added - group.entries_read - stream.length
    if total <= 0:
        return None
    next_available = stream.first or following_id(stream.last_generated)
    return Lost(following_id(group.last_delivered), next_available, total)


def _group(group: dict[bytes, Reply], pending: Reply) -> Group:
    assert isinstance(pending, list)
    return Group(
        last_delivered=_text(group[b"last-delivered-id"]),
        entries_read=_number(group.get(b"entries-read")),
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
