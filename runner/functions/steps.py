"""Notices a handler that holds the event loop."""

from __future__ import annotations

import logging
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

BLOCKING_SECONDS: Final = 1.0
REPORT_EVERY_SECONDS: Final = 60.0

_logger: Final = logging.getLogger("runner.functions")


class BlockingReport:
    """Logs that a handler held the loop, at most once in REPORT_EVERY_SECONDS, with how often it was not logged."""

    def __init__(self, handler: str, now: Callable[[], float] = time.monotonic) -> None:
        self._handler = handler
        self._now = now
        self._quiet_until: float | None = None
        self._unreported = 0

    def __call__(self, seconds: float) -> None:
        now = self._now()
        if self._quiet_until is not None and now < self._quiet_until:
            self._unreported += 1
            return
        _logger.warning(
            "handler %s held the event loop for %.1f s (%d more times since the last report): everything else stood "
            "still; make it a plain def, or use executor: process",
            self._handler,
            seconds,
            self._unreported,
        )
        self._quiet_until = now + REPORT_EVERY_SECONDS
        self._unreported = 0


@types.coroutine
def watched(coroutine: Coroutine[Any, Any, Any], report: Callable[[float], None]) -> Generator[Any, Any, Any]:
    """Await ``coroutine`` step by step; ``report`` hears the seconds of each step longer than BLOCKING_SECONDS."""
    resume: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    while True:
        started = time.perf_counter()
        try:
            awaited = resume(argument)
        except StopIteration as returned:
            return returned.value
        finally:
            seconds = time.perf_counter() - started
            if seconds > BLOCKING_SECONDS:
                report(seconds)
        resume = coroutine.send
        try:
            argument = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            resume, argument = coroutine.throw, error
