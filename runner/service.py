"""One process from start to exit: mappings, admin side, signals, reloads."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType

import anyio
import anyio.abc
import structlog

from runner import config as configuration
from runner.admin.health import HealthReport, liveness, readiness
from runner.admin.server import AdminServer
from runner.assembly import Assembly
from runner.config import Config, ConfigInvalid
from runner.engine.clock import LoopClock
from runner.engine.supervisor import Changes, Supervisor
from runner.model import MappingState, Settlement
from runner.progress import Progress
from runner.telemetry.logs import Logs
from runner.telemetry.snapshot import LimitsSnapshot, MappingSnapshot, Usage
from runner.telemetry.telemetry import Telemetry
from runner.views import snapshot_of

_POLLER_LIMIT = 30.0  # seconds without a turn of a poller after which the process is not alive
_SAME_SIGNAL = 0.5
"""Seconds after a signal in which another is the same: who signals a process, and then its group, sends it twice."""

_log = structlog.stdlib.get_logger("runner.service")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, all mappings together, and what it left unsettled when it was ended before it was done."""

    settled: Mapping[Settlement, int]
    retried: int
    invocations: int
    seconds: float
    unsettled: Sequence[str]
    is_complete: bool


class Service:
    """Runs a configuration until a signal ends it, or until every mapping has caught up."""

    def __init__(
        self,
        config: Config,
        *,
        path: Path,
        environ: Mapping[str, str],
        app_dir: Path,
        logs: Logs,
        until_caught_up: bool = False,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``deadline``: seconds after which the run is ended, done or not. Made inside the running loop."""
        self._config = config
        self._path = path
        self._environ = environ
        self._until_caught_up = until_caught_up
        self._deadline = deadline
        self._progress = progress
        self._clock = LoopClock()
        self._telemetry = Telemetry(
            version=installed_version(), snapshots=self.snapshots, limits=self._limits, log_counts=logs.counts
        )
        self._assembly = Assembly(
            clock=self._clock, telemetry=self._telemetry, app_dir=app_dir, until_caught_up=until_caught_up
        )
        self._supervisor = Supervisor(self._clock, jitter=random.random)
        self._observed: set[tuple[str, str]] = set()
        self._is_complete = True
        self._unsettled: Sequence[str] = ()

    async def run(self) -> Summary:
        """Raises AdminUnavailable. Returns when everything is drained."""
        started = self._clock.now()
        self._reconcile(self._config)
        self._telemetry.config_loaded(successful=True, now=started)
        admin = self._admin()
        if admin is not None:
            await admin.start()
            _log.info("admin side listens", address=admin.address)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._telemetry.loop.run)
                group.start_soon(self._handle_signals)
                if self._deadline is not None:
                    group.start_soon(self._end_at_deadline, self._deadline)
                if self._progress is not None:
                    group.start_soon(self._progress.run, self.snapshots, self._settled_total)
                if not self._until_caught_up or any(each.enabled for each in self._config.mappings.values()):
                    await self._supervisor.run()
                    self._note_problems()
                group.cancel_scope.cancel()
        finally:
            if admin is not None:
                with anyio.CancelScope(shield=True):
                    await admin.stop()
        return self._summary(self._clock.now() - started)

    # --- signals

    async def _handle_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload()
                    continue
                # From here on the system's own handling ends the process: nothing that hangs can keep it.
                exit_at_once = _exit_at_once_after(time.monotonic())
                for each in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(each, exit_at_once)
                _log.info("draining; a second signal exits at once", signal=signal.Signals(number).name)
                self._stop(is_complete=not self._until_caught_up)
                await anyio.sleep_forever()

    def _stop(self, *, is_complete: bool) -> None:
        self._is_complete = is_complete
        self._unsettled = [line for each in self.snapshots() if (line := _unsettled(each))]
        self._supervisor.stop()

    def _note_problems(self) -> None:
        """Those with which mappings ended by themselves."""
        if self._until_caught_up and self._is_complete:
            ended = [each for each in self.snapshots() if each.problem is not None]
            self._unsettled = [_unsettled(each) for each in ended]
            self._is_complete = not ended

    async def _end_at_deadline(self, deadline: float) -> None:
        await anyio.sleep(deadline)
        _log.warning("the deadline is over; draining", deadline=deadline)
        self._stop(is_complete=False)

    def _reload(self) -> None:
        """All or nothing: a file that is not valid changes nothing."""
        try:
            config = configuration.load(self._path, self._environ)
        except ConfigInvalid as invalid:
            self._telemetry.config_loaded(successful=False, now=self._clock.now())
            for error in invalid.errors:
                _log.error("reload refused", error=str(error), hint=error.hint)
            return
        if config.admin != self._config.admin:
            self._telemetry.config_loaded(successful=False, now=self._clock.now())
            _log.error("reload refused", error="admin.listen cannot change while running", hint="restart the process")
            return
        self._config = config
        changes = self._reconcile(config)
        self._telemetry.config_loaded(successful=True, now=self._clock.now())
        _log.info("configuration reloaded", mappings=len(config.mappings), **changes._asdict())

    def _reconcile(self, config: Config) -> Changes:
        changes = self._supervisor.reconcile(self._assembly.desired(config))
        self._forget_gone()
        return changes

    def _forget_gone(self) -> None:
        """Series of mappings, and of pairs of mapping and function, that neither run nor are wanted."""
        wanted = {(name, mapping.function) for name, mapping in self._config.mappings.items()}
        shown = {(slot.shown.name, slot.shown.function) for slot in self._supervisor.slots}
        for name, function in self._observed - wanted - shown:
            self._telemetry.forget(name, function)
        self._observed = wanted | shown

    # --- what others may see

    def snapshots(self) -> Sequence[MappingSnapshot]:
        """Every mapping as it is now."""
        self._forget_gone()
        now = self._clock.now()
        return [snapshot_of(slot, now) for slot in self._supervisor.slots]

    def _limits(self) -> LimitsSnapshot:
        assembly = self._assembly
        return LimitsSnapshot(
            concurrency=Usage(assembly.permits.in_use, assembly.permits.limit),
            buffer_bytes=Usage(assembly.budget.used, assembly.budget.limit),
            functions={
                name: Usage(permits.in_use, permits.limit) for name, permits in assembly.function_permits.items()
            },
        )

    def _admin(self) -> AdminServer | None:
        host, port = self._config.admin.host, self._config.admin.port
        if host is None or port is None:
            return None
        return AdminServer(
            host,
            port,
            telemetry=self._telemetry,
            snapshots=self.snapshots,
            health=self._health,
            ready=lambda: readiness(self.snapshots()),
        )

    def _health(self) -> HealthReport:
        heartbeats = {
            slot.shown.name: slot.mapping.polled_at
            for slot in self._supervisor.slots
            if slot.mapping is not None and slot.mapping.polled_at is not None and not slot.mapping.is_stopping
        }
        return liveness(heartbeats, self._clock.now(), _POLLER_LIMIT)

    def _settled_total(self) -> int:
        return sum(
            sum(self._telemetry.totals(name, mapping.function).settled.values())
            for name, mapping in self._config.mappings.items()
        )

    def _summary(self, seconds: float) -> Summary:
        totals = [self._telemetry.totals(name, mapping.function) for name, mapping in self._config.mappings.items()]
        return Summary(
            settled={how: sum(each.settled[how] for each in totals) for how in Settlement},
            retried=sum(each.retried for each in totals),
            invocations=sum(each.invocations for each in totals),
            seconds=seconds,
            unsettled=self._unsettled,
            is_complete=self._is_complete,
        )


def _exit_at_once_after(first: float) -> Callable[[int, FrameType | None], None]:
    """A handler of signals that come after a first one, which came when the system's monotonic clock said ``first``."""

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if time.monotonic() - first < _SAME_SIGNAL:
            return
        sys.stderr.write("second signal: exiting at once; what is not checkpointed comes again\n")
        sys.stderr.flush()
        os._exit(128 + number)

    return handle


def _unsettled(mapping: MappingSnapshot) -> str:
    """One line about what a mapping has not settled; empty when there is nothing to say."""
    parts = [
        f"{each.partition}: {each.unsettled_records} fetched and unsettled"
        + (f", {each.lag_records} up to the end" if each.lag_records is not None else "")
        + (f", {each.waiting_for}" if each.waiting_for else "")
        for each in mapping.partitions
        if each.unsettled_records or each.lag_records
    ]
    if mapping.problem is not None:
        parts.insert(0, str(mapping.problem))
    elif not mapping.joined and mapping.state is not MappingState.DISABLED:
        parts.insert(0, "has not joined yet")
    return f"{mapping.mapping}: {'; '.join(parts)}" if parts else ""


def installed_version() -> str:
    """The distribution's version; ``unknown`` where it is not installed."""
    try:
        return metadata.version("stream-runner")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
