"""Trying records that may have ended the processes that tried them."""

from __future__ import annotations

import anyio

from runner.model import ErrorKind, FunctionError, Invocation, Outcome, Position, Throttled, TooLarge
from runner.ports import AcknowledgesRecords, CheckpointFailed, CheckpointFenced, Function


class Suspects:
    """Invokes a mapping's suspects, one at a time in the whole process, so that none is charged for what another does
    to it.

    The attempt is charged before it is made: if it ends this process as well, nobody is left to do so. The permit is
    held meanwhile, since suspects are few.
    """

    def __init__(self, function: Function, keeper: AcknowledgesRecords, alone: anyio.Lock) -> None:
        """``alone`` is what the mappings of a process share."""
        self._function = function
        self._keeper = keeper
        self._alone = alone

    async def invoke(self, invocation: Invocation) -> Outcome:
        """``invocation`` hands over one record. Throttled when its attempt cannot be kept now."""
        assert len(invocation.records) == 1
        partition, position = invocation.partition, invocation.first_position
        async with self._alone:
            is_taken_back = True
            try:
                await self._keeper.charge(partition, {position: invocation.attempt})
                outcome = await self._function.invoke(invocation)
                is_taken_back = isinstance(outcome, Throttled | TooLarge)
                return outcome
            except CheckpointFenced as fence:
                is_taken_back = False  # it is nothing of ours any more
                return _not_kept(position, fence)
            except CheckpointFailed as failure:
                return _not_kept(position, failure)
            finally:  # cancelled, too: it was not the record that ended this; and it may be kept although that failed
                if is_taken_back:
                    self._keeper.attempted(partition, dict[Position, int]({position: invocation.attempt - 1}))


def _not_kept(position: Position, failure: Exception) -> Throttled:
    text = f"{position} was handed over again and again, and its next attempt cannot be kept: {failure}"
    return Throttled(FunctionError(kind=ErrorKind.UNREACHABLE, type="AttemptNotKept", text=text))
