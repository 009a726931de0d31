"""The table of metrics against what a scrape really holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner.core.flow import PauseReason
from runner.model import (
    Condition,
    DeadLetter,
    ErrorKind,
    FunctionError,
    Invocation,
    MappingState,
    Partition,
    Problem,
    Reason,
    Record,
    Settlement,
)
from runner.telemetry.metrics import METRICS, Kind, markdown
from runner.telemetry.snapshot import LimitsSnapshot, MappingSnapshot, PartitionSnapshot, Usage
from runner.telemetry.telemetry import Telemetry

ORDERS = Partition("orders", 0)


def record(sequence: int = 0, timestamp_ms: int = 1_000) -> Record:
    return Record(ORDERS, 100 + sequence, b"key", b"value", (), timestamp_ms, sequence, 8)


def partition(
    number: int = 0,
    *,
    assigned: bool = True,
    lag_seconds: float | None = 1.5,
    lag_records: int | None = 7,
    checkpoint: int | str = 42,
    paused: PauseReason | None = None,
    problem: Problem | None = None,
) -> PartitionSnapshot:
    return PartitionSnapshot(
        partition=Partition("orders", number),
        assigned=assigned,
        lag_records=lag_records,
        lag_seconds=lag_seconds,
        unsettled_records=3,
        unsettled_bytes=24,
        ahead_records=2,
        paused_reason=paused,
        blocking_lane=None,
        waiting_for="",
        checkpoint=checkpoint,
        problem=problem,
    )


def mapping(
    *partitions: PartitionSnapshot,
    state: MappingState = MappingState.ENABLED,
    problem: Problem | None = None,
    function: str = "charge",
) -> MappingSnapshot:
    return MappingSnapshot(
        mapping="orders",
        function=function,
        state=state,
        problem=problem,
        last_processing_result="OK",
        joined=True,
        partitions=partitions,
        inflight=2,
        waiting=1,
        concurrency_limit=64,
        polled_at=1234.5,
    )


def limits() -> LimitsSnapshot:
    return LimitsSnapshot(Usage(2, 1000), Usage(24, 256_000_000), {"charge": Usage(2, 64)})


class Board:
    """What the engine would show, set by a test."""

    def __init__(self) -> None:
        self.mappings: Sequence[MappingSnapshot] = ()

    def __call__(self) -> Sequence[MappingSnapshot]:
        return self.mappings


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def telemetry(board: Board) -> Telemetry:
    return Telemetry(version="1.2.3", snapshots=board, limits=limits)


def samples(telemetry: Telemetry) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(telemetry.render().decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    found = [
        number
        for sample, sample_labels, number in samples(telemetry)
        if sample == f"stream_runner_{name}" and labels.items() <= sample_labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def series(telemetry: Telemetry, **labels: str) -> set[str]:
    return {name for name, sample_labels, _ in samples(telemetry) if labels.items() <= sample_labels.items()}


def test_every_declared_metric_has_series_once_a_mapping_runs(telemetry: Telemetry, board: Board) -> None:
    telemetry.observer("orders", "charge")
    board.mappings = [mapping(partition())]
    exposed = {name for name, _, _ in samples(telemetry)}
    for metric in METRICS:
        name = f"{metric.name}_bucket" if metric.kind is Kind.HISTOGRAM else metric.name
        assert name in exposed


def test_nothing_is_exposed_that_is_not_declared(telemetry: Telemetry, board: Board) -> None:
    telemetry.observer("orders", "charge")
    board.mappings = [mapping(partition())]
    declared = {metric.name for metric in METRICS}
    for name, labels, _ in samples(telemetry):
        if name.startswith("process_"):
            continue
        base = name
        for suffix in ("_bucket", "_sum", "_count"):
            if name.removesuffix(suffix) in declared:
                base = name.removesuffix(suffix)
        metric = next(metric for metric in METRICS if metric.name == base)
        assert set(labels) - {"le"} == set(metric.labels)


def test_names_are_unique_prefixed_and_in_base_units() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("stream_runner_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.help.endswith(".")
        assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM)
        assert list(metric.bounds) == sorted(metric.bounds)
        if metric.unit in ("seconds", "bytes"):
            assert metric.unit in metric.name


def test_the_markdown_table_has_a_row_a_metric() -> None:
    rows = markdown().splitlines()
    assert len(rows) == 2 + len(METRICS)
    assert all(row.count(" | ") == 4 for row in rows[2:])


def test_counters_appear_at_zero_for_every_value_of_a_closed_set(telemetry: Telemetry) -> None:
    telemetry.observer("orders", "charge")
    for how in Settlement:
        assert value(telemetry, "records_settled_total", outcome=how) == 0
    for error in ("success", *ErrorKind):
        assert value(telemetry, "invocations_total", outcome=error) == 0
    for error in ("unknown", *ErrorKind):
        assert value(telemetry, "retries_total", reason=error) == 0
    for condition in Condition:
        for result in ("stored", "dropped"):
            assert value(telemetry, "dead_letters_total", condition=condition, result=result) == 0
    for result in ("stored", "failed", "fenced"):
        assert value(telemetry, "checkpoints_total", result=result) == 0
    assert value(telemetry, "batch_records_count") == 0


def test_the_series_of_a_partition_go_with_the_partition(telemetry: Telemetry, board: Board) -> None:
    telemetry.observer("orders", "charge")
    board.mappings = [mapping(partition(0), partition(1))]
    assert "stream_runner_lag_seconds" in series(telemetry, partition="1")
    board.mappings = [mapping(partition(0))]
    assert series(telemetry, partition="1") == set()
    assert "stream_runner_lag_seconds" in series(telemetry, partition="0")


def test_a_partition_that_is_let_go_but_still_shown_has_no_series(telemetry: Telemetry, board: Board) -> None:
    board.mappings = [mapping(partition(0), partition(1, assigned=False))]
    assert series(telemetry, partition="1") == set()
    assert value(telemetry, "assigned_partitions") == 1


def test_lag_that_is_not_known_has_no_series(telemetry: Telemetry, board: Board) -> None:
    board.mappings = [mapping(partition(lag_seconds=None, lag_records=None))]
    assert not {"stream_runner_lag_seconds", "stream_runner_lag_records"} & series(telemetry, partition="0")
    board.mappings = [mapping(partition(lag_seconds=0.0, lag_records=0))]
    assert value(telemetry, "lag_seconds", partition="0") == 0
    assert value(telemetry, "lag_records", partition="0") == 0


def test_a_checkpoint_that_is_no_number_has_no_series(telemetry: Telemetry, board: Board) -> None:
    board.mappings = [mapping(partition(0), partition(1, checkpoint="1700000000000-0"))]
    assert value(telemetry, "checkpoint_position", partition="0") == 42
    assert "stream_runner_checkpoint_position" not in series(telemetry, partition="1")


def test_a_state_and_a_reason_are_one_hot(telemetry: Telemetry, board: Board) -> None:
    problem = Problem(Reason.EVENT_SOURCE_NOT_FOUND, "no topic ordres")
    board.mappings = [mapping(state=MappingState.PROBLEM, problem=problem)]
    for state in MappingState:
        assert value(telemetry, "mapping_state", state=state) == (state is MappingState.PROBLEM)
    for reason in Reason:
        assert value(telemetry, "mapping_problem", reason=reason) == (reason is Reason.EVENT_SOURCE_NOT_FOUND)


def test_paused_partitions_say_why(telemetry: Telemetry, board: Board) -> None:
    board.mappings = [mapping(partition(0, paused=PauseReason.MAXIMUM_AHEAD), partition(1))]
    for reason in PauseReason:
        assert value(telemetry, "paused_partitions", reason=reason) == (reason is PauseReason.MAXIMUM_AHEAD)


def test_a_stopped_partition_is_counted_and_has_no_series_where_it_is_not_assigned(
    telemetry: Telemetry, board: Board
) -> None:
    broken = partition(0, problem=Problem(Reason.EVENT_SOURCE_UNREADABLE, "bad CRC"))
    gone = partition(2, assigned=False, problem=Problem(Reason.EVENT_SOURCE_NOT_FOUND, "no such stream"))
    board.mappings = [mapping(broken, partition(1), gone)]
    assert value(telemetry, "problem_partitions") == value(telemetry, "assigned_partitions") == 2
    assert series(telemetry, partition="2") == set()


def test_a_mapping_listed_twice_while_it_is_replaced_has_each_series_once(telemetry: Telemetry, board: Board) -> None:
    board.mappings = [mapping(partition(), state=MappingState.DISABLING), mapping(state=MappingState.CREATING)]
    assert value(telemetry, "mapping_state", state="creating") == 1
    assert series(telemetry, partition="0") == set()


def test_ten_thousand_different_errors_add_no_series(telemetry: Telemetry) -> None:
    observer = telemetry.observer("orders", "charge")
    before = sum(1 for _ in samples(telemetry))
    invocation = Invocation(
        mapping="orders", function="charge", partition=ORDERS, records=[record()], attempt=1, source="here"
    )
    for number in range(10_000):
        error = FunctionError(ErrorKind.ERROR, f"Type{number}", f"text {number}")
        observer.invocation_ended(invocation, ErrorKind.ERROR, 0.1, error)
        observer.retry_scheduled(ORDERS, error, 1, 5.0)
        observer.destination_failed(f"failure {number}", 1)
    assert sum(1 for _ in samples(telemetry)) == before
    assert value(telemetry, "invocations_total", outcome="error") == 10_000
    assert value(telemetry, "retries_total", reason="error") == 10_000
    assert value(telemetry, "dead_letter_write_failures_total") == 10_000


def test_a_forgotten_mapping_has_no_series(telemetry: Telemetry) -> None:
    telemetry.observer("orders", "charge")
    telemetry.observer("orders", "audit")
    telemetry.observer("returns", "charge")
    telemetry.forget("orders", "charge")
    assert series(telemetry, mapping="orders", function="charge") == set()
    assert series(telemetry, mapping="orders", function="audit")
    telemetry.forget("orders")
    assert series(telemetry, mapping="orders") == set()
    assert series(telemetry, mapping="returns")


def test_counts_go_on_when_a_mapping_starts_again(telemetry: Telemetry) -> None:
    telemetry.observer("orders", "charge").records_fetched(ORDERS, 3, 30)
    telemetry.observer("orders", "charge").records_fetched(ORDERS, 2, 20)
    assert value(telemetry, "records_fetched_total") == 5
    assert value(telemetry, "bytes_fetched_total") == 50


def test_totals_are_those_of_the_counters(telemetry: Telemetry) -> None:
    observer = telemetry.observer("orders", "charge")
    observer.records_fetched(ORDERS, 3, 30)
    observer.records_settled(ORDERS, Settlement.DELIVERED, [record(0), record(1)], 2.0)
    observer.records_settled(ORDERS, Settlement.FILTERED, [record(2)], 2.0)
    totals = telemetry.totals("orders", "charge")
    assert totals.fetched == 3
    assert totals.settled[Settlement.DELIVERED] == 2
    assert totals.settled[Settlement.FILTERED] == 1
    with pytest.raises(KeyError):
        telemetry.totals("orders", "nobody")


def test_latency_is_of_the_first_delivered_record_of_a_batch(telemetry: Telemetry) -> None:
    observer = telemetry.observer("orders", "charge")
    observer.records_settled(ORDERS, Settlement.DELIVERED, [record(0, 1_000), record(1, 9_000)], 10.0)
    assert value(telemetry, "end_to_end_latency_seconds_sum") == 9.0
    assert value(telemetry, "last_settled_timestamp_seconds") == 10.0
    observer.records_settled(ORDERS, Settlement.DELIVERED, [record(2, -1)], 11.0)
    observer.records_settled(ORDERS, Settlement.DELIVERED, [], 12.0)
    observer.records_settled(ORDERS, Settlement.DROPPED, [record(3, 1_000)], 13.0)
    assert value(telemetry, "end_to_end_latency_seconds_count") == 1
    observer.records_settled(ORDERS, Settlement.DELIVERED, [record(4, 99_000)], 14.0)
    assert value(telemetry, "end_to_end_latency_seconds_count") == 2
    assert value(telemetry, "end_to_end_latency_seconds_sum") == 9.0


def test_every_verb_of_the_observer_moves_its_metric(telemetry: Telemetry) -> None:
    observer = telemetry.observer("orders", "charge")
    records = [record(0), record(1)]
    invocation = Invocation(
        mapping="orders", function="charge", partition=ORDERS, records=records, attempt=2, source="here"
    )
    letter = DeadLetter(
        record(), "orders", "charge", Condition.RECORD_AGE_EXCEEDED, 3, None, 5_000, "here", "charge-card"
    )
    observer.invocation_started(invocation)
    observer.invocation_ended(invocation, None, 0.2, None)
    observer.invocation_ended(invocation, ErrorKind.TIMEOUT, 30.0, None)
    observer.invocation_overdue(invocation, 31.0)
    observer.retry_scheduled(ORDERS, None, 2, 60.0)
    observer.given_up(letter, stored=True)
    observer.given_up(letter, stored=False)
    observer.destination_failed("no broker", 4)
    observer.destination_overdue("slow broker", 5)
    observer.checkpoint_stored(8, 0.01)
    observer.checkpoint_failed("no broker", fenced=False)
    observer.checkpoint_failed("another owner", fenced=True)
    observer.stale_results(ORDERS, 6)
    observer.stale_results(None, 1)
    observer.invocation_cancelled(invocation)
    observer.partitions_assigned([ORDERS])
    observer.partitions_revoked([ORDERS])
    observer.records_redelivered(ORDERS, 4)
    observer.records_trimmed(ORDERS, 3)
    observer.partition_drained(ORDERS, 1.0, 9, 0)
    observer.partition_drained(ORDERS, 1.0, 0, 2)
    observer.partition_paused(ORDERS, PauseReason.BUFFER_BYTES, "lane 3")
    observer.partition_resumed(ORDERS)
    observer.data_lost(ORDERS, 1, 11, 10)
    observer.data_lost(ORDERS, 1, 11, None)
    observer.partition_problem(ORDERS, Problem(Reason.DATA_LOSS, "gone"))
    observer.partition_problem(ORDERS, None)
    observer.state_changed(MappingState.PROBLEM, Problem(Reason.DATA_LOSS, "gone", "set on_data_loss"))
    observer.state_changed(MappingState.ENABLED, None)
    for name, labels, expected in (
        ("batch_records_sum", {}, 2),
        ("invocations_total", {"outcome": "success"}, 1),
        ("invocations_total", {"outcome": "timeout"}, 1),
        ("invocation_duration_seconds_sum", {"result": "success"}, 0.2),
        ("invocation_duration_seconds_sum", {"result": "failure"}, 30.0),
        ("invocations_overdue_total", {}, 1),
        ("retries_total", {"reason": "unknown"}, 1),
        ("records_retried_total", {}, 2),
        ("dead_letters_total", {"condition": "RecordAgeExceeded", "result": "stored"}, 1),
        ("dead_letters_total", {"condition": "RecordAgeExceeded", "result": "dropped"}, 1),
        ("dead_letter_write_failures_total", {}, 4),
        ("dead_letter_writes_overdue_total", {}, 5),
        ("checkpoints_total", {"result": "stored"}, 1),
        ("checkpoints_total", {"result": "failed"}, 1),
        ("checkpoints_total", {"result": "fenced"}, 1),
        ("checkpoint_duration_seconds_count", {}, 1),
        ("stale_records_total", {}, 9),
        ("rebalances_total", {}, 1),
        ("drain_duration_seconds_count", {}, 2),
        ("records_redelivered_total", {}, 4),
        ("records_trimmed_total", {}, 3),
        ("records_repeated_total", {}, 9),
        ("partition_pauses_total", {}, 1),
        ("data_losses_total", {}, 2),
        ("data_loss_records_total", {}, 10),
    ):
        assert value(telemetry, name, **labels) == expected, name


def test_the_facts_of_the_process(telemetry: Telemetry) -> None:
    assert value(telemetry, "build_info", version="1.2.3") == 1
    assert value(telemetry, "config_last_reload_successful") == 0
    telemetry.config_loaded(successful=True, now=1000.0)
    assert value(telemetry, "config_last_reload_successful") == 1
    telemetry.config_loaded(successful=False, now=2000.0)
    assert value(telemetry, "config_last_reload_successful") == 0
    assert value(telemetry, "config_last_reload_success_timestamp_seconds") == 1000.0
    assert value(telemetry, "concurrency_limit") == 1000
    assert value(telemetry, "function_concurrency_in_use", function="charge") == 2
    assert value(telemetry, "buffer_limit_bytes") == 256_000_000
    telemetry.loop.measured(0.25)
    assert value(telemetry, "event_loop_lag_seconds") == 0.25
    assert "process_cpu_seconds_total" in {name for name, _, _ in samples(telemetry)}


def test_without_limits_there_are_no_series_of_limits() -> None:
    assert "stream_runner_concurrency_limit" not in {name for name, _, _ in samples(Telemetry(version="1"))}


def test_a_topic_that_no_encoding_can_write_does_not_spoil_the_scrape(telemetry: Telemetry, board: Board) -> None:
    odd = Partition('or\udc80ders\n"', 0)
    board.mappings = [mapping(PartitionSnapshot(odd, True, 1, 1.0, 1, 1, 1, None, None, "", 1, None))]
    assert "stream_runner_lag_seconds" in series(telemetry, topic='or\\udc80ders\n"')
