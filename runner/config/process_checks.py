"""What contradicts itself, or is risky, between the mappings and functions of one process."""

from __future__ import annotations

from runner.config.codes import Code
from runner.config.judgement import Judged, JudgedMapping, mappings
from runner.config.models import Config
from runner.config.reading import Reading
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


def _check_groups(judged: list[JudgedMapping]) -> None:
    owners: dict[tuple[str, str], JudgedMapping] = {}
    for mapping in judged:
        kafka = mapping.kafka
        if kafka is None:
            continue
        if not mapping.known("source.kafka.consumer_group_id", "source.kafka.bootstrap_servers"):
            continue
        # Two lists of bootstrap servers that have one in common are certainly of one cluster.
        groups = [(kafka.consumer_group_id, server.lower()) for server in kafka.bootstrap_servers]
        earlier = next((owners[group] for group in groups if group in owners), None)
        owners |= dict.fromkeys([group for group in groups if group not in owners], mapping)
        if earlier is not None:
            group = quoted(kafka.consumer_group_id)
            mapping.report(
                Code.GROUP_SHARED,
                "source.kafka.consumer_group_id",
                f"consumer group {group} of this cluster belongs to mapping {quoted(earlier.name)} already",
                "give each mapping a consumer_group_id of its own; without one, its name is used",
            )


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
