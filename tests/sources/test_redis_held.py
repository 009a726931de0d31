"""What a consumer knows of its entries stays right, whatever the server says of them and in whatever order."""

from __future__ import annotations

from runner.sources.redis_held import HeldEntries

A, B, C, D = "1-1", "1-2", "1-3", "1-4"


def holding(*ids: str) -> HeldEntries:
    held = HeldEntries()
    held.take(ids)
    return held


def acknowledge(held: HeldEntries, *ids: str, others: tuple[str, ...] = (), nobodys: tuple[str, ...] = ()) -> int:
    return held.acknowledged(ids, held.begin_to_acknowledge(ids), others, nobodys)


def test_an_entry_is_held_until_it_is_acknowledged() -> None:
    held = holding(A, B)
    assert A in held
    assert list(held.to_keep) == [A, B]
    assert len(held) == 2
    assert held.has_all([B, A])
    assert acknowledge(held, A) == 0
    assert A not in held
    assert list(held.to_keep) == [B]
    assert len(held) == 1
    assert not held.has_all([B, A])


def test_what_is_anothers_is_neither_kept_nor_taken_again() -> None:
    held = holding(A, B, C)
    held.note(others=[A], nobodys=[B], gone=[])
    assert [held.is_ours(each) for each in (A, B, C, D)] == [False, False, True, False]
    assert list(held.to_keep) == [C]
    assert A in held
    assert acknowledge(held, A, B, C, others=(A,), nobodys=(B,)) == 2
    assert list(held.to_keep) == []


def test_what_nobody_here_works_on_any_more_may_be_taken_again() -> None:
    held = holding(A, B)
    held.note(others=[A], nobodys=[], gone=[])
    held.drop([A])
    assert A not in held
    held.take([A])
    assert held.is_ours(A)
    assert list(held.to_keep) == [B, A]


def test_what_is_deleted_while_it_is_worked_on_is_nobody_elses() -> None:
    held = holding(A, B)
    held.note(others=[], nobodys=[], gone=[A])
    held.note(others=[], nobodys=[A], gone=[])
    assert held.is_ours(A)
    assert list(held.to_keep) == [B]
    assert acknowledge(held, A, nobodys=(A,)) == 0, "and it is not too late for it"


def test_deleted_entries_that_were_not_settled_are_lost_once() -> None:
    held = holding(A, B, C)
    held.note(others=[], nobodys=[], gone=[A, B])
    assert list(held.lose_gone(settled=[B])) == [A]
    assert list(held.lose_gone(settled=[])) == []


def test_an_acknowledgement_whose_answer_was_lost_is_not_late_when_it_is_repeated() -> None:
    held = holding(A, B)
    assert list(held.begin_to_acknowledge([A])) == []  # and no answer
    held.note(others=[], nobodys=[A], gone=[])
    assert held.is_ours(A), "a heartbeat between the two takes it for acknowledged"
    tried = held.begin_to_acknowledge([A, B])
    assert list(tried) == [A]
    assert held.acknowledged([A, B], tried, others=[], nobodys=[A]) == 0
    assert list(held.to_keep) == []


def test_it_is_late_when_another_took_what_was_perhaps_acknowledged() -> None:
    held = holding(A)
    held.begin_to_acknowledge([A])  # it did not arrive
    assert acknowledge(held, A, others=(A,)) == 1


def test_what_the_server_says_of_entries_that_are_not_held_changes_nothing() -> None:
    held = holding(A)
    held.note(others=[B], nobodys=[C], gone=[D])
    assert list(held.to_keep) == [A]
    assert list(held.lose_gone(settled=[])) == []
