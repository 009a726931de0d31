"""Worker processes for handlers that compute: they can be killed, and they do not share the interpreter's lock."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

import anyio
import msgspec

from runner.functions.errors import printable
from runner.functions.lease import LeaseCheck
from runner.functions.loading import IMPORT_HINT, IMPORT_SECONDS
from runner.functions.worker import LENGTH_BYTES, Answer, Call, NotReady, Ready, Withheld, WorkerSpec
from runner.model import Invocation
from runner.ports import FunctionNotValid

_KILL_SECONDS: Final = 5.0
_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; "
    "from runner.functions.worker import main; main(sys.argv[1])"
)
_decoder: Final = msgspec.msgpack.Decoder(Answer)


class WorkerNotStarted(Exception):
    """No process could be started for the handler; nothing was handed over."""


class WorkerDied(Exception):
    """The process ended before it answered. The message says how."""


class _Worker:
    """One process. After anything but a full answer it must be killed."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def call(self, frame: bytes) -> Answer:
        """Raises WorkerDied."""
        try:
            self._stdin.writelines([len(frame).to_bytes(LENGTH_BYTES, "big"), frame])
            await self._stdin.drain()
            return await self.answer()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise WorkerDied(await self._ending()) from error

    async def answer(self) -> Answer:
        """Raises WorkerDied."""
        try:
            length = int.from_bytes(await self._stdout.readexactly(LENGTH_BYTES), "big")
            answer: Answer = _decoder.decode(await self._stdout.readexactly(length))
        except asyncio.IncompleteReadError as error:
            raise WorkerDied(await self._ending()) from error
        return answer

    async def kill(self) -> None:
        if self.alive:
            self._process.kill()
        self._stdin.close()
        with anyio.move_on_after(_KILL_SECONDS, shield=True):
            await self._process.wait()

    async def _ending(self) -> str:
        code = await self._process.wait()
        if code >= 0:
            return f"the handler's process ended with exit code {code}"
        return f"the handler's process was ended by {signal.Signals(-code).name}"


class HandlerProcesses:
    """At most ``size`` workers, started as they are needed, each serving one invocation at a time.

    ``leases`` says which invocations are not to be started any more; they are answered by Withheld.
    """

    def __init__(self, spec: WorkerSpec, size: int, leases: LeaseCheck) -> None:
        self._spec = msgspec.structs.replace(spec, path=[entry or str(Path.cwd()) for entry in sys.path])
        self._slots = asyncio.Semaphore(size)
        self._leases = leases
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()

    async def open(self) -> None:
        """Starts the first worker, to see whether the handler can be imported. Raises FunctionNotValid."""
        try:
            self._idle.append(await self._started())
        except WorkerNotStarted as error:
            raise FunctionNotValid(str(error), IMPORT_HINT) from error

    async def run(self, invocation: Invocation) -> Answer:
        """Waits for a free worker first; the timeout begins when one takes over. A cancelled call kills its worker.

        Raises TimeoutError (the worker is killed), WorkerDied, WorkerNotStarted.
        """
        async with self._slots:
            worker = await self._taken()
            whole = False
            try:
                answer = await self._handed_over(invocation, worker)
                whole = True
            finally:
                if whole:
                    self._idle.append(worker)
                else:
                    await self._discard(worker)
            return answer

    async def _handed_over(self, invocation: Invocation, worker: _Worker) -> Answer:
        if self._leases.is_over(invocation):
            return Withheld()
        call = Call(invocation, self._leases.start_by(invocation))
        frame = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
        async with asyncio.timeout(self._spec.timeout):
            return await worker.call(frame)

    async def close(self) -> None:
        """Kills every worker."""
        self._idle.clear()
        for worker in list(self._workers):
            await self._discard(worker)

    async def _taken(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            await self._discard(worker)
        return await self._started()

    async def _started(self) -> _Worker:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _PROGRAM,
                msgspec.json.encode(self._spec).decode(),
                stdin=PIPE,
                stdout=PIPE,
                # Signals of the terminal are the parent's to act on.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerNotStarted(f"cannot start a process for the handler: {error}") from error
        worker = _Worker(process)
        self._workers.add(worker)
        ready = False
        try:
            await self._await_ready(worker)
            ready = True
        finally:
            if not ready:
                await self._discard(worker)
        return worker

    async def _await_ready(self, worker: _Worker) -> None:
        try:
            async with asyncio.timeout(IMPORT_SECONDS):
                answer = await worker.answer()
        except TimeoutError as error:
            text = f"the handler {self._spec.handler} was not imported within {IMPORT_SECONDS:g} s"
            raise WorkerNotStarted(text) from error
        except WorkerDied as error:
            raise WorkerNotStarted(f"while the handler was imported, {error}") from error
        match answer:
            case Ready():
                return
            case NotReady(text):
                raise WorkerNotStarted(text)
            case _:
                raise WorkerNotStarted(f"the worker began with {printable(repr(answer), 128)}")

    async def _discard(self, worker: _Worker) -> None:
        await worker.kill()
        self._workers.discard(worker)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
