"""One topic with the group that reads it: what was produced, and whether every promise about it was kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from e2e_support.configuration import dead_letters_to, from_kafka, process
from kafka_harness import oracle, placement, producing, topics
from kafka_harness.broker import Broker
from kafka_harness.child import ChildFailed
from kafka_harness.commit_watch import CommitWatch
from kafka_harness.journal import Call
from kafka_harness.producing import Item, Placed
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.topics import Consumed
from kafka_harness.waiting import until, until_async

PARTITIONS: Final = 8
FUNCTION: Final = "function"
REPEATED: Final = "partition let go with records settled beyond its checkpoint: they come again"


@dataclass
class Stream:
    """``group`` is the name of the mapping too. ``letters_topic`` is where dead letters go, None: nowhere."""

    kafka: Broker
    topic: str
    group: str
    letters_topic: str | None = None
    partitions: int = PARTITIONS
    placed: list[Placed] = field(default_factory=list)

    async def create(self) -> None:
        """Create the topics. Raises KafkaError."""
        await topics.create_topic(self.kafka.bootstrap, self.topic, partitions=self.partitions)
        if self.letters_topic is not None:
            await topics.create_topic(
                self.kafka.bootstrap, self.letters_topic, partitions=self.partitions, configs=topics.STAMPED_BY_BROKER
            )

    async def produce(self, items: Iterable[Item]) -> None:
        """Write ``items`` to the partitions that Java's producer would choose. Raises KafkaError."""
        place = placement.by_murmur2(self.partitions)
        self.placed += await producing.produce(self.kafka.bootstrap, self.topic, items, place=place)

    def mapping(self, *, source: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """The mapping's section of the configuration. ``source`` adds to what the Kafka source is told."""
        section = from_kafka(
            self.kafka.bootstrap, self.topic, FUNCTION, group=self.group, commit_interval="200ms", **options
        )
        section["source"]["kafka"].update(source or {})
        if self.letters_topic is not None:
            section["destination_config"] = dead_letters_to(self.letters_topic)
        return section

    def watch(self) -> CommitWatch:
        """The group's commits as seen from outside, while its block runs."""
        return CommitWatch(self.kafka.bootstrap, self.group)

    async def committed(self) -> int:
        """How many records the group's commits cover, by a look of its own."""
        return sum((await topics.committed_offsets(self.kafka.bootstrap, self.group)).values())

    async def caught_up(self, watch: CommitWatch, *, timeout: float = 60.0) -> None:
        """Wait until the group has committed the end of every partition: none is stuck."""
        ends = await topics.end_offsets(self.kafka.bootstrap, self.topic)
        await watch.until_committed(
            {f"{topic}-{number}": end for (topic, number), end in ends.items()}, timeout=timeout
        )

    async def letters(self) -> list[Consumed]:
        """All dead letters so far."""
        return [] if self.letters_topic is None else await topics.read_topic(self.kafka.bootstrap, self.letters_topic)

    async def assert_promises(
        self, watch: CommitWatch, calls: Sequence[Call], *, by: oracle.Unit, poison: bytes | None = None
    ) -> list[Consumed]:
        """Nothing lost, in order and without overlap ``by`` key or partition, no checkpoint too far, and dead letters
        of exactly the records whose value holds ``poison``, unchanged. Returns the dead letters.
        """
        letters = await self.letters()
        oracle.assert_calls_understood(calls)
        oracle.assert_nothing_lost(self.placed, calls, letters)
        oracle.assert_dead_letters_unchanged(self.placed, letters)
        oracle.assert_ordered(calls, by=by)
        oracle.assert_no_overlap(calls, by=by)
        watch.assert_safe(self.placed, calls, letters)
        expected = {each.origin for each in self.placed if poison is not None and poison in (each.value or b"")}
        assert {oracle.origin_of(letter) for letter in letters} == expected
        return letters


def configuration(function: Mapping[str, Any], *streams: tuple[Stream, Mapping[str, Any]]) -> dict[str, Any]:
    """A configuration with one function, as its section describes it, and a mapping for each stream."""
    return process({FUNCTION: function}, {stream.group: mapping for stream, mapping in streams})


def committed_records(watch: CommitWatch) -> int:
    """How many records the commits of the group cover, its topic having been written from offset 0 without markers."""
    return sum(watch.newest.values())


async def until_progress(
    watch: CommitWatch, runner: RunnerProcess, *, beyond: int | None = None, timeout: float = 30.0
) -> None:
    """Wait until more than ``beyond`` records (None: than now) are committed. Raises ChildFailed when it has ended."""
    least = committed_records(watch) if beyond is None else beyond

    def progressed() -> bool:
        if not runner.process.running:
            raise ChildFailed(f"{runner.name} ended with {runner.process.exit_code}:\n{runner.process.output()}")
        return committed_records(watch) > least

    await until(progressed, what=f"{runner.name} commits more than {least} records", timeout=timeout)


async def metric(runner: RunnerProcess, name: str, **labels: str) -> float:
    """The sum of a metric's samples; ``name`` is without the common prefix. Raises LookupError when there is none."""
    return (await runner.scrape()).value(f"stream_runner_{name}", **labels)


async def until_metric(runner: RunnerProcess, name: str, *, least: float, timeout: float = 30.0, **labels: str) -> None:
    """Wait until the metric is ``least`` or more."""

    async def reached() -> bool:
        return await metric(runner, name, **labels) >= least

    await until_async(reached, what=f"{runner.name} has {name} of {least:g}{labels}", timeout=timeout)


async def until_assigned(expected: Mapping[RunnerProcess, int], *, timeout: float = 30.0) -> None:
    """Wait until each runner holds so many partitions, all at one time."""

    async def assigned() -> bool:
        return all([await metric(each, "assigned_partitions") == number for each, number in expected.items()])

    wanted = {each.name: number for each, number in expected.items()}
    await until_async(assigned, what=f"partitions are assigned as {wanted}", timeout=timeout)


def announced(runner: RunnerProcess) -> dict[str, int]:
    """How many records of each ``topic-number`` the runner has said to come again, over all its lives."""
    numbers: dict[str, int] = {}
    for line in runner.logs():
        if line["event"] == REPEATED:
            partition = f"{line['topic']}-{line['partition']}"
            numbers[partition] = numbers.get(partition, 0) + line["repeated"]
    return numbers


def repeated(calls: Iterable[Call]) -> dict[str, int]:
    """How many records of each ``topic-number`` the function handled again."""
    numbers: dict[str, int] = {}
    for (partition, _offset), times in oracle.duplicates(calls).items():
        numbers[partition] = numbers.get(partition, 0) + times
    return numbers
