"""Which topics a cluster has, found out without bringing one into being."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient


async def existing_topics(admin: AIOKafkaAdminClient) -> set[str]:
    """The topics that the user of ``admin`` may describe. Raises aiokafka's errors.

    Always the full list: asking for one topic by its name would create it, by the client's default and the broker's.
    """
    return set(await admin.list_topics())


def suggest(name: str, names: Iterable[str]) -> str:
    """``did you mean 'orders'?`` for the closest of ``names``; empty when none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else ""
