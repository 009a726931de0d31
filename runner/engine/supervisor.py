"""All mappings of this process: what should run, runs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import NamedTuple

import anyio
import anyio.abc

from runner.core.retry import RetryPolicy
from runner.engine.mapping import Mapping
from runner.model import MappingState, Problem, Reason
from runner.ports import Clock, FunctionNotValid, Observer, SourceError

_HEALTHY_AFTER = 60.0  # seconds of running after which a failure is a new one


@dataclass(frozen=True, slots=True)
class Desired:
    """One mapping as the configuration wants it.

    Two are the same mapping, left alone by a reload, when their ``fingerprint`` is equal. ``build`` makes a new
    Mapping for each start; it connects to nothing. ``until_caught_up``: the mapping ends by itself, also when it cannot
    begin for a reason that stays.
    """

    name: str
    function: str
    fingerprint: object
    build: Callable[[], Mapping]
    observer: Observer
    enabled: bool = True
    until_caught_up: bool = False


class Changes(NamedTuple):
    """What a new configuration makes of the mappings, by name; the others see nothing of it."""

    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    changed: Sequence[str] = ()


class Slot:
    """The place of one mapping name: what is wanted of it, and what runs for it now."""

    def __init__(self, desired: Desired) -> None:
        self.desired: Desired | None = desired
        self.shown: Desired = desired  # what runs, or ran last
        self.mapping: Mapping | None = None
        self.problem: Problem | None = None
        self.is_ready = False  # it has joined once, or is in a problem that somebody must look at
        self.has_begun = False  # the life that runs now, or ran last, has joined
        self.is_finished = False
        self.changed = anyio.Event()
        self.after: list[anyio.Event] = []  # what must have left before the next life joins
        self.left = anyio.Event()  # set when the life that runs now is over

    @property
    def is_leaving(self) -> bool:
        return self.mapping is not None and self.mapping.is_stopping

    @property
    def is_at_rest(self) -> bool:
        """Nothing of it will run until it is changed."""
        return self.is_finished or (self.desired is self.shown and not self.shown.enabled and self.mapping is None)

    def want(self, desired: Desired | None) -> None:
        self.desired = desired
        self.changed.set()
        if self.mapping is not None:
            self.mapping.stop()

    @property
    def _is_retrying(self) -> bool:
        """Started again after a problem, which counts until it has joined."""
        return self.mapping is not None and self.problem is not None and not self.mapping.has_joined

    @property
    def state(self) -> MappingState:
        if self.mapping is not None and not self._is_retrying:
            return self.mapping.state
        if self.problem is not None:
            return MappingState.PROBLEM
        if self.is_finished or not self.shown.enabled:
            return MappingState.DISABLED
        return MappingState.CREATING

    @property
    def current_problem(self) -> Problem | None:
        if self.mapping is None or self._is_retrying:
            return self.problem
        return self.mapping.problem


class Supervisor:
    """Starts, stops and replaces mappings; one that fails is started again with backoff and takes no other down."""

    def __init__(self, clock: Clock, *, jitter: Callable[[], float], backoff: RetryPolicy | None = None) -> None:
        self._clock = clock
        self._jitter = jitter
        self._backoff = backoff or RetryPolicy(initial_backoff=1.0, maximum_backoff=30.0)
        self._slots: dict[str, Slot] = {}
        self._group: anyio.abc.TaskGroup | None = None
        self._desired: Dict[str, Desired] = {}
        self._empty = anyio.Event()
        self._is_stopping = False

    @property
    def slots(self) -> Iterator[Slot]:
        """In the configuration's order; the removed ones that still drain come last."""
        names = [*self._desired, *(name for name in self._slots if name not in self._desired)]
        return iter([self._slots[name] for name in names if name in self._slots])

    def reconcile(self, desired: Dict[str, Desired]) -> Changes:
        """Make what runs equal to ``desired``, in the background; unchanged mappings see nothing.

        What is new or changed joins after all that had to go has left, since it may have taken over its group."""
        if self._is_stopping:
            return Changes()
        changes = _changes(self._desired, desired)
        self._desired = desired
        joining: list[Slot] = []
        for name, slot in list(self._slots.items()):
            wanted = desired.get(name)
            if wanted is not None and slot.desired is not None and slot.desired.fingerprint == wanted.fingerprint:
                continue
            if slot.is_finished:
                del self._slots[name]
                continue
            slot.want(wanted)
            joining.append(slot)
        new = [self._start(wanted) for name, wanted in desired.items() if name not in self._slots]
        joining += [slot for slot in new if slot is not None]
        leaving = [slot.left for slot in self._slots.values() if slot.is_leaving]
        for slot in joining:
            slot.after += leaving
        return changes

    def stop(self) -> None:
        """Drain every mapping; ``run`` returns when the last one is gone."""
        self._is_stopping = True
        for slot in self._slots.values():
            slot.want(None)
        self._check_empty()

    async def run(self) -> None:
        """Until ``stop``, or until every mapping ended by itself."""
        async with anyio.create_task_group() as group:
            self._group = group
            for desired in self._desired.values():
                self._start(desired)
            self._check_empty()
            await self._empty.wait()
            self.stop()  # those at rest go as well

    def _start(self, desired: Desired) -> Slot | None:
        if self._group is None or self._is_stopping:
            return None
        slot = self._slots[desired.name] = Slot(desired)
        self._group.start_soon(self._tend, slot)
        return slot

    def _check_empty(self) -> None:
        slots = self._slots.values()
        if all(slot.is_at_rest for slot in slots) and (self._is_stopping or any(slot.is_finished for slot in slots)):
            self._empty.set()

    async def _tend(self, slot: Slot) -> None:
        """One task a name: run what is wanted, as it is wanted now."""
        failures = 0
        while (desired := slot.desired) is not None:
            slot.changed = anyio.Event()
            if desired is not slot.shown:
                slot.shown, slot.problem = desired, None
            if not desired.enabled:
                slot.is_ready = True
                desired.observer.state_changed(MappingState.DISABLED, None)
                self._check_empty()
                await slot.changed.wait()
                continue
            if slot.after:
                await slot.after.pop().wait()
                continue
            started = self._clock.now()
            slot.problem = await self._run_once(slot, desired)
            if slot.problem is None:
                failures = 0
                if slot.desired is desired:
                    break
                continue
            failures = 1 if self._clock.now() - started > _HEALTHY_AFTER else failures + 1
            slot.is_ready = True
            desired.observer.state_changed(MappingState.PROBLEM, slot.problem)
            if desired.until_caught_up and not slot.has_begun:
                is_tried_again = not slot.problem.reason.stays
                desired.observer.end_not_in_sight(slot.problem, is_tried_again)
                if not is_tried_again and slot.desired is desired:
                    break
            with anyio.move_on_after(self._backoff.backoff(failures, 0.5 + self._jitter() / 2)):
                await slot.changed.wait()
        slot.is_finished = True
        if slot.desired is None:
            del self._slots[slot.shown.name]
        self._check_empty()

    async def _run_once(self, slot: Slot, desired: Desired) -> Problem | None:
        """One life of the mapping; what ended it, or None when it was told to stop or had caught up."""
        mapping: Mapping | None = None
        slot.left = anyio.Event()
        try:
            mapping = slot.mapping = desired.build()
            await mapping.run()
        except SourceError as error:
            return error.problem
        except FunctionNotValid as error:
            return Problem(Reason.FUNCTION_CONFIG_NOT_VALID, str(error), error.hint)
        except Exception as error:
            # A defect of ours or of a client library must not take the other mappings down.
            desired.observer.crashed("".join(traceback.format_exception(error)))
            return Problem(
                Reason.INTERNAL_ERROR,
                f"{type(error).__name__}: {_innermost(error)}",
                "the mapping is started again; its records since the last checkpoint come again",
            )
        finally:
            slot.has_begun = mapping is not None and mapping.has_joined
            slot.is_ready |= slot.has_begun
            slot.mapping = None
            slot.left.set()
        desired.observer.state_changed(MappingState.DISABLED, None)
        return None


def _changes(before: Dict[str, Desired], after: Dict[str, Desired]) -> Changes:
    return Changes(
        added=[name for name in after if name not in before],
        removed=[name for name in before if name not in after],
        changed=[name for name in after if name in before and after[name].fingerprint != before[name].fingerprint],
    )


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error
