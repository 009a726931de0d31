"""What contradicts itself, or is risky, in how one mapping batches, retries and stops."""

from __future__ import annotations

from typing import Final

from runner.config.codes import Code
from runner.config.functions import HttpPayload
from runner.config.judgement import JudgedMapping
from runner.config.mappings import StartingPosition
from runner.config.sources import RedisDelivery
from runner.config.units import format_duration, format_size
from runner.config.wording import quoted
from runner.core.lanes import Ordering

_FOR_EVER: Final = -1


def check(mapping: JudgedMapping) -> None:
    """Report what contradicts itself, or is risky, in ``mapping``."""
    for each in (
        _check_function,
        _check_starting_position,
        _check_batch,
        _check_payload,
        _check_ordering,
        _check_concurrency,
        _check_buffer,
        _check_backoff,
        _check_giving_up,
        _check_drain,
        _check_raw,
    ):
        each(mapping)


def _check_function(mapping: JudgedMapping) -> None:
    if not mapping.known("function"):
        return
    name = mapping.mapping.function
    # A function that is written but invalid has been reported at its own place.
    if ("functions", name) in mapping.reading.places or not mapping.reading.known(("functions",)):
        return
    near = mapping.reading.suggest(name, mapping.config.functions)
    hint = f"did you mean {quoted(near)}?" if near else "add it to 'functions'"
    mapping.report(Code.FUNCTION_UNKNOWN, "function", f"there is no function {quoted(name)}", hint)


def _check_starting_position(mapping: JudgedMapping) -> None:
    key = "starting_position_timestamp"
    if not mapping.known("starting_position"):
        return
    at_timestamp = mapping.mapping.starting_position is StartingPosition.AT_TIMESTAMP
    if at_timestamp and mapping.known(key) and mapping.mapping.starting_position_timestamp is None:
        mapping.report(
            Code.TIMESTAMP_MISMATCH,
            "starting_position",
            f"starting_position at_timestamp without {key}",
            f"add {key}, such as 2025-01-31T08:00:00Z",
        )
    elif not at_timestamp and mapping.written(key):
        mapping.report(
            Code.TIMESTAMP_MISMATCH,
            key,
            f"{key} has a meaning only with starting_position: at_timestamp",
            "write starting_position: at_timestamp, or remove the timestamp",
            points_at_key=True,
        )


def _check_batch(mapping: JudgedMapping) -> None:
    config = mapping.mapping
    if mapping.known("batch_size", "buffer.records") and config.batch_size > config.buffer.records:
        mapping.report(
            Code.BATCH_OVER_BUFFER,
            "batch_size" if mapping.written("batch_size") else "buffer.records",
            f"batch_size {config.batch_size} is more than the buffer holds: {config.buffer.records} records",
            "no batch could fill: lower batch_size, or raise buffer.records",
        )
    if mapping.known("batch_size", "maximum_ahead") and config.batch_size > config.maximum_ahead:
        mapping.report(
            Code.BATCH_OVER_MAXIMUM_AHEAD,
            "maximum_ahead" if mapping.written("maximum_ahead") else "batch_size",
            f"batch_size {config.batch_size} is more than maximum_ahead {config.maximum_ahead}",
            "a batch would pass the bound at once: lower batch_size, or raise maximum_ahead",
        )


def _check_payload(mapping: JudgedMapping) -> None:
    config = mapping.mapping
    if mapping.known("maximum_payload", "buffer.bytes") and config.maximum_payload > config.buffer.bytes:
        mapping.report(
            Code.PAYLOAD_OVER_BUFFER,
            "maximum_payload" if mapping.written("maximum_payload") else "buffer.bytes",
            f"maximum_payload {format_size(config.maximum_payload)} is more than the buffer holds: "
            f"{format_size(config.buffer.bytes)}",
            "lower maximum_payload, or raise buffer.bytes",
        )


def _check_ordering(mapping: JudgedMapping) -> None:
    config = mapping.mapping
    if not mapping.known("ordering", "parallelization_factor"):
        return
    redis = mapping.redis_streams
    if redis is not None and redis.delivery is RedisDelivery.SHARED:
        return  # there is no order to keep
    if config.ordering is Ordering.PARTITION and config.parallelization_factor > 1:
        mapping.report(
            Code.ORDERING_NEEDS_FACTOR_ONE,
            "ordering",
            f"ordering: partition keeps one batch at a time, but parallelization_factor is "
            f"{config.parallelization_factor}",
            "write ordering: key, or parallelization_factor: 1",
        )


def _check_concurrency(mapping: JudgedMapping) -> None:
    maximum = mapping.mapping.maximum_concurrency
    limit = mapping.config.limits.concurrency
    if maximum is None or not mapping.reading.known(("limits", "concurrency")):
        return
    if maximum > limit:
        mapping.report(
            Code.CONCURRENCY_OVER_LIMIT,
            "maximum_concurrency",
            f"maximum_concurrency {maximum} is more than the {limit} of limits.concurrency",
            "lower it, or raise limits.concurrency",
        )


def _check_buffer(mapping: JudgedMapping) -> None:
    size = mapping.mapping.buffer.bytes
    limit = mapping.config.limits.buffer_bytes
    if not mapping.written("buffer.bytes") or not mapping.known("buffer.bytes") or size <= limit:
        return
    if mapping.reading.known(("limits", "buffer_bytes")):
        mapping.report(
            Code.BUFFER_OVER_LIMIT,
            "buffer.bytes",
            f"buffer.bytes {format_size(size)} is more than the {format_size(limit)} of limits.buffer_bytes",
            "lower buffer.bytes, or raise limits.buffer_bytes",
        )


def _check_backoff(mapping: JudgedMapping) -> None:
    backoff = mapping.mapping.retry_backoff
    if not mapping.known("retry_backoff.initial", "retry_backoff.maximum") or backoff.initial <= backoff.maximum:
        return
    mapping.report(
        Code.BACKOFF_INVERTED,
        "retry_backoff.initial" if mapping.written("retry_backoff.initial") else "retry_backoff.maximum",
        f"retry_backoff begins at {format_duration(backoff.initial)}, above its maximum of "
        f"{format_duration(backoff.maximum)}",
        "lower initial, or raise maximum",
    )


def _check_giving_up(mapping: JudgedMapping) -> None:
    config = mapping.mapping
    if not mapping.known("maximum_retry_attempts", "maximum_record_age", "destination_config.on_failure"):
        return
    never = config.maximum_retry_attempts == _FOR_EVER and config.maximum_record_age is None
    if never and config.on_failure is not None:
        mapping.report(
            Code.ENDLESS_ATTEMPTS,
            "maximum_retry_attempts",
            "with endless attempts and no maximum_record_age no record that fails would ever reach the destination",
            "limit maximum_retry_attempts or maximum_record_age",
        )
    elif not never and config.on_failure is None:
        limit = "maximum_record_age" if config.maximum_retry_attempts == _FOR_EVER else "maximum_retry_attempts"
        mapping.report(
            Code.GIVEN_UP_IS_DROPPED,
            limit,
            "records that are given up are dropped: there is no destination",
            "add destination_config.on_failure to keep them",
            points_at_key=True,
        )


def _check_drain(mapping: JudgedMapping) -> None:
    function = mapping.function
    if function is None or not mapping.written("drain_timeout") or not mapping.known("drain_timeout"):
        return
    kind = "http" if function.http else "python"
    if not mapping.reading.known(("functions", mapping.mapping.function, kind, "timeout")):
        return
    if mapping.mapping.drain_timeout < function.timeout:
        mapping.report(
            Code.DRAIN_SHORTER_THAN_TIMEOUT,
            "drain_timeout",
            f"drain_timeout {format_duration(mapping.mapping.drain_timeout)} is shorter than the function's timeout "
            f"{format_duration(function.timeout)}",
            "a stop may cut an invocation off, and its records come again: raise it, or accept the repetition",
        )


def _check_raw(mapping: JudgedMapping) -> None:
    function = mapping.function
    name = mapping.mapping.function
    if function is None or function.http is None or not mapping.reading.known(("functions", name, "http", "payload")):
        return
    if function.http.payload is not HttpPayload.RAW:
        return
    if mapping.known("batch_size") and mapping.mapping.batch_size != 1:
        mapping.report(
            Code.RAW_NEEDS_SINGLE_RECORDS,
            "batch_size" if mapping.written("batch_size") else "function",
            f"function {quoted(name)} has payload: raw, which takes one record, but batch_size is "
            f"{mapping.mapping.batch_size}",
            "write batch_size: 1, or payload: lambda",
        )
    if mapping.known("function_response_types") and mapping.mapping.reports_batch_item_failures:
        mapping.report(
            Code.RAW_HAS_NO_PARTIAL_FAILURES,
            "function_response_types",
            f"function {quoted(name)} has payload: raw, whose response cannot name records",
            "remove function_response_types, or write payload: lambda",
        )
