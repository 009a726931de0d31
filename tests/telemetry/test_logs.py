"""The logs as they are written: one line a message, in one form, whatever the values hold."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from log_harness import ORDERS, SECRET, Hands, Written, invocation, logging_to, observer, record
from runner.model import (
    Condition,
    DeadLetter,
    ErrorKind,
    FunctionError,
    MappingState,
    Partition,
    Problem,
    Reason,
)
from runner.telemetry.log_format import MAXIMUM_ITEMS, MAXIMUM_TEXT
from runner.telemetry.logs import Style, configure

HOSTILE = "a\r\nlevel=error forged\x1b[2J\x07\x00\x7f\x9b\u2028\u202e end"
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4) | st.tuples(inner),
    max_leaves=10,
)


def test_a_message_is_one_json_object_with_the_well_known_keys_first() -> None:
    with logging_to() as (written, _):
        structlog.stdlib.get_logger("runner.engine").info("joined", zone="a", partition=3, topic="orders", mapping="m")
    [line] = written.objects
    assert list(line) == ["timestamp", "level", "logger", "event", "mapping", "topic", "partition", "zone"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert (line["level"], line["logger"], line["event"]) == ("info", "runner.engine", "joined")


def test_the_logs_of_clients_and_functions_come_in_the_same_form() -> None:
    with logging_to() as (written, _):
        logging.getLogger("aiokafka.conn").warning("Unable to connect to %s:%d", "kafka\n", 9092)
        logging.getLogger("aiokafka.conn").info("chatter")
        logging.getLogger("team.audit").info("handled", extra={"order": 7})
    assert [line["event"] for line in written.objects] == ["Unable to connect to kafka\n:9092", "handled"]
    assert written.objects[0]["logger"] == "aiokafka.conn"
    assert written.objects[1]["order"] == 7


def test_clients_are_heard_at_debug() -> None:
    with logging_to(level="debug") as (written, _):
        logging.getLogger("aiokafka").debug("chatter")
    assert [line["event"] for line in written.objects] == ["chatter"]


def test_below_the_level_nothing_is_written() -> None:
    with logging_to(level="warning") as (written, _):
        structlog.stdlib.get_logger("runner").info("quiet")
        logging.getLogger("team").info("quiet")
    assert written.lines == []


def test_warnings_are_logged() -> None:
    with warnings.catch_warnings(), logging_to() as (written, _):
        warnings.simplefilter("always")
        warnings.warn("old\nthing", RuntimeWarning, stacklevel=1)
    [line] = written.objects
    assert line["logger"] == "py.warnings"
    assert "old\nthing" in line["event"]


@pytest.mark.parametrize("style", ["json", "console"])
def test_control_characters_never_leave_their_line(style: Style) -> None:
    with logging_to(style) as (written, _):
        structlog.stdlib.get_logger("runner").error(
            HOSTILE, text=HOSTILE, nested=[{"x": HOSTILE}], key=HOSTILE.encode()
        )
        logging.getLogger("aiokafka").error("%s", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            structlog.stdlib.get_logger("runner").exception("broken")
            logging.getLogger("team").exception("broken")
    assert len(written.lines) == 4
    assert all(line.isprintable() for line in written.lines)
    assert len(written.getvalue().splitlines()) == 4


def test_an_exception_keeps_its_traceback() -> None:
    with logging_to() as (written, _):
        try:
            raise ValueError("broken inside")
        except ValueError:
            structlog.stdlib.get_logger("runner").exception("ours")
            logging.getLogger("team").exception("theirs")
    for line in written.objects:
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ValueError: broken inside")


@given(event=ANY_TEXT, values=st.dictionaries(ANY_TEXT.filter(lambda key: key != "event"), ANY_VALUE, max_size=5))
def test_json_is_valid_for_arbitrary_values(event: str, values: dict[str, Any]) -> None:
    with logging_to() as (written, _):
        logger = structlog.stdlib.get_logger("runner").bind(**{f"v_{key}": value for key, value in values.items()})
        logger.info(event)
    assert len(written.lines) == 1
    assert written.lines[0].isascii()
    [line] = written.objects
    assert line["event"] == event if len(event) <= MAXIMUM_TEXT else event[:MAXIMUM_TEXT] in line["event"]


@given(event=ANY_TEXT, value=ANY_VALUE)
def test_a_console_line_is_printable_for_arbitrary_values(event: str, value: Any) -> None:
    with logging_to("console") as (written, _):
        structlog.stdlib.get_logger("runner").info(event, value=value)
    assert len(written.lines) == 1
    assert written.lines[0].isprintable()


def test_long_values_are_cut_and_bytes_are_only_counted() -> None:
    deep: list[Any] = []
    for _ in range(20):
        deep = [deep]
    with logging_to() as (written, _):
        structlog.stdlib.get_logger("runner").info(
            "x", text="y" * (MAXIMUM_TEXT + 5), many=list(range(MAXIMUM_ITEMS * 2)), data=SECRET.encode(), deep=deep
        )
    [line] = written.objects
    assert line["text"].endswith("(5 more characters)")
    assert len(line["many"]) == MAXIMUM_ITEMS
    assert line["data"] == f"<{len(SECRET)} bytes>"


def test_odd_values_have_a_plain_form() -> None:
    with logging_to() as (written, _):
        structlog.stdlib.get_logger("runner").info(
            "x", place=ORDERS, error=OSError("no"), number=float("inf"), state=MappingState.IDLE, some={"a"}
        )
    [line] = written.objects
    assert line["place"] == "orders-3"
    assert line["error"] == "OSError: no"
    assert line["number"] == "inf"
    assert line["state"] == "idle"
    assert line["some"] == ["a"]


def test_a_console_line_is_for_people() -> None:
    class Terminal(Written):
        def isatty(self) -> bool:
            return True

    for stream, expected in ((Written(), "WARNING  late  "), (Terminal(), "\x1b[33mWARNING \x1b[0m late  ")):
        logs = configure("console", "info", stream=stream, monotonic=Hands())
        structlog.stdlib.get_logger("runner").warning("late", mapping="m", text="two words", none=None)
        logs.close()
        [line] = stream.lines
        assert line[13:] == f'{expected}mapping=m text="two words" none=null'


def test_a_record_given_up_says_why() -> None:
    error = FunctionError(ErrorKind.ERROR, "ValueError", "bad amount", stack="Traceback\n  line")
    letter = DeadLetter(record(), "m", "f", Condition.RETRY_ATTEMPTS_EXHAUSTED, 3, error, 5, "here", "group")
    with logging_to() as (written, _):
        observer().given_up(letter, stored=True)
        observer().given_up(letter, stored=False)
    assert [(line["error"], line["error_type"], line["error_text"]) for line in written.objects] == [
        ("error", "ValueError", "bad amount")
    ] * 2
    assert not any("stack" in line for line in written.objects)


def test_a_drain_that_left_records_unsettled_says_so() -> None:
    with logging_to() as (written, _):
        observer().partition_drained(ORDERS, 7.0, 0, 2)
        observer().partition_drained(ORDERS, 0.1, 0, 0)
    [late, clean] = written.objects
    assert late["event"] == "partition let go with records that did not settle in time: they come again"
    assert (late["level"], late["unsettled"], late["repeated"]) == ("warning", 2, 0)
    assert (clean["event"], clean["unsettled"]) == ("partition drained", 0)


def test_no_key_value_or_header_is_ever_logged() -> None:
    with logging_to(level="debug") as (written, _):
        watch = observer()
        call = invocation()
        error = FunctionError(ErrorKind.ERROR, "ValueError", "no", stack="Traceback\n  line", status_code=500)
        letter = DeadLetter(record(), "m", "f", Condition.RECORD_AGE_EXCEEDED, 3, error, 5, "here", "group")
        watch.records_fetched(ORDERS, 1, 76)
        watch.invocation_started(call)
        watch.invocation_ended(call, ErrorKind.ERROR, 0.5, error)
        watch.invocation_overdue(call, 31.0)
        watch.given_up(letter, stored=True)
        watch.given_up(letter, stored=False)
        watch.destination_failed("no broker", 1)
        watch.destination_overdue("slow broker", 1)
        watch.checkpoint_failed("no broker", fenced=True)
        watch.stale_results(ORDERS, 1)
        watch.partitions_assigned([ORDERS, Partition("orders", 1)])
        watch.partitions_revoked([ORDERS])
        watch.partition_drained(ORDERS, 1.0, 4, 0)
        watch.partition_drained(ORDERS, 1.0, 0, 2)
        watch.invocation_cancelled(call)
        watch.partition_paused(ORDERS, "buffer_bytes", "3")
        watch.partition_resumed(ORDERS)
        watch.data_lost(ORDERS, 1, 11, None)
        watch.partition_problem(ORDERS, Problem(Reason.DATA_LOSS, "gone"))
        watch.source_warning("it evicts")
        watch.crashed("Traceback\n  line\nKeyError: 3")
        watch.state_changed(MappingState.PROBLEM, Problem(Reason.DATA_LOSS, "gone", "set on_data_loss"))
    assert SECRET not in written.getvalue()
    by_event = {line["event"]: line for line in written.objects}
    crash = by_event["a defect ended the mapping: it is started again"]
    assert (crash["level"], crash["stack"].splitlines()[-1]) == ("error", "KeyError: 3")
    failure = by_event["invocation failed"]
    assert failure["first_position"] == failure["last_position"] == 17
    assert (failure["error"], failure["error_type"], failure["status_code"]) == ("error", "ValueError", 500)
    assert by_event["partitions assigned"]["partitions"] == ["orders-1", "orders-3"]
    assert by_event["partition let go with records settled beyond its checkpoint: they come again"]["repeated"] == 4
    assert by_event["mapping is now problem"]["hint"] == "set on_data_loss"
    assert by_event["the source warns"]["text"] == "it evicts"
    assert {line["mapping"] for line in written.objects} == {"orders-to-charge"}


def test_closing_takes_the_set_up_back() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with logging_to("json", "debug") as (_, logs):
        assert len(root.handlers) == len(before[1]) + 1
    logs.close()
    assert (root.level, root.handlers) == before
