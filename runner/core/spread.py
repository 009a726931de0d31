"""Which partitions each of several owners should take or let go, so that all have about as many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple


class Plan(NamedTuple):
    """What one member should do now; both may be empty, and at least one is."""

    take: Sequence[str]
    release: Sequence[str]


def spread(
    partitions: Sequence[str],
    owners: Mapping[str, str],
    members: Collection[str],
    me: str,
    *,
    first: Collection[str] = (),
    last: Collection[str] = (),
) -> Plan:
    """What ``me`` should do; ``owners`` holds the partitions that are owned, by whom. Of mine, those in ``first`` are
    let go before others, and those in ``last`` after them.

    Every member that sees the same comes to the same division, so that nobody needs to lead: numbers of partitions
    that differ by one at most, with as few moves as that takes. Who owns more than its share lets go; what is free is
    dealt to those who own less. Members that own something belong, known or not.
    """
    counts = Counter(dict.fromkeys({*members, *owners.values(), me}, 0))
    counts.update(owners[partition] for partition in partitions if partition in owners)
    shares = _shares(len(partitions), counts)
    mine = sorted(
        [partition for partition in partitions if owners.get(partition) == me],
        key=lambda partition: (partition in first, partition not in last, partition),  # who is let go stands last
    )
    free = [partition for partition in sorted(partitions) if partition not in owners]
    return Plan(
        take=[partition for partition, member in _deal(free, counts, shares) if member == me],
        release=mine[shares[me] :],
    )


def were_lost(
    before: Collection[str], members: Collection[str], me: str, *, owners: Collection[str], robbed: Collection[str]
) -> bool:
    """Whether of those who were members ``before`` and are not any more some have not left: the registry was lost, and
    they will be in it again at their next heartbeat. Until then nothing should be moved.

    ``owners`` still own something; of those who are ``robbed`` a lease is gone that they have not given back. One who
    leaves owns something until it is drained, but not all leave at once."""
    missing = {*before}.difference(members)
    is_empty = {me}.issuperset(members)
    return not missing.isdisjoint(robbed) or (is_empty and not missing.isdisjoint(owners))


def _shares(partitions: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Who owns most keeps what does not divide evenly: it need not move."""
    each, more = divmod(partitions, len(counts))
    ranked = sorted(counts, key=lambda member: (-counts[member], member))
    return {member: each + (rank < more) for rank, member in enumerate(ranked)}


def _deal(free: Sequence[str], counts: Mapping[str, int], shares: Mapping[str, int]) -> list[tuple[str, str]]:
    room = {member: shares[member] - count for member, count in counts.items() if count < shares[member]}
    dealt: list[tuple[str, str]] = []
    for partition in free:
        if not room:
            break
        member = min(room, key=lambda each: (-room[each], each))
        dealt.append((partition, member))
        room[member] -= 1
        if not room[member]:
            del room[member]
    return dealt
