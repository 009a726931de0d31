"""Configurations of end-to-end tests as dicts: the parts that every test needs, the rest by keyword."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SESSION_TIMEOUT = "6s"
QUICK_BACKOFF = {"initial": "10ms", "maximum": "50ms"}


def http(url: str, **settings: Any) -> dict[str, Any]:
    """A function behind ``url``; ``settings`` are keys of its ``http`` section."""
    return {"http": {"url": url, "timeout": "10s", **settings}}


def python(handler: str, **settings: Any) -> dict[str, Any]:
    """A handler in the runner's process; ``settings`` are keys of its ``python`` section."""
    return {"python": {"handler": handler, "timeout": "10s", **settings}}


def from_kafka(bootstrap: str, topic: str, function: str, *, group: str | None = None, **keys: Any) -> dict[str, Any]:
    """A mapping from one topic; ``group`` defaults to the mapping's name, ``keys`` are the mapping's own."""
    kafka = {"bootstrap_servers": bootstrap, "topics": [topic], "session_timeout": SESSION_TIMEOUT}
    if group is not None:
        kafka["consumer_group_id"] = group
    return {"function": function, "source": {"kafka": kafka}, "retry_backoff": QUICK_BACKOFF, **keys}


def from_files(directory: Path, function: str, **keys: Any) -> dict[str, Any]:
    """A mapping from the partition files of ``directory``; ``keys`` are the mapping's own."""
    file = {"path": str(directory), "poll_interval": "50ms"}
    return {"function": function, "source": {"file": file}, "retry_backoff": QUICK_BACKOFF, **keys}


def dead_letters_to(topic: str, **kafka: Any) -> dict[str, Any]:
    """The ``destination_config`` of a Kafka topic."""
    return {"on_failure": {"kafka": {"topic": topic, **kafka}}}


def process(functions: Mapping[str, Any], mappings: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """The whole file but for ``admin``, which the harness adds."""
    return {"functions": dict(functions), "mappings": dict(mappings), **sections}
