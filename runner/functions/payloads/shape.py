"""How an event spells where its records come from: all in which the events of different sources differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runner.model import Partition


@dataclass(frozen=True, eq=False, slots=True)
class EventShape:
    """Names of members. Compared by identity, so that it is a cheap part of a cache's key.

    ``source`` is the event's, for what ``Invocation.source`` says. ``topic``, ``number`` (None where the topic alone is
    the partition) and ``position`` are a record's. ``group`` and ``position`` are those of the identifier by which a
    function names a record that failed.
    """

    source: str
    topic: str
    number: str | None
    position: str
    group: str

    def group_of(self, partition: Partition) -> str:
        """Under what name the event holds the partition's records, and an identifier names it."""
        return json_text(partition.topic if self.number is None else partition.identifier)

    def place_of(self, partition: Partition) -> dict[str, str | int]:
        """The members of a record that say which partition it is of."""
        place: dict[str, str | int] = {self.topic: json_text(partition.topic)}
        if self.number is not None:
            place[self.number] = partition.number
        return place


KAFKA_SHAPE: Final = EventShape(
    source="bootstrapServers", topic="topic", number="partition", position="offset", group="partition"
)
STREAM_SHAPE: Final = EventShape(source="servers", topic="stream", number=None, position="id", group="stream")

_SHAPES: Final = {"SelfManagedKafka": KAFKA_SHAPE, "File": KAFKA_SHAPE, "RedisStreams": STREAM_SHAPE}


def shape_of(event_source: str) -> EventShape:
    """The shape of the events whose ``eventSource`` this is. Raises ValueError for a word that no source has."""
    shape = _SHAPES.get(event_source)
    if shape is None:
        raise ValueError(f"no event has the eventSource {event_source!r}: it is one of {', '.join(_SHAPES)}")
    return shape


def json_text(text: str) -> str:
    """JSON holds Unicode: what is none (a lone surrogate) becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
