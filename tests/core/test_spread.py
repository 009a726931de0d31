"""Partitions are divided evenly among members, with as few moves as that takes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from runner.core.spread import spread, were_lost

names = st.lists(st.text("abcdefgh", min_size=1, max_size=3), unique=True, max_size=12)
members = st.lists(st.sampled_from(["m1", "m2", "m3", "m4", "m5"]), unique=True, min_size=1)


def one_round(partitions: list[str], owners: dict[str, str], members: list[str]) -> tuple[dict[str, str], int]:
    """All members act on the same view at once; what is let go is free in the next round. How many moved, too."""
    plans = {member: spread(partitions, owners, members, member) for member in members}
    after = dict(owners)
    for plan in plans.values():
        for partition in plan.release:
            del after[partition]
    for member, plan in plans.items():
        for partition in plan.take:
            assert partition not in after, "what is dealt is free, and dealt once"
            after[partition] = member
    return after, sum(len(plan.release) for plan in plans.values())


@given(names, members, st.data())
def test_after_two_rounds_the_counts_differ_by_one_at_most(
    partitions: list[str], members: list[str], data: st.DataObject
) -> None:
    owners = {
        partition: data.draw(st.sampled_from(members), label=partition)
        for partition in partitions
        if data.draw(st.booleans(), label=f"{partition} is owned")
    }
    before = Counter(dict.fromkeys(members, 0))
    before.update(owners.values())
    after, moved = one_round(partitions, owners, members)
    after, again = one_round(partitions, after, members)
    counts = Counter(dict.fromkeys(members, 0))
    counts.update(after.values())
    assert set(after) == set(partitions)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert again == 0
    each, more = divmod(len(partitions), len(members))
    needed = sorted(before.values(), reverse=True)
    surplus = sum(max(0, count - each - (rank < more)) for rank, count in enumerate(needed))
    assert moved == surplus, "only the needed number moves"
    assert one_round(partitions, after, members) == (after, 0)


def test_an_owner_that_is_not_in_the_registry_keeps_its_share() -> None:
    plan = spread(["a", "b", "c", "d"], {"a": "other", "b": "other"}, ["me"], "me")
    assert plan.take == ["c", "d"]
    assert plan.release == []


def test_what_is_let_go_first_and_last() -> None:
    owners = dict.fromkeys(["a", "b", "c", "d"], "me")
    assert spread(list(owners), owners, ["me", "other"], "me").release == ["c", "d"]
    assert spread(list(owners), owners, ["me", "other"], "me", first=["a"]).release == ["d", "a"]
    assert spread(list(owners), owners, ["me", "other"], "me", last=["c", "d"]).release == ["a", "b"]
    assert spread(list(owners), owners, ["me", "other"], "me", first=["b"], last=["d"]).release == ["c", "b"]


def test_a_member_that_joins_gets_its_share_from_those_who_have_most() -> None:
    owners = {"a": "m1", "b": "m1", "c": "m1", "d": "m2", "e": "m2"}
    plans = {member: spread(list(owners), owners, ["m1", "m2", "m3"], member) for member in ["m1", "m2", "m3"]}
    assert plans["m1"].release == ["c"]
    assert plans["m2"].release == []
    assert [plans[member].take for member in plans] == [[], [], []], "nothing is free yet"


def test_members_are_lost_and_have_not_left_when_they_own_or_were_robbed_of_something() -> None:
    before = {"me", "m1", "m2"}
    assert were_lost(before, {"me"}, "me", owners=["m1"], robbed=[])
    assert were_lost(before, set(), "me", owners=["m1"], robbed=[])
    assert were_lost(before, {"me"}, "me", owners=[], robbed=["m1"])
    assert were_lost(before, {"me", "m2"}, "me", owners=[], robbed=["m1"]), "one is there again"
    assert not were_lost(before, {"me"}, "me", owners=["never heard of"], robbed=[])
    assert not were_lost(before, {"me", "m2"}, "me", owners=["m1"], robbed=[]), "one leaves"
    assert not were_lost(before, {"me"}, "me", owners=[], robbed=[]), "they have given back all"
    assert not were_lost(before, before, "me", owners=["m1", "m2"], robbed=["m1"])
