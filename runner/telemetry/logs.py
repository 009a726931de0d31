"""Sets up the process's logs: ours, the clients' and the functions' in one form, on one stream."""

from __future__ import annotations

import enum
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, Literal, TextIO, TypeAlias

import structlog
from structlog.stdlib import ProcessorFormatter

from runner.telemetry.log_format import ConsoleRenderer, plain, render_json, stamp
from runner.telemetry.repeats import INTERVAL, LogCounts, MessageKey, RepeatLimiter, Summary

Style: TypeAlias = Literal["json", "console"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

LEDGER: Final = "runner.ledger"
"""The logger of what must be found in the log every time, such as a dropped record's position: never a repeat."""

PARTITIONS: Final = "runner.partitions"
"""The logger of what happens to single partitions, and where they are kept: there are many, and the name of each is
news."""

_PARTITIONS_BURST: Final = 100

_KIND_VALUES: Final = ("error_type", "status_code")
"""Values that make a message another kind of message; those of closed sets (enums) do it all."""
_KIND_CHARACTERS: Final = 200

_CLIENTS: Final = ("aiokafka", "aiohttp", "asyncio")


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes messages, counts them, and sums up repeats; a timer writes summaries when no message comes along."""

    def __init__(self, stream: TextIO, counts: LogCounts, limiter: RepeatLimiter) -> None:
        super().__init__(stream)
        self._counts = counts
        self._limiter = limiter
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._counts.count(record.levelno)
        self._write(self._limiter.due())
        if record.name == LEDGER or self._is_news(record):
            super().emit(record)
        elif self._timer is None:
            self._start_timer()

    def _is_news(self, record: logging.LogRecord) -> bool:
        burst = _PARTITIONS_BURST if record.name == PARTITIONS else None
        try:
            return self._limiter.admit(_key_of(record), lambda: _example_of(record), burst=burst)
        except Exception:  # values that do not fit their message: reported as when it is written, never raised
            self.handleError(record)
            return False

    def sum_up(self) -> None:
        """Write the summaries that are due."""
        with self._held():
            self._timer = None
            self._write(self._limiter.due())
            if self._limiter.pending:
                self._start_timer()

    def close(self) -> None:
        with self._held():
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._write(self._limiter.drain())
            self.flush()
        super().close()

    def _held(self) -> threading.RLock:
        assert self.lock is not None, "a handler has its lock from its creation on"
        return self.lock

    def _start_timer(self) -> None:
        self._timer = threading.Timer(INTERVAL / 10, self.sum_up)
        self._timer.daemon = True
        self._timer.start()

    def _write(self, summaries: list[Summary]) -> None:
        for summary in summaries:
            super().emit(_record_of(summary))


class Logs:
    """The configured logs, until ``close``."""

    def __init__(self, handler: LimitedHandler, counts: LogCounts, former_level: int) -> None:
        self.counts = counts
        self._handler = handler
        self._former_level = former_level

    def close(self) -> None:
        """Write what is still to be summed up, and take the set-up back. May be called twice."""
        logging.captureWarnings(False)
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._former_level)
        for name in _CLIENTS:
            logging.getLogger(name).setLevel(logging.NOTSET)
        self._handler.close()
        structlog.reset_defaults()


def configure(
    style: Style,
    level: Level,
    *,
    stream: TextIO | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Logs:
    """Send all logs of the process to ``stream`` (standard error), one line a message, from ``level`` on.

    The clients' own loggers begin at warning unless ``level`` is debug. ``console`` uses colours on a terminal.
    """
    target = stream if stream is not None else sys.stderr
    counts = LogCounts()
    handler = LimitedHandler(target, counts, RepeatLimiter(monotonic))
    handler.setFormatter(_formatter(style, colours=target.isatty()))
    root = logging.getLogger()
    former_level = root.level
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    root.addHandler(handler)
    for name in _CLIENTS:
        logging.getLogger(name).setLevel(number if level == "debug" else max(number, logging.WARNING))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return Logs(handler, counts, former_level)


def _formatter(style: Style, *, colours: bool) -> ProcessorFormatter:
    return ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            stamp,
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            plain,
            render_json if style == "json" else ConsoleRenderer(colours=colours),
        ],
    )


def _key_of(record: logging.LogRecord) -> MessageKey:
    if isinstance(record.msg, dict):
        event, mapping = record.msg.get("event"), record.msg.get("mapping")
        kinds = [
            str(value)
            for name, value in record.msg.items()
            if value is not None and (name in _KIND_VALUES or isinstance(value, enum.Enum))
        ]
    else:
        event, mapping = record.msg, getattr(record, "mapping", None)
        error = record.exc_info[0] if record.exc_info else None
        kinds = [] if error is None else [error.__qualname__]
    kind = " ".join(kinds)[:_KIND_CHARACTERS]
    return MessageKey(record.name, str(event), None if mapping is None else str(mapping), record.levelno, kind)


def _example_of(record: logging.LogRecord) -> logging.LogRecord:
    """What a summary keeps of a message: not its exception, whose frames hold whatever was being worked on."""
    values = record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None}
    if isinstance(record.msg, dict):
        values["msg"] = {name: value for name, value in record.msg.items() if name not in ("exc_info", "stack_info")}
    else:
        values |= {"msg": record.getMessage(), "args": None}
        if record.exc_info and record.exc_info[1] is not None:
            values["exception"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    return logging.makeLogRecord(values)


def _record_of(summary: Summary) -> logging.LogRecord:
    newest = summary.newest
    tail = f" (repeated {summary.suppressed} times in {summary.seconds:.0f} s)"
    values = newest.__dict__ | {"created": time.time()}
    if isinstance(newest.msg, dict):
        values["msg"] = newest.msg | {"event": f"{newest.msg.get('event')}{tail}", "repeated": summary.suppressed}
    else:
        values |= {"msg": f"{newest.msg}{tail}", "repeated": summary.suppressed}
    return logging.makeLogRecord(values)
