"""The observer that makes what happens to one mapping visible to its operators."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import structlog

from runner.model import (
    DeadLetter,
    ErrorKind,
    FunctionError,
    Invocation,
    MappingState,
    Partition,
    Position,
    Problem,
    Record,
    Settlement,
)
from runner.ports import Observer
from runner.telemetry.counters import MappingCounters
from runner.telemetry.logs import LEDGER, PARTITIONS

LOGGER: Final = "runner.mapping"


class MappingObserver(Observer):
    """Counts everything; logs what people must know. No key, value or header of a record is ever logged.

    Made after the logs are configured.
    """

    def __init__(self, mapping: str, function: str, counters: MappingCounters) -> None:
        self._counters = counters
        self._log = structlog.stdlib.get_logger(LOGGER).bind(mapping=mapping, function=function)
        self._partitions = structlog.stdlib.get_logger(PARTITIONS).bind(mapping=mapping, function=function)
        self._ledger = structlog.stdlib.get_logger(LEDGER).bind(mapping=mapping, function=function)

    # --- records -------------------------------------------------------------------------------------------------

    def records_fetched(self, partition: Partition, records: int, size: int) -> None:
        self._counters.records_fetched += records
        self._counters.bytes_fetched += size

    def records_redelivered(self, partition: Partition, records: int) -> None:
        self._counters.records_redelivered += records

    def records_trimmed(self, partition: Partition, records: int) -> None:
        self._counters.records_trimmed += records

    def records_settled(self, partition: Partition, how: Settlement, records: Sequence[Record], now: float) -> None:
        if not records:
            return
        counters = self._counters
        counters.records_settled[how] += len(records)
        counters.last_settled = now
        first_ms = records[0].timestamp_ms
        if how is Settlement.DELIVERED and first_ms >= 0:
            counters.end_to_end_latency.observe(max(0.0, now - first_ms / 1000))

    # --- invocations ---------------------------------------------------------------------------------------------

    def invocation_started(self, invocation: Invocation) -> None:
        self._counters.batch_records.observe(len(invocation.records))

    def invocation_ended(
        self, invocation: Invocation, error: ErrorKind | None, seconds: float, function_error: FunctionError | None
    ) -> None:
        counters = self._counters
        counters.invocations[error] += 1
        if error is None:
            counters.success_duration.observe(seconds)
            return
        counters.failure_duration.observe(seconds)
        self._log.warning(
            "invocation failed",
            **_invocation(invocation),
            attempt=invocation.attempt,
            seconds=round(seconds, 3),
            error=error,
            **_details(function_error),
        )

    def invocation_overdue(self, invocation: Invocation, seconds: float) -> None:
        self._counters.invocations_overdue += 1
        self._log.warning(
            "handler is past its timeout and cannot be stopped: it keeps its lane and its permit until it returns",
            **_invocation(invocation),
            attempt=invocation.attempt,
            seconds=round(seconds, 3),
        )

    def retry_scheduled(self, partition: Partition, error: FunctionError | None, records: int, at: float) -> None:
        self._counters.retries[error.kind if error is not None else None] += 1
        self._counters.records_retried += records

    # --- records given up ----------------------------------------------------------------------------------------

    def given_up(self, letter: DeadLetter, stored: bool) -> None:
        counts = self._counters.dead_letters_stored if stored else self._counters.dead_letters_dropped
        counts[letter.condition] += 1
        values = {
            **_place(letter.record.partition),
            "position": letter.record.position,
            "condition": letter.condition,
            "attempts": letter.attempts,
            "error": letter.error.kind if letter.error is not None else None,
            **_details(letter.error, with_stack=False),  # the invocation that failed has shown it
        }
        if stored:
            self._log.warning("record given up and stored as a dead letter", **values)
        else:
            # It is stored nowhere: this line is all that is left of it.
            self._ledger.error("record given up and dropped, because the mapping has no destination", **values)

    def destination_failed(self, text: str, records: int) -> None:
        self._counters.dead_letter_failures += records
        self._log.error(
            "dead letters not stored: their lanes wait, and they are written again", records=records, error=text
        )

    def destination_overdue(self, text: str, records: int) -> None:
        self._counters.dead_letters_overdue += records
        self._log.warning(
            "dead letters not confirmed in time: still awaited, since sending again could store them twice",
            records=records,
            error=text,
        )

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint_stored(self, partitions: int, seconds: float) -> None:
        self._counters.checkpoints_stored += 1
        self._counters.checkpoint_duration.observe(seconds)

    def checkpoint_failed(self, text: str, fenced: bool) -> None:
        if fenced:
            self._counters.checkpoints_fenced += 1
            self._log.warning("checkpoint refused: its partitions have another owner", error=text)
        else:
            self._counters.checkpoints_failed += 1
            self._log.warning("checkpoint not stored: made again", error=text)

    def stale_results(self, partition: Partition | None, records: int) -> None:
        self._counters.stale_records += records
        place = {} if partition is None else _place(partition)
        self._log.warning(
            "results came after their assignment was over: they move no checkpoint", **place, records=records
        )

    def invocation_cancelled(self, invocation: Invocation) -> None:
        self._counters.stale_records += len(invocation.records)
        self._log.warning(
            "invocation cancelled, because its assignment is over: its records come again", **_invocation(invocation)
        )

    # --- assignments ---------------------------------------------------------------------------------------------

    def partitions_assigned(self, partitions: Collection[Partition]) -> None:
        self._counters.rebalances += 1
        self._partitions.info("partitions assigned", count=len(partitions), partitions=_names(partitions))

    def partitions_revoked(self, partitions: Collection[Partition]) -> None:
        self._partitions.info("partitions revoked", count=len(partitions), partitions=_names(partitions))

    def partition_drained(self, partition: Partition, seconds: float, repeated: int, unsettled: int) -> None:
        self._counters.drain_duration.observe(seconds)
        self._counters.records_repeated += repeated
        values = {**_place(partition), "seconds": round(seconds, 3), "repeated": repeated, "unsettled": unsettled}
        if repeated:
            self._ledger.warning(
                "partition let go with records settled beyond its checkpoint: they come again", **values
            )
        elif unsettled:
            self._partitions.warning(
                "partition let go with records that did not settle in time: they come again", **values
            )
        else:
            self._partitions.info("partition drained", **values)

    def partition_paused(self, partition: Partition, reason: str, lane: str) -> None:
        self._counters.pauses += 1
        self._log.info("partition paused", **_place(partition), reason=reason, lane=lane)

    def partition_resumed(self, partition: Partition) -> None:
        self._log.debug("partition resumed", **_place(partition))

    # --- troubles ------------------------------------------------------------------------------------------------

    def data_lost(self, partition: Partition, first: Position, next_available: Position, records: int | None) -> None:
        self._counters.data_losses += 1
        self._counters.data_loss_records += records or 0
        self._ledger.error(
            "records are gone from the source and were passed over",
            **_place(partition),
            first_position=first,
            next_available_position=next_available,
            records=records,
        )

    def partition_problem(self, partition: Partition, problem: Problem | None) -> None:
        if problem is None:
            self._partitions.info("partition goes on", **_place(partition))
        else:
            self._partitions.error("partition stopped", **_place(partition), **_reason(problem))

    def source_warning(self, text: str) -> None:
        self._partitions.warning("the source warns", text=text)  # told once for each place, and there are many

    def crashed(self, traceback: str) -> None:
        self._log.error("a defect ended the mapping: it is started again", stack=traceback)

    def state_changed(self, state: MappingState, problem: Problem | None) -> None:
        # The state is part of the message, so that a change to another one is never taken for a repeat.
        if problem is None:
            self._log.info(f"mapping is now {state}")
        else:
            self._log.error(f"mapping is now {state}", **_reason(problem))

    def end_not_in_sight(self, problem: Problem, is_tried_again: bool) -> None:
        if is_tried_again:
            self._log.warning(
                "cannot begin yet: tried again until it can, or until the deadline where there is one",
                reason=problem.reason,
            )
        else:
            self._log.error("cannot begin, and waiting would not help: ended without it", **_reason(problem))


def _place(partition: Partition) -> dict[str, object]:
    return {"topic": partition.topic, "partition": partition.number}


def _names(partitions: Collection[Partition]) -> list[str]:
    return [str(partition) for partition in sorted(partitions)]


def _invocation(invocation: Invocation) -> dict[str, object]:
    return {
        **_place(invocation.partition),
        "first_position": invocation.first_position,
        "last_position": invocation.last_position,
        "records": len(invocation.records),
    }


def _details(error: FunctionError | None, *, with_stack: bool = True) -> dict[str, object]:
    """What the function said of its failure: text that it chose to show, cut to a line's measure by the logs."""
    if error is None:
        return {}
    details: dict[str, object] = {"error_type": error.type, "error_text": error.text}
    if error.status_code is not None:
        details["status_code"] = error.status_code
    if error.stack and with_stack:
        details["stack"] = error.stack
    return details


def _reason(problem: Problem) -> dict[str, object]:
    return {"reason": problem.reason, "text": problem.text, "hint": problem.hint}
