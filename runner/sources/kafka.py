"""Kafka topics as a source: one consumer group member, by aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, for_code
from aiokafka.structs import OffsetAndMetadata

from runner.clients.kafka import KafkaConnection, build_admin, build_consumer, commit, stop_client
from runner.clients.kafka_errors import is_retriable
from runner.clients.kafka_groups import committed_offsets
from runner.clients.kafka_probe import diagnose
from runner.clients.kafka_records import hand_over_parsed_records
from runner.clients.kafka_topics import existing_topics, suggest
from runner.model import Backlog, Fetched, Partition, Position, Problem, Reason
from runner.ports import CheckpointFailed, CheckpointFenced, SourceError, SourceListener
from runner.sources.kafka_ends import backlog_of, watch_ends
from runner.sources.kafka_evictions import Evictions
from runner.sources.kafka_partition import AssignedPartition
from runner.sources.kafka_reader import Reader
from runner.sources.kafka_start import resolve_starts
from runner.sources.side_by_side import spawn
from runner.sources.starting import StartingPosition

_MARGIN = 10.0  # seconds that each time limit leaves the one inside it
_HEARTBEAT_INTERVAL = 3.0
_FETCH_TURN = 1.0
_PROBE_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 8.0
_RETRY_PAUSE = 0.5
_METADATA_MAX_AGE_MS = 15_000  # how soon new partitions are seen
_FETCH_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KafkaSourceSettings:
    """Times are in seconds, sizes in bytes."""

    connection: KafkaConnection
    topics: tuple[str, ...]
    group: str
    drain_timeout: float
    commit_timeout: float
    starting: StartingPosition = StartingPosition.TRIM_HORIZON
    starting_timestamp: float | None = None
    continue_after_loss: bool = False
    group_instance_id: str | None = None
    session_timeout: float = 45.0
    maximum_partition_fetch: int = 1024 * 1024
    stop_at_end: bool = False

    @property
    def heartbeat_interval(self) -> float:
        return min(self.session_timeout / 3, _HEARTBEAT_INTERVAL)

    @property
    def lease(self) -> float:
        """How long a process may stand still and yet be sure of its partitions: the group counts the session from the
        last heartbeat, which may be an interval old when the process stops."""
        return self.session_timeout - self.heartbeat_interval

    @property
    def rebalance_timeout(self) -> float:
        """A revoke drains and commits within it; else the group goes on without us."""
        return self.drain_timeout + self.commit_timeout + _MARGIN

    @property
    def request_timeout(self) -> float:
        """The join request waits as long as the slowest member's revoke takes."""
        return max(self.rebalance_timeout, self.session_timeout) + _MARGIN


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """A ports.Source.

    aiokafka calls back in its coordinator's task, during which it sends no heartbeat after a join: so a new assignment
    is only noted there, and its start positions are looked up, committed and sought in a task of our own. Until then
    its partitions are paused, and what still arrives of them is passed over.
    """

    def __init__(self, settings: KafkaSourceSettings, *, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._reader: Reader | None = None
        self._listener: SourceListener | None = None
        self._assigned: dict[TopicPartition, AssignedPartition] = {}
        self._metadata: Mapping[str, str] = {}
        self._targets: Mapping[TopicPartition, int] = {}
        self._poll: asyncio.Task[list[tuple[AssignedPartition, Fetched]]] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._failure: Problem | None = None
        self._has_joined = False
        self._is_assigned = False  # between an assignment that is ready and its revocation
        self._evictions = Evictions(settings.group, settings.group_instance_id)

    @property
    def description(self) -> str:
        return ",".join(self._settings.connection.bootstrap_servers)

    @property
    def group(self) -> str:
        return self._settings.group

    @property
    def joined(self) -> bool:
        return self._has_joined

    @property
    def caught_up(self) -> bool:
        return (
            self._settings.stop_at_end
            and self._is_assigned
            and all(state.is_at_target for state in self._assigned.values())
        )

    # --- opening

    async def open(self, listener: SourceListener) -> None:
        self._listener = listener
        try:
            await self._open()
        except (KafkaError, OSError) as error:
            raise SourceError(await self._diagnose(error)) from error

    async def _open(self) -> None:
        settings = self._settings
        request_timeout_ms = int(settings.request_timeout * 1000)
        self._admin = build_admin(settings.connection, request_timeout_ms=request_timeout_ms)
        await self._admin.start()
        sizes = await self._topic_sizes(self._admin)
        consumer = self._consumer = build_consumer(settings.connection, **self._consumer_options())
        await consumer.start()
        hand_over_parsed_records(consumer)
        assert self._listener is not None
        self._reader = Reader(
            consumer, self._assigned, self._listener, continue_after_loss=settings.continue_after_loss
        )
        if settings.stop_at_end:
            self._targets = await consumer.end_offsets(
                [TopicPartition(topic, number) for topic, size in sizes.items() for number in range(size)]
            )
        consumer.subscribe(topics=list(settings.topics), listener=self)
        self._watching = spawn(watch_ends(consumer, self._assigned, self._now), self._fail)

    def _consumer_options(self) -> dict[str, Any]:
        settings = self._settings
        # The assignor keeps its state in its class, and each consumer of this process needs its own.
        assignor = type("StickyAssignor", (StickyPartitionAssignor,), {})
        return {
            "group_id": settings.group,
            "group_instance_id": settings.group_instance_id,
            "session_timeout_ms": int(settings.session_timeout * 1000),
            "heartbeat_interval_ms": int(settings.heartbeat_interval * 1000),
            "rebalance_timeout_ms": int(settings.rebalance_timeout * 1000),
            "max_poll_interval_ms": int(max(300.0, 2 * settings.rebalance_timeout) * 1000),
            "request_timeout_ms": int(settings.request_timeout * 1000),
            "metadata_max_age_ms": _METADATA_MAX_AGE_MS,
            "partition_assignment_strategy": (assignor,),
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "fetch_max_bytes": max(_FETCH_MAX_BYTES, settings.maximum_partition_fetch),
            "max_partition_fetch_bytes": settings.maximum_partition_fetch,
            "consumer_timeout_ms": 1000,
        }

    async def _topic_sizes(self, admin: AIOKafkaAdminClient) -> dict[str, int]:
        """How many partitions each topic has. Raises SourceError when one is missing, and aiokafka's errors."""
        names = await existing_topics(admin)
        missing = [topic for topic in self._settings.topics if topic not in names]
        if missing:
            hints = [hint for topic in missing if (hint := suggest(topic, names))]
            raise SourceError(
                Problem(
                    Reason.EVENT_SOURCE_NOT_FOUND,
                    f"no topic {', '.join(map(repr, missing))} on {self.description}, or no permission to describe it",
                    "; ".join([*hints, "topics are never created by Stream Runner"]),
                )
            )
        described = await admin.describe_topics(list(self._settings.topics))
        for topic in described:
            if topic["error_code"]:
                raise for_code(topic["error_code"])(topic["topic"])
        return {topic["topic"]: len(topic["partitions"]) for topic in described}

    async def _diagnose(self, error: BaseException) -> Problem:
        return await diagnose(error, self._settings.connection, None, _PROBE_TIMEOUT)

    def _fail(self, problem: Problem) -> None:
        self._failure = problem

    # --- assignments (aiokafka's callbacks)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        assert self._consumer is not None
        self._consumer.pause(*assigned)
        self._starting = spawn(self._start(frozenset(assigned)), self._fail)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        self._is_assigned = False
        if self._has_joined and not self._is_member:
            self._failure = self._evictions.note(self._now()) or self._failure
        assert self._listener is not None
        try:
            await self._listener.revoked([state.partition for state in self._assigned.values()])
        except Exception as error:
            # aiokafka would log and forget it, and the group would go on as if all were well.
            self._failure = Problem(Reason.INTERNAL_ERROR, f"letting partitions go failed: {error!r}")
            raise
        finally:
            self._assigned.clear()

    @property
    def _is_member(self) -> bool:
        """Without a generation the broker does not know us (any more)."""
        return self._consumer is not None and self._consumer._coordinator.generation >= 0  # noqa: SLF001

    async def _start(self, partitions: Collection[TopicPartition]) -> None:
        """Look up, commit and seek the start of each partition; only then it is ours to read."""
        assert self._listener is not None
        while True:
            try:
                await self._start_once(partitions)
            except (CommitFailedError, IllegalStateError):
                return  # the group has rebalanced since: another assignment comes
            except SourceError as error:
                self._failure = error.problem
                return
            except KafkaError as error:
                if not is_retriable(error):
                    self._failure = await self._diagnose(error)
                    return
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                self._has_joined = self._is_assigned = True
                self._listener.assigned([state.partition for state in self._assigned.values()])
                return

    async def _start_once(self, partitions: Collection[TopicPartition]) -> None:
        consumer, admin = self._consumer, self._admin
        assert consumer is not None
        assert admin is not None
        # Before anything else: a topic that was deleted leaves us without partitions, and says no more.
        sizes = await self._topic_sizes(admin)
        if not partitions:
            return
        settings = self._settings
        starts = await resolve_starts(
            consumer,
            partitions,
            await committed_offsets(admin, settings.group),
            sizes,
            settings.starting,
            settings.starting_timestamp,
        )
        targets = dict(self._targets)
        if settings.stop_at_end and (unknown := [tp for tp in partitions if tp not in targets]):
            targets.update(await consumer.end_offsets(unknown))
        if starts.first:
            if not self._is_member:
                raise CommitFailedError("put out of the group meanwhile")
            await consumer.commit(dict(starts.first))
        self._metadata = starts.metadata
        for tp, start in starts.positions.items():
            state = self._assigned[tp] = AssignedPartition(tp, start, targets.get(tp))
            consumer.seek(tp, start)
            if state.is_fetched:
                consumer.resume(tp)

    # --- reading

    async def fetch(self) -> Sequence[Fetched]:
        if self._failure is not None:
            raise SourceError(self._failure)
        assert self._reader is not None
        if self._poll is None:
            self._poll = asyncio.get_running_loop().create_task(self._reader.poll())
        # The call to the client is never cancelled: cancelling it would leak a count inside and with it switch off the
        # client's own check that it is polled.
        done, _ = await asyncio.wait({self._poll}, timeout=_FETCH_TURN)
        if not done:
            return ()
        poll, self._poll = self._poll, None
        try:
            fetched = poll.result()
        except KafkaError as error:
            raise SourceError(await self._diagnose(error)) from error
        current = []
        for state, chunk in fetched:
            if self._assigned.get(state.tp) is state:
                self._reader.note_progress(state)
                current.append(chunk)
        return current

    def pause(self, partition: Partition) -> None:
        state = self._state_of(partition)
        if state is not None and self._consumer is not None:
            state.is_paused = True
            self._consumer.pause(state.tp)

    def resume(self, partition: Partition) -> None:
        state = self._state_of(partition)
        if state is not None and self._consumer is not None:
            state.is_paused = False
            if state.is_fetched:
                self._consumer.resume(state.tp)

    def _state_of(self, partition: Partition) -> AssignedPartition | None:
        return self._assigned.get(TopicPartition(*partition))

    # --- checkpoints

    async def checkpoint(self, positions: Mapping[Partition, Position]) -> None:
        consumer = self._consumer
        assert consumer is not None
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for partition, position in positions.items():
            assert isinstance(position, int)
            if self._state_of(partition) is None:
                raise CheckpointFenced(f"{partition} is not assigned to this member any more")
            offsets[TopicPartition(*partition)] = OffsetAndMetadata(position, self._metadata[partition.topic])
        # Without a generation the broker would take the commit as one from outside the group, whoever owns what.
        if not self._is_member:
            raise CheckpointFenced("this member is not in the group any more")
        try:
            await commit(consumer, offsets)
        except (CommitFailedError, IllegalStateError) as error:
            raise CheckpointFenced(str(error)) from error
        except KafkaError as error:
            raise CheckpointFailed(f"{type(error).__name__}: {error}") from error

    # --- the end

    def backlog(self, partition: Partition) -> Backlog | None:
        state = self._state_of(partition)
        if state is None or self._consumer is None:
            return None
        return backlog_of(self._consumer, state, self._now())

    # --- closing

    async def close(self) -> None:
        tasks = [task for task in (self._watching, self._starting) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        clients = [client for client in (self._consumer, self._admin) if client is not None]
        await asyncio.gather(*(stop_client(client, _CLOSE_TIMEOUT) for client in clients))
        self._consumer = self._admin = None
        if self._poll is not None:
            # The stopped client lets it go by itself.
            await asyncio.wait({self._poll}, timeout=_FETCH_TURN)
            self._poll.cancel()
            await asyncio.wait({self._poll})
            if not self._poll.cancelled():
                self._poll.exception()
            self._poll = None
        self._assigned.clear()
