"""Whether an invocation may still be started: its partition's lease may have ended while it waited."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from runner.model import ErrorKind, FunctionError, Invocation, Throttled


class LeaseCheck:
    """``now`` is the clock that ``Lease.until`` counts by; None: no lease ever ends. All methods are the loop's."""

    def __init__(self, now: Callable[[], float] | None) -> None:
        self._now = now

    def is_over(self, invocation: Invocation) -> bool:
        """Another may own the partition: nothing of it may be handed over any more."""
        lease = invocation.lease
        return lease is not None and self._now is not None and self._now() >= lease.until

    def start_by(self, invocation: Invocation) -> float:
        """The time of ``time.monotonic()``, which threads and processes share, from which on it is over."""
        lease = invocation.lease
        if lease is None or self._now is None:
            return math.inf
        # In this order: if the process stands still between the two readings, the time becomes earlier, never later.
        return time.monotonic() + (lease.until - self._now())


def lease_expired(invocation: Invocation) -> Throttled:
    """The outcome of an invocation of which the function got nothing, or not the whole."""
    lease = invocation.lease
    assert lease is not None
    whose = f"{invocation.partition}" + ("" if lease.generation is None else f", generation {lease.generation}")
    text = f"the lease of {whose}, ended before the function was called"
    return Throttled(FunctionError(kind=ErrorKind.UNREACHABLE, type="LeaseExpired", text=text))
