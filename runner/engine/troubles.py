"""What keeps single partitions of a mapping from going on, and what is told of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from runner.model import Partition, Problem
from runner.ports import Observer

_NAMED: Final = 3


class PartitionTroubles:
    """By partition, ours or not: a source also says what keeps a partition from becoming ours.

    A stop is told at once; that a partition goes on only once it is read again, by this process.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._problems: dict[Partition, Problem] = {}
        self._forgotten: dict[Partition, Problem] = {}  # told of an assignment that is over
        self._resuming: set[Partition] = set()  # not ours yet, with nothing in the way any more

    @property
    def by_partition(self) -> Mapping[Partition, Problem]:
        return self._problems

    def stopped(self, partition: Partition, problem: Problem) -> None:
        self._problems[partition] = problem
        self._resuming.discard(partition)
        # What ended an assignment is said again by who lets the partition go.
        if self._forgotten.pop(partition, None) != problem:
            self._observer.partition_problem(partition, problem)

    def over(self, partition: Partition, *, is_read: bool) -> None:
        self._forgotten.pop(partition, None)
        if self._problems.pop(partition, None) is None:
            return
        if is_read:
            self._observer.partition_problem(partition, None)
        else:
            self._resuming.add(partition)

    def assigned(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._forgotten.pop(partition, None)
            if partition in self._resuming:
                self._resuming.remove(partition)
                self._observer.partition_problem(partition, None)

    def forget(self, partition: Partition) -> None:
        """Its assignment is over: what is wrong with it is the next owner's to say, or is said again."""
        problem = self._problems.pop(partition, None)
        if problem is not None:
            self._forgotten[partition] = problem

    @property
    def problem(self) -> Problem | None:
        """All of them as one: how many, the first few by name, and what is wrong with the first."""
        if not self._problems:
            return None
        partitions = sorted(self._problems)
        problem = self._problems[partitions[0]]
        names = ", ".join(str(each) for each in partitions[:_NAMED])
        if len(partitions) > 1:
            more = len(partitions) - _NAMED
            names = f"{len(partitions)} partitions: {names}" + (f" and {more} more" if more > 0 else "")
        return Problem(problem.reason, f"{names}: {problem.text}", problem.hint)
