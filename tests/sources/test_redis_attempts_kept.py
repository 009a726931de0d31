"""What is known of attempts beside what the server says, from assignment to assignment."""

from __future__ import annotations

from runner.sources.redis_attempts import Attempts
from runner.sources.redis_history import History


def a_history(**attempts: int) -> History:
    """Of entries that were all handed out before."""
    return History({entry_id: count for entry_id, count in attempts.items() if count}, known=set(attempts))


def test_it_counts_where_it_adds_to_what_the_server_says_or_takes_back_the_last() -> None:
    attempts = Attempts()
    attempts.note({"more": 2, "taken_back": 1, "overtaken": 1, "unknown": 1})
    attempts.begin_assignment()
    history = attempts.correct(a_history(more=1, taken_back=2, overtaken=3, other=4, untried=0))
    assert history.attempts == {"more": 2, "taken_back": 1, "overtaken": 3, "other": 4}


def test_an_attempt_that_is_taken_back_to_none_is_none() -> None:
    attempts = Attempts()
    attempts.note({"first": 0})
    attempts.begin_assignment()
    assert attempts.correct(a_history(first=1)).attempts == {}


def test_it_is_kept_while_assignments_end_before_the_entry_is_read_again() -> None:
    attempts = Attempts()
    attempts.note({"one": 0})
    attempts.begin_assignment()
    attempts.note({"other": 0})
    attempts.begin_assignment()
    attempts.begin_assignment()
    assert attempts.correct(a_history(one=1, other=1)).attempts == {}


def test_what_was_not_read_again_is_another_consumers_to_know() -> None:
    attempts = Attempts()
    attempts.note({"one": 0})
    attempts.begin_assignment()
    attempts.end_history()
    assert attempts.correct(a_history(one=1)).attempts == {"one": 1}
