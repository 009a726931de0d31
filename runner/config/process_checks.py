"""What contradicts itself, or is risky, between the mappings and functions of one process."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import NamedTuple

from runner.config.codes import Code
from runner.config.judgement import Judged, JudgedMapping, mappings
from runner.config.models import Config
from runner.config.reading import Reading
from runner.config.redis_source_checks import places_of
from runner.config.source_checks import checkpoint_file
from runner.config.units import format_size
from runner.config.wording import quoted


def check(config: Config, reading: Reading) -> None:
    """Report what contradicts itself, or is risky, in the process as a whole."""
    process = Judged(config, reading, ())
    judged = list(mappings(config, reading))
    _check_number_of_mappings(process)
    _check_unused_functions(process)
    _check_default_buffers(process, judged)
    _check_groups(judged)
    _check_checkpoint_files(judged)


def _check_number_of_mappings(process: Judged) -> None:
    if process.known("mappings") and process.written("mappings") and not process.config.mappings:
        if not any(path[:1] == ("mappings",) for path in process.reading.invalid):
            process.report(
                Code.NO_MAPPINGS, "mappings", "there are no mappings: nothing will run", "add one", points_at_key=True
            )
        return
    limit = process.config.limits.concurrency
    enabled = sum(mapping.enabled for mapping in process.config.mappings.values())
    if process.known("limits.concurrency") and enabled > limit:
        process.report(
            Code.TOO_MANY_MAPPINGS,
            "limits.concurrency",
            f"{enabled} enabled mappings are more than limits.concurrency {limit}: each needs an invocation of its own",
            "raise limits.concurrency, or disable mappings",
        )


def _check_unused_functions(process: Judged) -> None:
    # A mapping that cannot be read may be the one that uses it.
    if any(len(path) <= 3 and path[:1] in ((), ("mappings",)) for path in process.reading.invalid):
        return
    used = {mapping.function for mapping in process.config.mappings.values()}
    for name in process.config.functions:
        if name not in used:
            function = Judged(process.config, process.reading, ("functions", name))
            function.report(
                Code.FUNCTION_UNUSED, "", f"no mapping uses function {quoted(name)}", "remove it", points_at_key=True
            )


def _check_default_buffers(process: Judged, judged: list[JudgedMapping]) -> None:
    limit = process.config.limits.buffer_bytes
    unwritten = [mapping for mapping in judged if mapping.known("buffer") and not mapping.written("buffer.bytes")]
    over = [mapping for mapping in unwritten if mapping.mapping.buffer.bytes > limit]
    if over and process.known("limits.buffer_bytes"):
        size = format_size(over[0].mapping.buffer.bytes)
        process.report(
            Code.BUFFER_OVER_LIMIT,
            "limits.buffer_bytes",
            f"limits.buffer_bytes {format_size(limit)} is less than the {size} that buffer.bytes of mapping "
            f"{quoted(over[0].name)} is by default",
            "write a lower buffer.bytes in every such mapping, or raise limits.buffer_bytes",
        )


class _Group(NamedTuple):
    """A consumer group of ``mapping``. Two of one kind with one name that share a place are certainly the same."""

    mapping: JudgedMapping
    kind: str
    key: str
    name: str
    places: Collection[Hashable]


def _check_groups(judged: list[JudgedMapping]) -> None:
    owners: dict[tuple[str, str, Hashable], JudgedMapping] = {}
    for group in [each for mapping in judged for each in (_kafka_group(mapping), _redis_group(mapping)) if each]:
        claims = [(group.kind, group.name, place) for place in group.places]
        earlier = next((owners[claim] for claim in claims if claim in owners), None)
        owners |= dict.fromkeys([claim for claim in claims if claim not in owners], group.mapping)
        if earlier is not None:
            key = group.key.rpartition(".")[2]
            group.mapping.report(
                Code.GROUP_SHARED,
                group.key,
                f"consumer group {quoted(group.name)} of this {group.kind} belongs to mapping {quoted(earlier.name)} "
                "already",
                f"give each mapping a {key} of its own; without one, its name is used",
            )


def _kafka_group(mapping: JudgedMapping) -> _Group | None:
    kafka = mapping.kafka
    key = "source.kafka.consumer_group_id"
    if kafka is None or not mapping.known(key, "source.kafka.bootstrap_servers"):
        return None
    servers = [server.lower() for server in kafka.bootstrap_servers]
    return _Group(mapping, "cluster", key, kafka.consumer_group_id, servers)


def _redis_group(mapping: JudgedMapping) -> _Group | None:
    """Whichever its streams are: who shares a group shares out the streams."""
    redis = mapping.redis_streams
    key = "source.redis_streams.group"
    if redis is None or not mapping.known(key, "source.redis_streams.url"):
        return None
    return _Group(mapping, "Redis server", key, redis.group, places_of(redis.url))


def _check_checkpoint_files(judged: list[JudgedMapping]) -> None:
    owners: dict[object, JudgedMapping] = {}
    for mapping in judged:
        file = mapping.file
        if file is None or not mapping.known("source.file.path", "source.file.checkpoint_file"):
            continue
        earlier = owners.setdefault(checkpoint_file(mapping, file), mapping)
        if earlier is not mapping:
            mapping.report(
                Code.CHECKPOINT_FILE_SHARED,
                "source.file.checkpoint_file",
                f"the checkpoints of mapping {quoted(earlier.name)} are in this file already",
                "give each mapping a checkpoint_file of its own; without one, it has its own",
            )
