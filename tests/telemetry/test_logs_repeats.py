"""Messages that come again and again: few lines, none of which hides why."""

from __future__ import annotations

import logging

import pytest

from log_harness import ORDERS, Hands, invocation, logging_to, observer, record
from runner.model import Condition, DeadLetter, ErrorKind, FunctionError, Partition, Problem, Reason
from runner.telemetry.logs import LEDGER


def test_repeats_become_summaries_and_all_are_counted() -> None:
    clock = Hands()
    with logging_to(clock=clock) as (written, logs):
        watch = observer()
        error = FunctionError(ErrorKind.ERROR, "ValueError", "no")
        for _ in range(1_000):
            watch.invocation_ended(invocation(), ErrorKind.ERROR, 0.1, error)
        assert len(written.lines) == 3
        clock.time += 9
        watch.invocation_ended(invocation(), ErrorKind.ERROR, 0.1, error)
        assert len(written.lines) == 3
        clock.time += 1
        watch.invocation_ended(invocation(), ErrorKind.ERROR, 0.1, error)
        assert len(written.lines) == 4
        assert logs.counts.by_level["warning"] == 1_002
    summary = written.objects[3]
    assert summary["event"] == "invocation failed (repeated 998 times in 10 s)"
    assert summary["repeated"] == 998
    assert summary["mapping"] == "orders-to-charge"
    assert summary["level"] == "warning"
    assert written.objects[4]["repeated"] == 1  # written at the close


def test_a_summary_needs_no_further_message() -> None:
    clock = Hands()
    with logging_to(clock=clock) as (written, logs):
        for _ in range(5):
            logging.getLogger("aiokafka").error("no node %s", "a")
        logs._handler.sum_up()
        assert len(written.lines) == 3
        clock.time += 10
        logs._handler.sum_up()
        assert len(written.lines) == 4
    assert len(written.lines) == 4
    assert written.objects[3]["event"] == "no node a (repeated 2 times in 10 s)"


def failing(clock: Hands, seconds: int, error: FunctionError) -> None:
    """An invocation a second that fails alike."""
    for _ in range(seconds):
        observer().invocation_ended(invocation(), error.kind, 0.1, error)
        clock.time += 1


def test_what_fails_steadily_says_why_every_ten_seconds_and_at_once_when_it_is_something_else() -> None:
    clock = Hands()
    poison = FunctionError(ErrorKind.ERROR, "ValueError", "bad amount")
    broken = FunctionError(ErrorKind.ERROR, "HTTPError", "HTTP 500: sorry", status_code=500)
    throttled = FunctionError(ErrorKind.THROTTLED, "HTTPError", "HTTP 429", status_code=429)
    missing = FunctionError(ErrorKind.ERROR, "HTTPError", "HTTP 404", status_code=404)
    with logging_to(clock=clock) as (written, _):
        failing(clock, 60, poison)
        before = len(written.lines)
        failing(clock, 40, broken)
        failing(clock, 5, throttled)
        failing(clock, 5, missing)
        said = [line.get("error_text") for line in written.objects[before:]]
    assert said.count("HTTP 500: sorry") >= 3 + 3
    assert said.count("HTTP 429") == said.count("HTTP 404") == 3
    summaries = [line for line in written.objects if "repeated" in line]
    assert all(line["error_text"] and line["first_position"] == 17 for line in summaries)
    assert all(line["event"].startswith("invocation failed (repeated ") for line in summaries)
    assert len(written.lines) < 40


def test_a_function_that_names_an_error_of_its_own_each_time_does_not_fill_the_log() -> None:
    with logging_to() as (written, logs):
        watch = observer()
        for number in range(10_000):
            error = FunctionError(ErrorKind.ERROR, f"Error{number}" * 1_000, "no")
            watch.invocation_ended(invocation(), ErrorKind.ERROR, 0.1, error)
        assert len(written.lines) < 50
        assert all(len(key.kind) < 300 for key in logs._handler._limiter._keys)


def test_what_happens_to_partitions_names_each_of_them() -> None:
    with logging_to() as (written, _):
        watch = observer()
        for number in range(1_000):
            stream = Partition(f"orders.{number}", 0)
            watch.partitions_assigned([stream])
            watch.partition_problem(stream, Problem(Reason.DATA_LOSS, f"{number} gone"))
        watch.partition_problem(ORDERS, Problem(Reason.EVENT_SOURCE_NOT_FOUND, "no such stream"))
    stopped = [line for line in written.objects if line["event"] == "partition stopped"]
    assert {f"orders.{number}" for number in range(50)} <= {line["topic"] for line in stopped}
    assert stopped[-1]["reason"] == "EVENT_SOURCE_NOT_FOUND", "another reason is no repeat"
    assert len(written.lines) < 300


def test_the_summary_of_a_client_s_messages_has_the_newest_with_its_exception() -> None:
    with logging_to() as (written, _):
        for number in range(5):
            try:
                raise OSError(f"no route {number}")
            except OSError:
                logging.getLogger("aiokafka").exception("node %d", number)
    assert written.objects[-1]["event"] == "node 4 (repeated 2 times in 0 s)"
    assert written.objects[-1]["exception"] == "OSError: no route 4"


def test_a_message_whose_values_do_not_fit_it_reaches_nobody_s_call(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to() as (written, logs):
        wrong = {"name": "aiokafka", "levelno": logging.ERROR, "msg": "%d nodes", "args": ("no",)}
        for _ in range(5):
            logs._handler.handle(logging.makeLogRecord(wrong))
    assert written.lines == []
    assert capsys.readouterr().err.count("--- Logging error ---") == 5


def test_the_ledger_is_never_a_repeat() -> None:
    with logging_to() as (written, _):
        letter = DeadLetter(
            record(), "orders-to-charge", "charge", Condition.RETRY_ATTEMPTS_EXHAUSTED, 3, None, 5, "here", "group"
        )
        watch = observer()
        for _ in range(20):
            watch.given_up(letter, stored=False)
        for _ in range(20):
            watch.given_up(letter, stored=True)
    dropped = [line for line in written.objects if line["logger"] == LEDGER]
    assert len(dropped) == 20
    assert dropped[0]["topic"] == "orders"
    assert dropped[0]["partition"] == 3
    assert dropped[0]["position"] == 17
    assert dropped[0]["condition"] == "RetryAttemptsExhausted"
    assert dropped[0]["level"] == "error"
    assert len(written.lines) == 20 + 3 + 1
