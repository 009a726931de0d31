"""A function in this process, or in worker processes of it: a Python handler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal

from runner.functions import responses, tasks
from runner.functions.context import LambdaContext
from runner.functions.errors import error_of, timed_out, too_large
from runner.functions.lease import LeaseCheck, lease_expired
from runner.functions.loading import IMPORT_SECONDS, Handler, is_async, load_handler
from runner.functions.payloads.lambda_event import LambdaPayload
from runner.functions.payloads.shape import shape_of
from runner.functions.processes import HandlerProcesses, WorkerDied, WorkerNotStarted, processors
from runner.functions.steps import BlockingReport, watched
from runner.functions.threads import HandlerThreads, ThreadNotStarted
from runner.functions.worker import NoResult, Raised, Returned, Withheld, WorkerSpec, result_as_json
from runner.model import (
    SUCCEEDED,
    ErrorKind,
    Failed,
    FunctionError,
    Invocation,
    Outcome,
    Record,
    Throttled,
    TooLarge,
)
from runner.ports import FunctionNotValid, Observer

_NO_RETURN: Final = "the handler did not return"


class PythonFunction:
    """A handler that takes ``(event, context)``.

    ``payload``: ``lambda`` hands over AWS's event as a dict, ``records`` a list of Record. ``executor``: ``auto`` runs
    an ``async def`` on the loop and a ``def`` in a thread, ``process`` both in worker processes: as many as
    invocations run at once, up to the processors that this process may use; an invocation beyond
    them waits, and its timeout begins when a worker takes it. ``timeout`` is in seconds, ``maximum_payload`` in bytes:
    of the encoded event, or of keys, values and headers with ``records``. With ``now``, the clock that
    ``Invocation.lease`` counts by, no handler starts whose lease is over; None: no lease ever ends. The outcome is
    then Throttled, ``LeaseExpired``.
    """

    def __init__(
        self,
        *,
        name: str,
        handler: str,
        payload: Literal["lambda", "records"],
        timeout: float,
        executor: Literal["auto", "process"],
        report_batch_item_failures: bool,
        event_source: str,
        maximum_payload: int,
        app_dir: Path,
        observer: Observer,
        source_description: str | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._name = name
        self._handler_name = handler
        self._payload = LambdaPayload(event_source, source_description) if payload == "lambda" else None
        self._shape = shape_of(event_source)
        self._leases = LeaseCheck(now)
        self._timeout = timeout
        self._report = report_batch_item_failures
        self._maximum_payload = maximum_payload
        self._app_dir = app_dir
        self._observer = observer
        self._handler: Handler | None = None
        self._blocking = BlockingReport(handler)
        self._threads = HandlerThreads(f"function {name}")
        self._processes: HandlerProcesses | None = None
        if executor == "process":
            spec = WorkerSpec(
                app_dir=str(app_dir),
                handler=handler,
                payload=payload,
                event_source=event_source,
                timeout=timeout,
                report_batch_item_failures=report_batch_item_failures,
            )
            self._processes = HandlerProcesses(spec, processors(), self._leases)
        self._run: Callable[[Invocation], Awaitable[Outcome]] = self._not_open

    @property
    def name(self) -> str:
        return self._name

    @property
    def timeout(self) -> float:
        return self._timeout

    @property
    def fixed_size(self) -> int:
        return 0 if self._payload is None else self._payload.fixed_size

    @property
    def largest_expansion(self) -> tuple[float, int]:
        return (1.0, 0) if self._payload is None else self._payload.largest_expansion

    def size_of(self, record: Record) -> int:
        return record.size if self._payload is None else self._payload.size_of(record)

    async def open(self) -> None:
        if self._processes is not None:
            await self._processes.open()
            self._run = self._in_process
            return
        handler = self._handler = await self._imported()
        self._run = self._on_loop if is_async(handler) else self._in_thread

    async def _imported(self) -> Handler:
        # In a thread of ours: a module whose import hangs must stop neither the loop nor the end of the process.
        try:
            async with asyncio.timeout(IMPORT_SECONDS):
                handler, _ = await self._threads.run(
                    lambda: load_handler(self._handler_name, self._app_dir), timeout=IMPORT_SECONDS, overdue=_ignored
                )
        except ThreadNotStarted as error:
            raise FunctionNotValid(str(error)) from error
        except TimeoutError as error:
            text = f"the handler {self._handler_name} was not imported within {IMPORT_SECONDS:g} s"
            raise FunctionNotValid(text) from error
        return handler

    async def close(self) -> None:
        """A handler that still runs is left behind: see ``runner.functions.left_behind``."""
        self._threads.close()
        if self._processes is not None:
            await self._processes.close()

    async def invoke(self, invocation: Invocation) -> Outcome:
        """A handler that resists its timeout is reported to the observer once, then waited for."""
        size = self._excess(invocation)
        if size is not None:
            return TooLarge(too_large(size, self._maximum_payload))
        return await self._run(invocation)

    def _excess(self, invocation: Invocation) -> int | None:
        """The size in bytes when it is too large."""
        records = invocation.records
        size = sum([record.size for record in records])
        if self._payload is None:
            return size if size > self._maximum_payload else None
        factor, constant = self._payload.largest_expansion
        if self._payload.fixed_size + factor * size + constant * len(records) <= self._maximum_payload:
            return None
        size = self._payload.exact_size(invocation)
        return size if size > self._maximum_payload else None

    async def _not_open(self, invocation: Invocation) -> Outcome:
        raise RuntimeError(f"function {self._name} is not open")

    async def _on_loop(self, invocation: Invocation) -> Outcome:
        outcome = await tasks.run(
            self._awaited(invocation), timeout=self._timeout, overdue=lambda: self._report_overdue(invocation)
        )
        return Failed(timed_out(_NO_RETURN, self._timeout)) if outcome is None else outcome

    async def _awaited(self, invocation: Invocation) -> Outcome:
        assert self._handler is not None
        context = LambdaContext(invocation, self._timeout)
        try:
            event = self._event(invocation)
            if self._leases.is_over(invocation):
                return lease_expired(invocation)
            result = await watched(self._handler(event, context), self._blocking)
            return self._outcome(result, invocation)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Failed(error_of(error))

    async def _in_thread(self, invocation: Invocation) -> Outcome:
        start_by = self._leases.start_by(invocation)
        try:
            outcome, late = await self._threads.run(
                lambda: self._call(invocation, start_by),
                timeout=self._timeout,
                overdue=lambda: self._report_overdue(invocation),
            )
        except ThreadNotStarted as error:
            return _not_reached(error)
        return Failed(timed_out(_NO_RETURN, self._timeout)) if late else outcome

    def _call(self, invocation: Invocation, start_by: float) -> Outcome:
        """Runs in a thread."""
        assert self._handler is not None
        context = LambdaContext(invocation, self._timeout)
        try:
            event = self._event(invocation)
            if time.monotonic() >= start_by:
                return lease_expired(invocation)
            result = self._handler(event, context)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Failed(error_of(error))
        return self._outcome(result, invocation)

    async def _in_process(self, invocation: Invocation) -> Outcome:
        assert self._processes is not None
        try:
            answer = await self._processes.run(invocation)
        except TimeoutError:
            return Failed(timed_out(_NO_RETURN, self._timeout))
        except WorkerDied as error:
            return Failed(FunctionError(kind=ErrorKind.ERROR, type="WorkerDied", text=str(error)))
        except WorkerNotStarted as error:
            return _not_reached(error)
        match answer:
            case Returned(result):
                return responses.outcome_of(result, invocation, self._shape)
            case Withheld():
                return lease_expired(invocation)
            case Raised(reported):
                return Failed(reported)
            case _:
                raise RuntimeError(f"a worker answered an invocation with {answer!r}")

    def _event(self, invocation: Invocation) -> Any:
        # A list of its own: a handler may change it.
        return list(invocation.records) if self._payload is None else self._payload.event(invocation)

    def _outcome(self, result: Any, invocation: Invocation) -> Outcome:
        if result is None:
            return SUCCEEDED
        try:
            return responses.outcome_of(result_as_json(result, self._report), invocation, self._shape)
        except NoResult as unusable:
            return Failed(unusable.error)

    def _report_overdue(self, invocation: Invocation) -> None:
        self._observer.invocation_overdue(invocation, self._timeout)


def _not_reached(error: Exception) -> Throttled:
    """Nothing was handed to the handler, so that no attempt is used."""
    return Throttled(FunctionError(kind=ErrorKind.UNREACHABLE, type=type(error).__name__, text=str(error)))


def _ignored() -> None:
    """An import that takes long has no invocation to report."""
