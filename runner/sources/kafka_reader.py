"""Reads the assigned partitions of one consumer so that an error of one loses no record of another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedCodecError,
)

from runner.clients.kafka_records import ParsedRecord, fetching_failed, is_buffered
from runner.model import Fetched, Problem, Reason
from runner.ports import SourceListener
from runner.sources.kafka_partition import AssignedPartition

MAXIMUM_RECORDS = 500  # a fetch: small enough for the processor's caches, large enough to spread a fetch's cost
_WAIT_MS = 1000
_HOLES_PERIOD = 0.2
_STUCK_AFTER = 10.0
_FRESH_MS = 2000  # a fetch that was answered so lately tells of now
_HUNT_PAUSE = 0.05  # seconds between rounds of reading partition by partition
_HUNT_QUIET = 5.0  # seconds without an error after which reading in one call is resumed
_FIRST_RETRY = 5.0  # seconds until a stopped partition is tried again; doubled each time
_LAST_RETRY = 300.0

_RESTORE = (
    "restore the segment from a replica, or move the group's committed offset past the damage; "
    "reading is tried again by itself"
)
_UNREADABLE = (CorruptRecordException, RecordTooLargeError, UnsupportedCodecError)


class Reader:
    """Calls the consumer's ``getmany``, one call at a time, never cancelled.

    When that raises, it has dropped records of other partitions whose position it had already moved. So after any
    error every partition is set back to what was really handed over, and they are read one by one, record by record
    where needed, until the place that cannot be read is found: that partition stops there and the others go on.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        assigned: Mapping[TopicPartition, AssignedPartition],
        listener: SourceListener,
        *,
        continue_after_loss: bool,
    ) -> None:
        self._consumer = consumer
        self._assigned = assigned
        self._listener = listener
        self._continue_after_loss = continue_after_loss
        self._hunt_until: float | None = None
        self._look_for_holes_at = 0.0
        self._now: Callable[[], float] = asyncio.get_running_loop().time

    async def poll(self) -> list[tuple[AssignedPartition, Fetched]]:
        """Records with the assignment that they belong to. Raises those of aiokafka's errors that concern them all."""
        self._retry_stopped()
        if (failure := fetching_failed(self._consumer)) is not None:
            raise KafkaError(f"the client has stopped fetching: {failure!r}") from failure
        try:
            if self._hunt_until is None:
                return await self._read_all()
            return await self._read_singly()
        except ConsumerStoppedError:
            return []
        except IllegalStateError:  # the assignment changed under our hands; the next call sees the new one
            return []

    async def _read_all(self) -> list[tuple[AssignedPartition, Fetched]]:
        try:
            batches = await self._consumer.getmany(timeout_ms=_WAIT_MS, max_records=MAXIMUM_RECORDS)
        except ConsumerStoppedError:
            raise
        except Exception as error:
            return await self._recover(error)
        fetched = [await self._take(tp, messages) for tp, messages in batches.items()]
        if self._now() >= self._look_for_holes_at:
            self._look_for_holes_at = self._now() + _HOLES_PERIOD
            fetched += [await self._take(state.tp, []) for state in self._behind() if state.tp not in batches]
            self._look_for_stuck()
        return [item for item in fetched if item is not None]

    def _behind(self) -> list[AssignedPartition]:
        """Partitions that may have been moved on without a record: by markers, aborted transactions, holes."""
        return [
            state
            for state in self._assigned.values()
            if state.is_fetched
            and (end := self._consumer.last_stable_offset(state.tp)) is not None
            and state.next_offset < end
            and not is_buffered(self._consumer, state.tp)
        ]

    def _look_for_stuck(self) -> None:
        """Damage in a batch's length makes the broker see the end there: it answers, and hands out nothing any more."""
        now = self._now()
        for state in self._behind():
            if state.stuck_since is None:
                state.stuck_since = now
            polled_ms = self._consumer.last_poll_timestamp(state.tp)
            if now - state.stuck_since > _STUCK_AFTER and time.time() * 1000 - polled_ms < _FRESH_MS:
                self._stop(state, _stuck(state, self._consumer.last_stable_offset(state.tp)))

    async def _take(self, tp: TopicPartition, messages: list[ParsedRecord]) -> tuple[AssignedPartition, Fetched] | None:
        """None: nothing new, or not to be read now."""
        state = self._assigned.get(tp)
        if state is None:  # its start is still looked up, and then sought
            return None
        if not state.is_fetched:
            self._consumer.seek(tp, state.next_offset)
            return None
        position = await self._consumer.position(tp)
        if not messages and position <= state.next_offset:
            return None
        chunk = state.take(messages, position)
        if state.is_at_target:
            self._consumer.pause(tp)
        return state, chunk

    # --- after an error

    async def _recover(self, error: Exception) -> list[tuple[AssignedPartition, Fetched]]:
        self._set_back()
        if isinstance(error, OffsetOutOfRangeError):
            return await self._handle_loss(error.args[0])
        if isinstance(error, NoOffsetForPartitionError):
            return []  # of a partition whose start is still being looked up
        if isinstance(error, KafkaError) and not isinstance(error, _UNREADABLE):
            raise error
        self._hunt_until = self._now() + _HUNT_QUIET
        return []

    def _set_back(self) -> None:
        for state in self._assigned.values():
            if state.problem is None:
                self._consumer.seek(state.tp, state.next_offset)

    async def _read_singly(self) -> list[tuple[AssignedPartition, Fetched]]:
        fetched: list[tuple[AssignedPartition, Fetched]] = []
        for state in list(self._assigned.values()):
            if not state.is_fetched:
                continue
            try:
                batches = await self._consumer.getmany(
                    state.tp, timeout_ms=0, max_records=1 if state.is_suspect else MAXIMUM_RECORDS
                )
            except ConsumerStoppedError:
                raise
            except Exception as error:
                fetched += await self._suspect(state, error)
                continue
            item = await self._take(state.tp, batches.get(state.tp, []))
            if item is not None:
                fetched.append(item)
        assert self._hunt_until is not None
        if self._now() >= self._hunt_until:
            self._hunt_until = None
            for state in self._assigned.values():
                state.is_suspect = False
        if not fetched:
            await asyncio.sleep(_HUNT_PAUSE)
        return fetched

    async def _suspect(self, state: AssignedPartition, error: Exception) -> list[tuple[AssignedPartition, Fetched]]:
        if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError) or (
            isinstance(error, KafkaError) and not isinstance(error, _UNREADABLE)
        ):
            return await self._recover(error)
        self._consumer.seek(state.tp, state.next_offset)
        self._hunt_until = self._now() + _HUNT_QUIET
        if not state.is_suspect:
            state.is_suspect = True
            return []
        self._stop(
            state,
            Problem(
                Reason.EVENT_SOURCE_UNREADABLE,
                f"the batch at offset {state.next_offset} cannot be read: {type(error).__name__}: {error}",
                _RESTORE,
            ),
        )
        return []

    def _stop(self, state: AssignedPartition, problem: Problem) -> None:
        state.is_suspect = False
        state.stuck_since = None
        state.problem = problem
        state.retry_at = self._now() + min(_FIRST_RETRY * 2.0**state.retries, _LAST_RETRY)
        state.retries += 1
        self._consumer.pause(state.tp)
        self._listener.partition_problem(state.partition, problem)

    def _retry_stopped(self) -> None:
        for state in self._assigned.values():
            if state.problem is not None and self._now() >= state.retry_at:
                was = state.problem
                state.problem = None
                if was.reason is Reason.EVENT_SOURCE_UNREADABLE:
                    state.is_suspect = True
                    self._hunt_until = self._now() + _HUNT_QUIET
                self._consumer.seek(state.tp, state.next_offset)
                if not state.is_paused:
                    self._consumer.resume(state.tp)

    def note_progress(self, state: AssignedPartition) -> None:
        """Records came from a partition that had been stopped."""
        if state.retries and state.problem is None:
            state.retries = 0
            self._listener.partition_problem(state.partition, None)

    # --- lost records

    async def _handle_loss(self, positions: Mapping[TopicPartition, int]) -> list[tuple[AssignedPartition, Fetched]]:
        fetched: list[tuple[AssignedPartition, Fetched]] = []
        # One that is stopped may be heard of once more, from a fetch that was under way.
        states = [state for tp in positions if (state := self._assigned.get(tp)) is not None and state.problem is None]
        earliest = await self._consumer.beginning_offsets([state.tp for state in states])
        for state in states:
            available = earliest[state.tp]
            lost = available - state.next_offset
            if not self._continue_after_loss:
                self._stop(state, _loss(state, available, lost))
                continue
            self._consumer.seek(state.tp, available)
            self._listener.data_lost(state.partition, state.next_offset, available, lost if lost > 0 else None)
            fetched.append((state, state.take([], available)))
        return fetched


def _loss(state: AssignedPartition, available: int, lost: int) -> Problem:
    if lost > 0:
        what = f"records from offset {state.next_offset} to {available - 1} are gone; the earliest left is {available}"
    else:
        what = (
            f"offset {state.next_offset} is beyond the end: the topic was truncated or made anew; "
            f"the earliest record is {available}"
        )
    return Problem(
        Reason.DATA_LOSS,
        what,
        "set on_data_loss: continue to go on at the earliest record, or move the committed offset",
    )


def _stuck(state: AssignedPartition, end: int) -> Problem:
    return Problem(
        Reason.EVENT_SOURCE_UNREADABLE,
        f"the broker hands out nothing from offset {state.next_offset} on, though the partition ends at {end}",
        _RESTORE,
    )
