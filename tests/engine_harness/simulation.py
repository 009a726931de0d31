"""A seeded life of a group of members: records, outcomes, rebalances, faults, stops, crashes; then all is healed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc

from engine_harness.group import CheckedDestination, GroupSource
from engine_harness.oracle import CheckedStream, CheckingObserver, Oracle, Violation
from engine_harness.scenario import POISON, Scenario
from engine_harness.scripts import FAILED, PARTIAL
from runner.core.flow import ByteBudget, PauseReason
from runner.core.permits import Permits
from runner.engine.clock import LoopClock
from runner.engine.mapping import Mapping
from runner.model import (
    SUCCEEDED,
    ErrorKind,
    FunctionError,
    Invocation,
    Outcome,
    Partition,
    PartlyFailed,
    Problem,
    Reason,
    Record,
    Throttled,
)
from runner.ports import CheckpointFailed, CheckpointFenced, SourceError
from runner.testing import ScriptedFunction

THROTTLED = FunctionError(ErrorKind.THROTTLED, "429", "slow down")
INJECTED = Problem(Reason.EVENT_SOURCE_UNREACHABLE, "injected")
EPOCH = 1_000_000.0
HEALED_WITHIN = 3_600.0  # virtual seconds


class Member:
    """One life of a mapping."""

    def __init__(self, simulation: Simulation) -> None:
        world = simulation
        self.observer = CheckingObserver(world.oracle, world.stream, ahead=world.scenario.policy.flow.ahead)
        self.source = GroupSource(
            world.stream,
            now=world.clock.now,
            assign=(),
            maximum_fetch_records=world.scenario.maximum_fetch_records,
        )
        self.mapping = Mapping(
            policy=world.scenario.policy,
            source=self.source,
            function=ScriptedFunction(world.answer, now=world.clock.now),
            destination=world.destination if world.scenario.has_destination else None,
            observer=self.observer,
            clock=world.clock,
            process_permits=world.permits,
            function_permits=None,
            budget=world.budget,
            jitter=world.rng.random,
        )
        self.over = anyio.Event()
        self._scope = anyio.CancelScope()

    @property
    def is_live(self) -> bool:
        return not self.over.is_set() and not self.mapping.is_stopping

    async def run(self) -> None:
        try:
            with self._scope:
                await self.mapping.run()
        except SourceError as error:
            if error.problem != INJECTED:
                raise
        finally:
            self.over.set()

    async def stop(self) -> None:
        self.mapping.stop()
        await self.over.wait()

    async def crash(self) -> None:
        self._scope.cancel()
        await self.over.wait()


class Simulation:
    """Made inside a running loop of virtual time."""

    def __init__(self, seed: int) -> None:
        self.scenario = Scenario(seed)
        self.rng = self.scenario.rng
        self.clock = LoopClock(epoch=EPOCH)
        self.stream = CheckedStream(self.scenario.partitions)
        self.oracle = Oracle(
            self.stream,
            self.scenario.ordering,
            self.scenario.attempts,
            has_destination=self.scenario.has_destination,
        )
        self.destination = CheckedDestination(self.oracle)
        self.permits = Permits(self.scenario.permits)
        self.budget = ByteBudget(self.scenario.budget)
        self.members: list[Member] = []
        self.log: list[str] = []
        self._healed = anyio.Event()
        self._others = 0  # bytes of the budget that mappings of other streams use
        self._freed = anyio.Event()  # what hangs goes on, and the destination is back
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Raises Violation."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._join()
            await self._rebalance()
            await self._append()
            for _ in range(self.rng.randint(10, 40)):
                await self._act()
                await anyio.sleep(self.rng.choice([0.0, 0.1, 0.7, 2.0]))
            await self._heal()
            await self._stop_all()
            tasks.cancel_scope.cancel()
        if self.permits.in_use or self.budget.used:
            raise Violation(f"{self.permits.in_use} permits and {self.budget.used} bytes were not given back")

    # --- the function

    async def answer(self, invocation: Invocation) -> Outcome:
        self.oracle.begins(invocation)
        try:
            outcome = await self._decide(invocation)
            failed = outcome.positions if isinstance(outcome, PartlyFailed) else frozenset()
            if outcome is SUCCEEDED or failed:
                self.oracle.handled([each for each in invocation.records if each.position not in failed])
            return outcome
        finally:
            self.oracle.ends(invocation)

    async def _decide(self, invocation: Invocation) -> Outcome:
        scenario, rng = self.scenario, self.rng
        if not self._healed.is_set():
            if rng.random() < scenario.hanging_share:
                await self._freed.wait()
                return FAILED
            with anyio.CancelScope(shield=scenario.is_stubborn):
                await anyio.sleep(rng.choice(scenario.latencies))
            roll = rng.random()
            if roll < scenario.throttling_share:
                return Throttled(THROTTLED, rng.choice([None, 0.0, 1.5]))
            if roll > 1 - scenario.failing_share:
                return FAILED
        return self._judge(invocation.records)

    def _judge(self, records: Sequence[Record]) -> Outcome:
        poison = [record for record in records if record.value == POISON]
        if not poison or (self._healed.is_set() and self.scenario.attempts < 0):
            return SUCCEEDED
        if not self.scenario.is_partial:
            return FAILED
        return PartlyFailed(frozenset(each.position for each in records if self._is_behind(each, poison)), PARTIAL)

    def _is_behind(self, record: Record, poison: Sequence[Record]) -> bool:
        """A function that keeps the order does nothing of a group behind what it failed on."""
        group = self.oracle.group_of(record)
        if group is None:
            return record in poison
        return any(self.oracle.group_of(each) == group and each.sequence <= record.sequence for each in poison)

    # --- what happens

    async def _act(self) -> None:
        actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, self._append),
            (3, self._rebalance_action),
            (2, self._stop_one),
            (1, self._stop_during_a_rebalance),
            (2, self._crash_one),
            (2, self._join_action),
            (2, self._refuse_checkpoints),
            (1, self._hold_checkpoints),
            (1, self._fence_one),
            (1, self._fail_a_fetch),
            (2, self._toggle_destination),
            (1, self._hold_destination),
            (1, self._toggle_stream),
            (2, self._toggle_others),
        ]
        [(_, action)] = self.rng.choices(actions, [weight for weight, _ in actions])
        self.log.append(f"{self.clock.now() - EPOCH:.1f} {getattr(action, '__name__', '')}")
        await action()

    async def _append(self) -> None:
        for _ in range(self.rng.choice([1, 20, 80])):
            partition = self.rng.choice(self.stream.partitions)
            stamp = int(self.clock.now() * 1000)
            self.stream.append(partition, self.rng.choice(self.scenario.keys), self.scenario.a_value(), (), stamp)
            if self.rng.random() < 0.05:
                self.stream.append_hole(partition, self.rng.randint(1, 4))

    def _join(self) -> None:
        if len(self._live()) < 3:
            assert self._tasks is not None
            member = Member(self)
            self.members.append(member)
            self._tasks.start_soon(member.run)

    async def _join_action(self) -> None:
        self._join()

    async def _rebalance_action(self) -> None:
        await self._rebalance()

    async def _rebalance(self) -> None:
        """As a group does: everybody lets go first, then everybody takes."""
        await anyio.sleep(0.01)  # those that have just joined open their sources
        live = self._live()
        if not live:
            return
        targets: dict[int, list[Partition]] = {index: [] for index in range(len(live))}
        for partition in self.stream.partitions:
            targets[self.rng.randrange(len(live))].append(partition)
        async with anyio.create_task_group() as tasks:
            for index, member in enumerate(live):
                kept = [partition for partition in member.source.assigned if partition in targets[index]]
                tasks.start_soon(member.source.rebalance, kept)
        for index, member in enumerate(live):
            if member.is_live:
                free = [partition for partition in targets[index] if not self._is_owned(partition, member)]
                await member.source.rebalance(free)

    def _is_owned(self, partition: Partition, by_another_than: Member) -> bool:
        return self.stream.owners.get(partition) not in (None, by_another_than.source)

    def _live(self) -> list[Member]:
        return [member for member in self.members if member.is_live]

    def _one(self) -> Member | None:
        live = self._live()
        return self.rng.choice(live) if live else None

    async def _stop_one(self) -> None:
        member = self._one()
        if member is not None:
            await member.stop()

    async def _stop_during_a_rebalance(self) -> None:
        member = self._one()
        if member is not None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._rebalance)
                await anyio.sleep(self.rng.choice([0.0, 0.02, 1.0]))
                tasks.start_soon(member.stop)

    async def _crash_one(self) -> None:
        member = self._one()
        if member is not None:
            await member.crash()

    async def _refuse_checkpoints(self) -> None:
        for member in self._live():
            member.source.checkpoint_faults.extend([CheckpointFailed("injected")] * self.rng.randint(1, 3))

    async def _hold_checkpoints(self) -> None:
        member = self._one()
        if member is not None:
            member.source.hold_checkpoints()
            await anyio.sleep(self.rng.choice([0.1, 1.0, 4.0]))
            member.source.release_checkpoints()

    async def _fence_one(self) -> None:
        """A member that fell out of its group loses what it has, and comes back."""
        member = self._one()
        if member is not None:
            member.source.checkpoint_faults.append(CheckpointFenced("injected"))
            await anyio.sleep(self.rng.choice([0.0, 1.5]))
            if member.is_live:
                await member.source.rebalance([])
            member.source.checkpoint_faults.clear()

    async def _fail_a_fetch(self) -> None:
        member = self._one()
        if member is not None:
            member.source.fetch_faults.append(SourceError(INJECTED))

    async def _toggle_destination(self) -> None:
        self.destination.available = not self.destination.available

    async def _hold_destination(self) -> None:
        self.destination.hold()
        await anyio.sleep(self.rng.choice([0.1, 2.0]))
        self.destination.release()

    async def _toggle_stream(self) -> None:
        self.stream.available = not self.stream.available
        self.stream.changed()

    async def _toggle_others(self) -> None:
        """Mappings of other streams fill the buffer of the process, and empty it."""
        others = 0 if self._others else self.scenario.budget
        self.budget.used += others - self._others
        self._others = others

    # --- the end

    async def _heal(self) -> None:
        """I1 and I7: after that everything comes to its end."""
        self.log.append(f"{self.clock.now() - EPOCH:.1f} heal")
        self.stream.available = True
        await self._have_a_member()
        await self._append()
        await anyio.sleep(self.rng.choice([0.0, 3.0]))
        self._healed.set()
        for member in self._live():
            member.source.checkpoint_faults.clear()
            member.source.fetch_faults.clear()
        await anyio.sleep(self.rng.choice([0.0, 20.0]))
        if self._others:
            await self._toggle_others()
        deadline = self.clock.now() + HEALED_WITHIN
        await anyio.sleep(30)  # a fetch that had failed ends its member's life now, and what can settle settles
        self._check_pauses()
        self.destination.available = True
        self._freed.set()
        await self._have_a_member()
        while not self.oracle.is_done:
            if self.clock.now() > deadline:
                raise Violation("\n".join(["something is stuck:", *self._describe()]))
            await anyio.sleep(1.0)

    async def _have_a_member(self) -> None:
        if not self._live():
            self._join()
        await self._rebalance()

    def _check_pauses(self) -> None:
        """I7: a lane that hangs keeps no partition from the room that others have made."""
        for member in self._live():
            for partition, worker in member.mapping.workers.items():
                if worker.flow.reason is PauseReason.PROCESS_BUFFER and self.budget.has_room:
                    raise Violation("\n".join([f"{partition} waits for room that there is:", *self._describe()]))

    async def _stop_all(self) -> None:
        live = self._live()
        before = sum(member.observer.announced for member in live)
        for member in live:
            await member.stop()
        if sum(member.observer.announced for member in live) != before:
            raise Violation("a clean stop of what is all settled announces repeated records")

    def _describe(self) -> list[str]:
        lines = [f"{each}: {self.oracle.unsettled(each)}, {self.stream.checkpoints}" for each in self.stream.partitions]
        for member in self.members:
            for partition, worker in member.mapping.workers.items():
                lanes = [(lane.index, lane.state.name, len(lane.batcher)) for lane in worker.lanes.values()]
                lines.append(f"{partition} live={member.is_live} paused={worker.flow.reason} lanes={lanes}")
        return lines
