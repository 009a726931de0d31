"""Who may invoke when there are fewer permits than wishes."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runner.core.permits import Permits


class Member:
    """A mapping: it wants so many more permits, and asks again when it is told that one is free."""

    def __init__(self, permits: Permits, name: str) -> None:
        self.name = name
        self.wanted = 0
        self.held = 0
        self.taken = 0
        self._permits = permits
        permits.join(self)

    def want(self, count: int) -> None:
        self.wanted += count
        self.pump()

    def pump(self) -> None:
        while self.wanted and self._permits.try_take(self, self.pump):
            self.wanted -= 1
            self.held += 1
            self.taken += 1

    def finish(self) -> None:
        """An invocation ended: take again at once if that is allowed, then let the others ask."""
        self.held -= 1
        self._permits.give_back(self)
        self.pump()
        self._permits.wake()

    def leave(self) -> None:
        self._permits.leave(self)


def members_of(permits: Permits, count: int) -> list[Member]:
    return [Member(permits, f"member {number}") for number in range(count)]


def kept_free(limit: int, members: int, without: int) -> int:
    """How many a member that holds some leaves: one for each that holds none, as long as there is one for everybody."""
    return without if members <= limit else min(without, max(1, limit // 4))


class PermitsMachine(RuleBasedStateMachine):
    """Members come, want, finish, lose interest and leave; the limit changes under them."""

    def __init__(self) -> None:
        super().__init__()
        self.members: list[Member] = []
        self.joined = 0

    @initialize(limit=st.integers(1, 6))
    def begin(self, limit: int) -> None:
        self.permits = Permits(limit)

    @precondition(lambda self: len(self.members) < 6)
    @rule()
    def join(self) -> None:
        self.joined += 1
        self.members.append(Member(self.permits, f"member {self.joined}"))

    @precondition(lambda self: self.members)
    @rule(data=st.data(), count=st.integers(1, 4))
    def want(self, data: st.DataObject, count: int) -> None:
        member = data.draw(st.sampled_from(self.members))
        others_without = sum(not other.held for other in self.members if other is not member)
        free, held, taken = self._free, member.held, member.taken
        member.want(count)
        if member.taken > taken and (held or member.taken > taken + 1):
            kept = kept_free(self.permits.limit, len(self.members), others_without)
            assert self._free >= kept, "some are left for those that have none"
        if free > 0 and not held and not self._waiting_without(member):
            assert member.held, "a free permit is there for who has none"

    @precondition(lambda self: any(member.held for member in self.members))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([member for member in self.members if member.held])).finish()

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def lose_interest(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.members)).wanted = 0

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.members))
        self.members.remove(member)
        member.leave()

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def finish_after_leaving(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.members))
        self.members.remove(member)
        member.leave()
        for _ in range(member.held):
            self.permits.give_back(member)

    @rule(limit=st.integers(1, 6))
    def resize(self, limit: int) -> None:
        self.permits.resize(limit)

    @property
    def _free(self) -> int:
        return self.permits.limit - sum(member.held for member in self.members)

    def _waiting_without(self, but: Member) -> bool:
        return any(member.wanted and not member.held for member in self.members if member is not but)

    @invariant()
    def every_permit_is_accounted_for(self) -> None:
        if self.members:
            assert self.permits.in_use == sum(member.held for member in self.members)

    @invariant()
    def no_permit_lies_idle_while_a_member_waits_with_none(self) -> None:
        if self._free > 0:
            assert not any(member.wanted and not member.held for member in self.members)

    @invariant()
    def nobody_waits_while_there_are_more_permits_than_are_kept_for_members_without(self) -> None:
        without = sum(not member.held for member in self.members)
        if self.members and self._free > kept_free(self.permits.limit, len(self.members), without):
            assert not any(member.wanted for member in self.members)


TestPermitsMachine = PermitsMachine.TestCase
TestPermitsMachine.settings = settings(max_examples=100, stateful_step_count=25)


@given(st.integers(1, 5), st.integers(1, 8), st.lists(st.integers(0, 100), max_size=80))
def test_the_limit_is_never_passed_and_nobody_starves(limit: int, count: int, order: list[int]) -> None:
    """All want for ever: between two permits of one member each other one gets at most ``limit``."""
    permits = Permits(limit)
    members = members_of(permits, count)
    for member in members:
        member.want(1_000)
    overtaken = dict.fromkeys(members, 0)
    for pick in order:
        assert permits.in_use <= limit
        running = [member for member in members if member.held]
        before = {member: member.taken for member in members}
        running[pick % len(running)].finish()
        grants = sum(member.taken - before[member] for member in members)
        for member in members:
            overtaken[member] = 0 if member.held else overtaken[member] + grants
            assert overtaken[member] < count


def test_with_one_permit_two_members_alternate() -> None:
    first, second = members_of(Permits(1), 2)
    first.want(10)
    second.want(10)
    turns = []
    for _ in range(6):
        running = first if first.held else second
        turns.append(running)
        running.finish()
    assert turns == [first, second] * 3


@given(st.integers(2, 5), st.integers(0, 10))
def test_a_member_whose_function_hangs_never_blocks_the_others(count: int, spare: int) -> None:
    limit = count + spare
    hog, *others = members_of(Permits(limit), count)
    hog.want(1_000)
    assert hog.held == limit - len(others)
    for other in others:
        other.want(3)
        while other.wanted or other.held:
            assert other.held, "the hog never finishes, and yet this one runs"
            other.finish()
        assert other.taken == 3


@given(st.data(), st.integers(1, 40), st.integers(0, 40))
def test_however_many_functions_hang_everybody_has_a_permit(data: st.DataObject, count: int, spare: int) -> None:
    permits = Permits(count + spare)
    members = members_of(permits, count)
    for member in data.draw(st.permutations(members)):
        member.want(1_000)
        assert member.held, "none of the others ever finishes"
    assert permits.in_use == permits.limit, "none lies idle when everybody wants"


@pytest.mark.parametrize(("limit", "count"), [(4, 3), (8, 5)])
def test_those_that_come_first_leave_one_to_those_that_come_last(limit: int, count: int) -> None:
    members = members_of(Permits(limit), count)
    for member in members:
        member.want(limit)
    assert [member.held for member in members] == [limit - count + 1] + [1] * (count - 1)


@pytest.mark.parametrize(("limit", "count", "held"), [(1, 2, 1), (3, 9, 2), (8, 9, 6), (100, 1_000, 75)])
def test_where_there_are_more_members_than_permits_a_quarter_is_kept_for_those_that_have_none(
    limit: int, count: int, held: int
) -> None:
    busy, *idle = members_of(Permits(limit), count)
    busy.want(limit)
    assert busy.held == held
    for member in idle[: limit - held]:
        member.want(1)
        assert member.held


def test_one_member_more_than_permits_lets_those_that_wait_go_on() -> None:
    permits = Permits(8)
    busy, *_ = members_of(permits, 8)
    busy.want(8)
    assert busy.held == 1
    late = Member(permits, "late")
    assert busy.held == 6
    late.want(1)
    assert late.held == 1


def test_a_member_alone_has_all_permits() -> None:
    (alone,) = members_of(Permits(5), 1)
    alone.want(9)
    assert alone.held == 5


def test_who_was_refused_first_is_told_first() -> None:
    permits = Permits(1)
    told: deque[str] = deque()
    for name in "abcd":
        permits.join(name)
    assert permits.try_take("a", lambda: None)
    for name in "cbd":
        assert not permits.try_take(name, lambda name=name: told.append(name))  # type: ignore[misc]
    permits.give_back("a")
    permits.wake()
    assert list(told) == ["c", "b", "d"]


def test_who_asks_no_more_keeps_nobody_waiting() -> None:
    permits = Permits(1)
    running, gone, waiting = members_of(permits, 3)
    running.want(1)
    gone.want(1)
    waiting.want(1)
    gone.wanted = 0
    running.finish()
    assert (gone.held, waiting.held) == (0, 1)


def test_a_permit_that_was_given_back_may_be_taken_again_before_anybody_is_told() -> None:
    permits = Permits(2)
    busy, _idle = members_of(permits, 2)
    busy.want(2)
    assert (busy.held, busy.wanted) == (1, 1)
    busy.finish()
    assert (busy.held, busy.wanted) == (1, 0)


def test_leaving_frees_what_was_held_and_a_late_return_counts_no_more() -> None:
    permits = Permits(2)
    leaving, staying = members_of(permits, 2)
    leaving.want(1)
    staying.want(2)
    assert staying.held == 1
    leaving.leave()
    assert staying.held == 2
    permits.give_back(leaving)
    assert permits.in_use == 2


def test_a_member_joins_once() -> None:
    permits = Permits(1)
    permits.join("a")
    with pytest.raises(AssertionError):
        permits.join("a")


def test_a_lower_limit_takes_nothing_away_and_lets_nothing_new_start() -> None:
    permits = Permits(3)
    (member,) = members_of(permits, 1)
    member.want(9)
    permits.resize(1)
    assert (member.held, permits.in_use) == (3, 3)
    member.finish()
    member.finish()
    assert member.held == 1
    member.finish()
    assert member.held == 1


def test_a_higher_limit_starts_who_waits() -> None:
    permits = Permits(1)
    (member,) = members_of(permits, 1)
    member.want(3)
    permits.resize(3)
    assert member.held == 3
