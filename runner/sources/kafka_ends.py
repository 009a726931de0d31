"""How far the assigned partitions are from their ends, as the fetches tell, or as the broker says when asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from runner.model import Backlog
from runner.sources.kafka_partition import AssignedPartition

_PERIOD = 5.0  # seconds between two questions; an answer must not be older than ten
_TIMEOUT = 5.0


def backlog_of(consumer: AIOKafkaConsumer, state: AssignedPartition, now: float) -> Backlog | None:
    """By the newest that is known of the end; None when nothing was ever heard of it. ``now`` is in seconds."""
    end, learnt_at = state.end, state.end_learnt_at
    polled_ms = consumer.last_poll_timestamp(state.tp)
    if polled_ms is not None:
        # The client stamps by the wall clock, which may be set meanwhile: only the difference is used.
        polled_at = now - (time.time() - polled_ms / 1000.0)
        if polled_at >= learnt_at:
            end, learnt_at = consumer.last_stable_offset(state.tp), polled_at
    if end is None:
        return None
    return Backlog(max(0, end - state.next_offset), learnt_at)


async def watch_ends(
    consumer: AIOKafkaConsumer, assigned: Mapping[TopicPartition, AssignedPartition], now: Callable[[], float]
) -> None:
    """For ever, ask for the ends that no fetch tells: those of paused and stopped partitions."""
    while True:
        await asyncio.sleep(_PERIOD)
        resting = [state for state in assigned.values() if not state.is_fetched]
        if not resting:
            continue
        try:
            async with asyncio.timeout(_TIMEOUT):
                ends = await consumer.end_offsets([state.tp for state in resting])
        except (KafkaError, TimeoutError):
            continue  # then the end is not known, and the lag says so by growing
        for state in resting:
            state.end, state.end_learnt_at = ends[state.tp], now()
