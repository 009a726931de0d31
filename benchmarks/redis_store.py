"""The streams that the Redis benchmark reads, and the server's own word on what was done with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

KEY_FIELD = "customer"
VALUE_FIELD = "body"
_KEYS = 1_000
_AT_ONCE = 1_000


class Store:
    """One server, over one connection. Raises RedisError."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = Redis.from_url(url, protocol=2)

    def close(self) -> None:
        self._client.close()

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the server so far, all its threads."""
        info: Any = self._client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def fill(self, stream: str, records: int, size: int) -> None:
        """Add entries with a key and a value, which have ``size`` bytes together."""
        for start in range(0, records, _AT_ONCE):
            with self._client.pipeline(transaction=False) as pipeline:
                for number in range(start, min(start + _AT_ONCE, records)):
                    key = b"%08d" % (number % _KEYS)
                    pipeline.xadd(stream, {KEY_FIELD: key, VALUE_FIELD: b"x" * (size - len(key))})
                pipeline.execute()

    def add(self, stream: str) -> str:
        """Add a small entry; returns its id."""
        entry_id: Any = self._client.xadd(stream, {KEY_FIELD: "1", VALUE_FIELD: "1"})
        return str(entry_id, "ascii")

    def make_group(self, stream: str, group: str) -> None:
        """The stream as well, where there is none."""
        self._client.xgroup_create(stream, group, "0", mkstream=True)

    def remove(self, *streams: str) -> None:
        self._client.delete(*streams)

    def state(self, stream: str, group: str) -> tuple[int, int, int]:
        """How many entries the group was given, how many of them are pending, and how many it was not given yet."""
        groups: Any = self._client.xinfo_groups(stream)
        (found,) = [each for each in groups if each["name"] == group.encode()]
        return found["entries-read"], found["pending"], found["lag"]

    @contextmanager
    def read_through(self, stream: str, group: str, records: int) -> Iterator[None]:
        """Within it ``group`` reads ``stream``. At its end the group must have been given all of the ``records`` once
        and have acknowledged them; then it is removed. Raises AssertionError."""
        yield
        state = self.state(stream, group)
        assert state == (records, 0, 0), f"of {records} (given, pending, not given) are {state}"
        self._client.xgroup_destroy(stream, group)
