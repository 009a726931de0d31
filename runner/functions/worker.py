"""What runs in a worker process: a handler, called for one invocation after another as its parent says.

Frames go over what standard input and output were: a length of eight bytes, big-endian, then a Call in pickle
(from the parent) or an answer in MessagePack (to the parent). The process ends with its parent.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import msgspec

from runner.functions.context import LambdaContext
from runner.functions.errors import bad_response, error_of, printable
from runner.functions.loading import Handler, is_async, load_handler
from runner.functions.payloads.lambda_event import LambdaPayload
from runner.model import ErrorKind, FunctionError, Invocation
from runner.ports import FunctionNotValid

LENGTH_BYTES: Final = 8
_ERROR_CHARACTERS: Final = 256


class WorkerSpec(msgspec.Struct, frozen=True):
    """What a worker needs to know once. ``path`` is the parent's ``sys.path``; ``timeout`` is in seconds."""

    app_dir: str
    handler: str
    payload: Literal["lambda", "records"]
    event_source: str
    timeout: float
    report_batch_item_failures: bool
    path: list[str] = []


class Call(NamedTuple):
    """What a worker is to do: it must have started by ``start_by``, a time of ``time.monotonic()``."""

    invocation: Invocation
    start_by: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The handler is imported."""


class NotReady(msgspec.Struct, frozen=True, tag=True):
    """The handler cannot be imported; the process ends."""

    text: str


class Returned(msgspec.Struct, frozen=True, tag=True):
    """``result`` is JSON; empty when there is none or nobody reads it."""

    result: bytes


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The handler failed."""

    error: FunctionError


class Withheld(msgspec.Struct, frozen=True, tag=True):
    """The invocation came too late: its lease was over before the handler could start."""


Answer = Ready | NotReady | Returned | Raised | Withheld


class NoResult(Exception):
    """A handler's result cannot be used; ``error`` says why."""

    def __init__(self, error: FunctionError) -> None:
        super().__init__(error.text)
        self.error = error


def result_as_json(result: Any, report_batch_item_failures: bool) -> bytes:
    """What a handler returned, as the JSON that its answer over HTTP would be; empty when nobody reads it.

    Raises NoResult.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        text = "the handler returned an awaitable that nothing awaits: declare it as async def"
        raise NoResult(FunctionError(kind=ErrorKind.ERROR, type="TypeError", text=text))
    if result is None or not report_batch_item_failures:
        return b""
    try:
        return msgspec.json.encode(result)
    except Exception as error:
        reason = printable(f"{type(error).__qualname__}: {error}", _ERROR_CHARACTERS)
        raise NoResult(bad_response(f"the handler's result cannot be written as JSON: {reason}")) from error


def main(spec_json: str) -> None:
    spec = msgspec.json.decode(spec_json, type=WorkerSpec)
    requests, answers = _take_standard_streams()
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, calls), daemon=True).start()
    try:
        handler = load_handler(spec.handler, Path(spec.app_dir))
    except FunctionNotValid as error:
        _write(answers, NotReady(str(error)))
        return
    _write(answers, Ready())
    with asyncio.Runner() as loop:
        while True:
            call: Call = pickle.loads(calls.get())  # noqa: S301 - from the parent, over its own pipe
            _write(answers, _answer(handler, spec, call, loop))


def _answer(handler: Handler, spec: WorkerSpec, call: Call, loop: asyncio.Runner) -> Answer:
    invocation = call.invocation
    context = LambdaContext(invocation, spec.timeout)
    try:
        event = (
            LambdaPayload(spec.event_source).event(invocation) if spec.payload == "lambda" else list(invocation.records)
        )
        if time.monotonic() >= call.start_by:
            return Withheld()
        result = loop.run(handler(event, context)) if is_async(handler) else handler(event, context)
        return Returned(result_as_json(result, spec.report_batch_item_failures))
    except NoResult as unusable:
        return Raised(unusable.error)
    except BaseException as error:
        return Raised(error_of(error))


def _take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """The parent's two pipes; what the handler prints goes to standard error, what it reads is empty."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _read(requests: BinaryIO, calls: queue.SimpleQueue[bytes]) -> None:
    while True:
        length = requests.read(LENGTH_BYTES)
        frame = requests.read(int.from_bytes(length, "big")) if len(length) == LENGTH_BYTES else b""
        if not frame:
            # The parent is gone, perhaps without having been able to say so: whatever runs here must not outlive it.
            sys.stderr.flush()
            os._exit(0)
        calls.put(frame)


def _write(answers: BinaryIO, answer: Answer) -> None:
    frame = msgspec.msgpack.encode(answer)
    answers.write(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
    answers.flush()
