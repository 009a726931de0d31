"""The second argument of a handler: AWS Lambda's context object, with what identifies the invocation here."""

from __future__ import annotations

import os
import time
from functools import cache

from runner.functions.identity import valid_traceparent
from runner.model import Invocation, Position


class LambdaContext:
    """``aws_request_id`` is the idempotency key: the same for the same records, whatever the attempt.

    ``mapping``, ``partition`` (topic and number as in the event), ``first_position``, ``last_position``, ``attempt``
    (from 1), ``generation`` (higher than that of every earlier owner of the partition; None where its source has no
    leases) and ``traceparent`` (None when there is no valid one) are not AWS's.
    """

    __slots__ = ("_deadline", "_invocation")

    function_version = "$LATEST"
    identity = None
    client_context = None
    tenant_id = None

    def __init__(self, invocation: Invocation, timeout: float) -> None:
        """The ``timeout``, in seconds, begins now."""
        self._invocation = invocation
        self._deadline = time.monotonic() + timeout

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def log(self, message: object) -> None:
        """Write to standard output, as AWS's does, unbuffered and without a newline of its own."""
        print(message, end="", flush=True)

    @property
    def function_name(self) -> str:
        return self._invocation.function

    @property
    def invoked_function_arn(self) -> str:
        return f"arn:aws:lambda:local:000000000000:function:{self._invocation.function}"

    @property
    def aws_request_id(self) -> str:
        return self._invocation.idempotency_key

    @property
    def memory_limit_in_mb(self) -> str:
        """The machine's memory: nothing else limits a handler."""
        return _machine_memory_mb()

    @property
    def log_group_name(self) -> str:
        return f"/stream-runner/{self._invocation.function}"

    @property
    def log_stream_name(self) -> str:
        return f"{self._invocation.mapping}/{self._invocation.partition.identifier}"

    @property
    def mapping(self) -> str:
        return self._invocation.mapping

    @property
    def partition(self) -> str:
        return self._invocation.partition.identifier

    @property
    def first_position(self) -> Position:
        return self._invocation.first_position

    @property
    def last_position(self) -> Position:
        return self._invocation.last_position

    @property
    def attempt(self) -> int:
        return self._invocation.attempt

    @property
    def generation(self) -> int | None:
        lease = self._invocation.lease
        return None if lease is None else lease.generation

    @property
    def traceparent(self) -> str | None:
        return valid_traceparent(self._invocation)


@cache
def _machine_memory_mb() -> str:
    return str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2)
