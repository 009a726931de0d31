"""Whether servers may evict what is kept in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import anyio

from runner.clients.redis import RedisClient
from runner.clients.redis_errors import RedisFailure

_KEEPS_ALL: Final = "noeviction"
_MOST_NAMED: Final = 3


async def eviction_warnings(client: RedisClient, streams: Sequence[str], timeout: float) -> list[str]:
    """What people should know of how the servers of ``streams`` treat keys when they are full, one text for each
    finding; nothing when all keep them. Takes ``timeout`` seconds; never fails because a server does not tell."""
    # Outside of a cluster one server has all streams: any of them will do.
    asked = streams if client.is_cluster else streams[:1]
    found: dict[str, str | None] = dict.fromkeys(asked)

    async def ask(stream: str) -> None:
        found[stream] = await _finding(client, stream, timeout)

    async with anyio.create_task_group() as questions:
        for stream in asked:
            questions.start_soon(ask, stream)
    streams_of: defaultdict[str, list[str]] = defaultdict(list)
    for stream, finding in found.items():
        if finding is not None:
            streams_of[finding].append(stream)
    return [f"{_where(client, names)}: {finding}" for finding, names in streams_of.items()]


async def _finding(client: RedisClient, stream: str, timeout: float) -> str | None:
    try:
        info = await client.execute("INFO", "memory", key=stream.encode(), timeout=timeout)
    except RedisFailure as failure:
        return f"whether the server evicts keys when it is full could not be checked: {failure}; {_ADVICE}"
    assert isinstance(info, bytes)
    policy = _policy(info)
    if policy is None:
        return f"the server does not say whether it evicts keys when it is full; {_ADVICE}"
    if policy == _KEEPS_ALL:
        return None
    what = "leases, streams and groups: records are lost"
    if policy.startswith("volatile-"):
        what = "streams that have a time to live, whose records are lost, and marks of stored dead letters"
    return f"maxmemory-policy is {policy}: a full server evicts {what}; {_ADVICE}"


_ADVICE: Final = f"set maxmemory-policy {_KEEPS_ALL}"


def _policy(info: bytes) -> str | None:
    for line in info.splitlines():
        name, _, value = line.partition(b":")
        if name == b"maxmemory_policy":
            return value.decode("utf-8", "replace")
    return None


def _where(client: RedisClient, streams: Sequence[str]) -> str:
    if not client.is_cluster:
        return client.description
    more = f" and {len(streams) - _MOST_NAMED} more" if len(streams) > _MOST_NAMED else ""
    return f"{client.description}, the nodes of {', '.join(streams[:_MOST_NAMED])}{more}"
