"""A handler that never returns from one key and journals its calls as the HTTP function of the harness does."""

from __future__ import annotations

import base64
import os
import threading
import time
from pathlib import Path
from typing import Any, Final

from kafka_harness.journal import Call, Ending, JournalWriter, key_id

JOURNAL_VARIABLE: Final = "STUCK_HANDLER_JOURNAL"
KEY_VARIABLE: Final = "STUCK_HANDLER_KEY"
"""Environment: the journal's path, and the key that it never returns from (none when it is not set)."""

NEVER_NS: Final = 2**62
"""When a call ended that did not: whatever else begins in its key overlaps it."""

_lock = threading.Lock()
_journals: list[JournalWriter] = []


def handle(event: dict[str, Any], context: Any) -> None:
    """AWS's signature. A call that holds the key is journaled as it begins, since it never ends."""
    start_ns = time.monotonic_ns()
    ((partition, records),) = event["records"].items()
    keys = [None if record["key"] is None else base64.b64decode(record["key"]) for record in records]
    stuck = os.environ.get(KEY_VARIABLE, "").encode() in keys

    def note(end_ns: int, status: int, ending: Ending) -> None:
        call = Call(
            start_ns=start_ns,
            end_ns=end_ns,
            mapping="",
            partition=partition,
            offsets=[record["offset"] for record in records],
            keys=[key_id(key) for key in keys],
            attempt=0,
            idempotency_key=context.aws_request_id,
            status=status,
            ending=ending,
        )
        with _lock:
            _journal().write(call)

    if stuck:
        note(NEVER_NS, 0, "abandoned")
        threading.Event().wait()
    note(time.monotonic_ns(), 200, "answered")


def _journal() -> JournalWriter:
    if not _journals:
        _journals.append(JournalWriter(Path(os.environ[JOURNAL_VARIABLE])))
    return _journals[0]
