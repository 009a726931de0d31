"""Handlers in worker processes: killed at their timeout, replaced after a crash, and gone with their parent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.functions.python import PythonFunction
from runner.model import ErrorKind, Failed, Invocation, Outcome, PartlyFailed, Record, Succeeded
from runner.ports import FunctionNotValid

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
OpenProcesses = Callable[..., Awaitable[PythonFunction]]
Workers = Callable[[], list[psutil.Process]]


@pytest.fixture
async def open_processes(tmp_path: Path, overdue: Any, workers: Workers) -> AsyncIterator[OpenProcesses]:
    """Writes the module ``work`` and opens its ``handle`` in worker processes; checks at the end that none is left."""
    opened: list[PythonFunction] = []

    async def open_one(source: str, **changes: Any) -> PythonFunction:
        (tmp_path / "work.py").write_text(textwrap.dedent(source))
        settings: dict[str, Any] = {
            "name": "compute",
            "handler": "work:handle",
            "payload": "records",
            "timeout": 30.0,
            "executor": "process",
            "report_batch_item_failures": False,
            "event_source": "SelfManagedKafka",
            "maximum_payload": 6_000_000,
            "app_dir": tmp_path,
            "observer": overdue,
        } | changes
        function = PythonFunction(**settings)
        opened.append(function)
        await function.open()
        return function

    yield open_one
    for function in opened:
        await function.close()
    assert workers() == []


@pytest.fixture
def workers() -> Workers:
    """Asked in a test: the worker processes of this process, which may have other children."""
    others = {child.pid for child in psutil.Process().children()}
    return lambda: [child for child in psutil.Process().children() if child.pid not in others]


def _failed(outcome: Outcome, kind: ErrorKind = ErrorKind.ERROR) -> str:
    assert isinstance(outcome, Failed), outcome
    assert outcome.error.kind is kind, outcome
    return outcome.error.text


async def test_the_handler_runs_elsewhere_and_its_answer_counts(
    open_processes: OpenProcesses, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_processes(
        """
        import os, sys
        print("printing does not disturb", file=sys.stdout)
        def handle(event, context):
            assert sys.stdin.read() == ""
            records = event["records"]["orders-0"]
            assert os.getppid() == int(bytes(records[0]["headers"][0]["parent"]))
            assert context.aws_request_id and context.attempt == 3
            assert context.get_remaining_time_in_millis() > 0
            identifier = {"partition": "orders-0", "offset": records[1]["offset"]}
            return {"batchItemFailures": [{"itemIdentifier": identifier}]}
    """,
        payload="lambda",
        report_batch_item_failures=True,
    )
    parent = str(os.getpid()).encode()
    records = [new_record(1, headers=(("parent", parent),)), new_record(2, value=None, key=None)]
    outcome = await function.invoke(new_invocation(*records, attempt=3))
    assert isinstance(outcome, PartlyFailed), outcome
    assert outcome.positions == {2}
    assert "work" not in sys.modules


async def test_records_cross_unchanged_and_async_handlers_run_too(
    open_processes: OpenProcesses, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_processes("""
        import asyncio, hashlib
        async def handle(records, context):
            await asyncio.sleep(0)
            raise LookupError(repr([(*r.partition, r.position, r.key, r.value and hashlib.sha256(r.value).hexdigest(),
                                     r.headers, r.timestamp_ms, r.timestamp_type.value, r.size) for r in records]))
    """)
    records = [new_record(1, value=bytes(range(256)) * 4_000, headers=(("a\udcff", None), ("a", b"\x00")), key=None)]
    outcome = await function.invoke(new_invocation(*records))
    (record,) = records
    digest = hashlib.sha256(record.value or b"").hexdigest()
    identity = (*record.partition, record.position, record.key, digest)
    rest = (record.headers, record.timestamp_ms, record.timestamp_type.value, record.size)
    assert _failed(outcome) == repr([(*identity, *rest)])
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "LookupError"
    assert "runner/functions" not in outcome.error.stack


async def test_at_its_timeout_it_is_killed_and_replaced(
    open_processes: OpenProcesses, new_record: NewRecord, new_invocation: NewInvocation, overdue: Any, workers: Workers
) -> None:
    function = await open_processes(
        """
        def handle(records, context):
            while records[0].value == b"endless":
                pass
    """,
        timeout=3.0,
    )
    (worker,) = workers()
    _failed(await function.invoke(new_invocation(new_record(value=b"endless"))), ErrorKind.TIMEOUT)
    assert not worker.is_running()
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
    assert overdue.invocations == []


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("os._exit(3)", "exit code 3"),
    ],
)
async def test_a_crash_fails_the_invocation_and_the_next_one_goes_on(
    open_processes: OpenProcesses, new_record: NewRecord, new_invocation: NewInvocation, statement: str, text: str
) -> None:
    function = await open_processes(f"""
        import os, signal
        def handle(records, context):
            if records[0].value == b"crash":
                {statement}
    """)
    assert text in _failed(await function.invoke(new_invocation(new_record(value=b"crash"))))
    assert isinstance(await function.invoke(new_invocation()), Succeeded)


async def test_a_worker_that_died_idle_is_replaced_unnoticed(
    open_processes: OpenProcesses, new_invocation: NewInvocation, workers: Workers
) -> None:
    function = await open_processes("def handle(records, context): pass")
    (worker,) = workers()
    worker.send_signal(signal.SIGKILL)
    processes = function._processes
    assert processes is not None
    await processes._idle[0]._process.wait()
    assert isinstance(await function.invoke(new_invocation()), Succeeded)


async def test_a_cancelled_invocation_kills_its_worker(
    open_processes: OpenProcesses,
    new_record: NewRecord,
    new_invocation: NewInvocation,
    tmp_path: Path,
    workers: Workers,
) -> None:
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    function = await open_processes(f"""
        def handle(records, context):
            open({str(fifo)!r}, "w").close()
            while True:
                pass
    """)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    await asyncio.to_thread(fifo.read_text)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert workers() == []


@pytest.mark.parametrize("processors", [1, 2])
async def test_never_more_workers_than_processors_or_than_calls_at_once(
    open_processes: OpenProcesses,
    new_invocation: NewInvocation,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    processors: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    function = await open_processes("def handle(records, context): pass")
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
    assert len(workers()) == 1
    outcomes = await asyncio.gather(*[function.invoke(new_invocation()) for _ in range(5)])
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    assert len(workers()) == processors


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("import os; os._exit(5)", "exit code 5"),
        ("handle = 1", "cannot be called"),
    ],
)
async def test_what_cannot_be_imported_is_refused_at_open(
    open_processes: OpenProcesses, source: str, text: str
) -> None:
    with pytest.raises(FunctionNotValid, match=text):
        await open_processes(source)


async def test_a_result_that_is_no_json_fails_the_batch(
    open_processes: OpenProcesses, new_invocation: NewInvocation
) -> None:
    function = await open_processes("def handle(records, context): return object()", report_batch_item_failures=True)
    _failed(await function.invoke(new_invocation()), ErrorKind.BAD_RESPONSE)


async def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("def handle(records, context):\n    while True: pass")
    root = Path(__file__).parents[2]
    program = f"""
        import asyncio, pathlib, sys
        sys.path.insert(0, {str(root)!r})
        from runner.functions.python import PythonFunction
        from runner.model import Invocation, Partition, Record
        from runner.ports import Observer

        async def main():
            function = PythonFunction(
                name="f", handler="work:handle", payload="records", timeout=600.0, executor="process",
                report_batch_item_failures=False, event_source="File", maximum_payload=1000,
                app_dir=pathlib.Path({str(tmp_path)!r}), observer=Observer())
            await function.open()
            record = Record(Partition("t", 0), 0, None, None, (), 0, 0, 0)
            call = asyncio.ensure_future(function.invoke(Invocation(
                mapping="m", function="f", partition=record.partition, records=[record], attempt=1, source="s")))
            await asyncio.sleep(0)
            print("running", flush=True)
            await call

        asyncio.run(main())
    """
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(program), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"running\n"
    (worker,) = psutil.Process(parent.pid).children()
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(psutil.wait_procs, [worker], 20)
    assert not worker.is_running()
