"""Handlers in this process: on the loop, in threads, and what becomes of their results, errors and timeouts."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from runner.functions import steps, threads
from runner.functions.python import PythonFunction
from runner.model import ErrorKind, Failed, Invocation, Outcome, PartlyFailed, Record, Succeeded, TooLarge
from runner.ports import FunctionNotValid

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
OpenPython = Callable[..., Awaitable[PythonFunction]]

_numbers = itertools.count()


@pytest.fixture
async def open_python(tmp_path: Path, overdue: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenPython]:
    """Writes a module, opens its ``handle`` (or another attribute) as a function, and closes it at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    opened: list[PythonFunction] = []

    async def open_one(source: str, attribute: str = "handle", **changes: Any) -> PythonFunction:
        module = f"handlers_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        settings: dict[str, Any] = {
            "name": "audit",
            "handler": f"{module}:{attribute}",
            "payload": "records",
            "timeout": 10.0,
            "executor": "auto",
            "report_batch_item_failures": False,
            "event_source": "SelfManagedKafka",
            "maximum_payload": 6_000_000,
            "app_dir": tmp_path,
            "concurrency": 4,
            "observer": overdue,
        } | changes
        function = PythonFunction(**settings)
        opened.append(function)
        await function.open()
        return function

    yield open_one
    for function in opened:
        await function.close()


def _module(function: PythonFunction) -> ModuleType:
    return sys.modules[function._handler_name.partition(":")[0]]


def _failed(outcome: Outcome, kind: ErrorKind) -> str:
    assert isinstance(outcome, Failed), outcome
    assert outcome.error.kind is kind, outcome
    return outcome.error.text


AWS_STYLE = """
    import base64, json

    SEEN = []

    def handle(event, context):
        for topic_partition, records in event["records"].items():
            for record in records:
                headers = [{k: bytes(b % 256 for b in v) for k, v in h.items()} for h in record["headers"]]
                SEEN.append((topic_partition, record["offset"], base64.b64decode(record["value"]), headers))
        SEEN.append((context.aws_request_id, context.function_name, context.get_remaining_time_in_millis()))
        return {"statusCode": 200, "body": json.dumps("ok")}
"""


async def test_a_handler_written_for_aws_runs_unmodified(
    open_python: OpenPython, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_python(AWS_STYLE, payload="lambda", report_batch_item_failures=True)
    invocation = new_invocation(new_record(3, value=b"\xffbytes", headers=(("h", b"\xc3"),)), new_record(4, value=b""))
    assert isinstance(await function.invoke(invocation), Succeeded)
    first, second, context = _module(function).SEEN
    assert first == ("orders-0", 3, b"\xffbytes", [{"h": b"\xc3"}])
    assert second == ("orders-0", 4, b"", [])
    assert context[:2] == (invocation.idempotency_key, "charge")
    assert 0 < context[2] <= 10_000


async def test_records_are_handed_over_themselves_in_a_list_of_the_handlers_own(
    open_python: OpenPython, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_python("""
        SEEN = []
        async def handle(records, context):
            SEEN.extend(records)
            records.clear()
    """)
    invocation = new_invocation(new_record(1), new_record(2))
    assert isinstance(await function.invoke(invocation), Succeeded)
    assert len(invocation.records) == 2
    assert all(seen is given for seen, given in zip(_module(function).SEEN, invocation.records, strict=True))


async def test_the_context_says_what_the_http_headers_say(
    open_python: OpenPython, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    function = await open_python("""
        async def handle(records, context):
            global SEEN
            SEEN = {name: getattr(context, name) for name in dir(context) if not name.startswith("_")}
            context.log("")
    """)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    invocation = new_invocation(new_record(7, headers=(("traceparent", trace.encode()),)), attempt=2)
    await function.invoke(invocation)
    seen = _module(function).SEEN
    assert int(seen.pop("memory_limit_in_mb")) > 0
    assert {name: value for name, value in seen.items() if not callable(value)} == {
        "function_name": "charge",
        "function_version": "$LATEST",
        "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:charge",
        "aws_request_id": invocation.idempotency_key,
        "log_group_name": "/stream-runner/charge",
        "log_stream_name": "orders-to-charge/orders-0",
        "identity": None,
        "client_context": None,
        "tenant_id": None,
        "mapping": "orders-to-charge",
        "partition": "orders-0",
        "first_position": 7,
        "last_position": 7,
        "attempt": 2,
        "traceparent": trace,
    }


@pytest.mark.parametrize("definition", ["def", "async def"])
async def test_an_exception_fails_the_batch_and_its_stack_begins_at_the_handler(
    open_python: OpenPython, new_invocation: NewInvocation, definition: str
) -> None:
    function = await open_python(f"""
        {definition} handle(records, context):
            try:
                {{}}["stock"]
            except KeyError as error:
                raise ValueError("no stock\\x1b[31m " + "x" * 5_000) from error
    """)
    outcome = await function.invoke(new_invocation())
    text = _failed(outcome, ErrorKind.ERROR)
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "ValueError"
    assert text.startswith("no stock\\x1b[31m xxx")
    assert len(text) <= 2_048
    assert len(outcome.error.stack.encode()) <= 8_192
    assert "runner/functions" not in outcome.error.stack


@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize(
    ("statement", "error_type"),
    [
        ("sys.exit(1)", "SystemExit"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("raise TimeoutError('mine')", "TimeoutError"),
        ("raise Unprintable", "Unprintable"),
        ("recurse()", "RecursionError"),
    ],
)
async def test_whatever_a_handler_raises_is_its_error(
    open_python: OpenPython, new_invocation: NewInvocation, definition: str, statement: str, error_type: str
) -> None:
    function = await open_python(f"""
        import asyncio, sys

        class Unprintable(Exception):
            def __str__(self):
                raise ValueError

        def recurse():
            recurse()

        {definition} handle(records, context):
            {statement}
    """)
    outcome = await function.invoke(new_invocation())
    _failed(outcome, ErrorKind.ERROR)
    assert isinstance(outcome, Failed)
    assert outcome.error.type == error_type
    assert len(outcome.error.stack.encode()) <= 8_192


def test_a_keyboard_interrupt_is_not_swallowed(
    tmp_path: Path, new_invocation: NewInvocation, overdue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for definition in ("def", "async def"):
        module = f"handlers_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(f"{definition} handle(records, context):\n    raise KeyboardInterrupt")
        function = PythonFunction(
            name="audit",
            handler=f"{module}:handle",
            payload="records",
            timeout=10.0,
            executor="auto",
            report_batch_item_failures=False,
            event_source="File",
            maximum_payload=1_000,
            app_dir=tmp_path,
            concurrency=1,
            observer=overdue,
        )

        async def run(opened: PythonFunction = function) -> None:
            await opened.open()
            try:
                await opened.invoke(new_invocation())
            finally:
                await opened.close()

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(run())


@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("None", Succeeded),
        ("{}", Succeeded),
        ("''", Succeeded),
        ("{'batchItemFailures': []}", Succeeded),
        ("{'batchItemFailures': [{'itemIdentifier': {'partition': 'orders-0', 'offset': 1}}]}", PartlyFailed),
        ("{'batchItemFailures': [{'itemIdentifier': {'partition': 'orders-0', 'offset': 9}}]}", Failed),
        ("'done'", Failed),
        ("7", Failed),
        ("object()", Failed),
        ("{'when': object()}", Failed),
        ("'\\udcff'", Failed),
        ("nested", Failed),
    ],
)
async def test_results_count_only_with_partial_responses(
    open_python: OpenPython,
    new_record: NewRecord,
    new_invocation: NewInvocation,
    definition: str,
    result: str,
    expected: type,
) -> None:
    source = f"""
        nested = []
        for _ in range(5_000):
            nested = [nested]
        {definition} handle(records, context):
            return {result}
    """
    invocation = new_invocation(new_record(1), new_record(2))
    outcome = await (await open_python(source, report_batch_item_failures=True)).invoke(invocation)
    assert isinstance(outcome, expected)
    if isinstance(outcome, Failed):
        assert outcome.error.kind is ErrorKind.BAD_RESPONSE
    assert isinstance(await (await open_python(source)).invoke(invocation), Succeeded)


async def test_a_def_that_returns_a_coroutine_has_done_nothing(
    open_python: OpenPython, new_invocation: NewInvocation
) -> None:
    function = await open_python("""
        async def work():
            pass
        def handle(records, context):
            return work()
    """)
    assert "async def" in _failed(await function.invoke(new_invocation()), ErrorKind.ERROR)


async def test_too_large_is_not_handed_over(
    open_python: OpenPython, new_record: NewRecord, new_invocation: NewInvocation
) -> None:
    source = "def handle(event, context): raise AssertionError"
    large = new_invocation(new_record(1, value=b"x" * 400), new_record(2, value=b"x" * 400))
    for payload in ("records", "lambda"):
        function = await open_python(source, payload=payload, maximum_payload=800)
        outcome = await function.invoke(large)
        assert isinstance(outcome, TooLarge)
        assert outcome.error.kind is ErrorKind.TOO_LARGE
        _failed(await function.invoke(new_invocation(new_record(3, value=b"x" * 300))), ErrorKind.ERROR)


async def test_sizes_are_those_of_the_payload(open_python: OpenPython, new_record: NewRecord) -> None:
    source = "def handle(event, context): pass"
    record = new_record(value=b"x" * 90, headers=(("a", b"b"),))
    native = await open_python(source)
    assert (native.size_of(record), native.fixed_size, native.largest_expansion) == (record.size, 0, (1.0, 0))
    event = await open_python(source, payload="lambda", source_description="k:9092")
    assert event.size_of(record) > record.size * 4 // 3
    assert event.fixed_size > 0
    assert (native.name, native.timeout) == ("audit", 10.0)


async def test_an_async_handler_is_cancelled_at_its_timeout(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any
) -> None:
    function = await open_python(
        """
        import asyncio
        async def handle(records, context):
            await asyncio.Event().wait()
    """,
        timeout=0.05,
    )
    assert "0.05 s" in _failed(await function.invoke(new_invocation()), ErrorKind.TIMEOUT)
    assert overdue.invocations == []


@pytest.mark.parametrize("ending", ["return None", "raise ValueError"])
async def test_an_async_handler_that_resists_keeps_its_invocation(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any, ending: str
) -> None:
    function = await open_python(
        f"""
        import asyncio
        async def handle(records, context):
            global RELEASE
            RELEASE = asyncio.Event()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await RELEASE.wait()
                {ending}
    """,
        timeout=0.05,
    )
    invocation = new_invocation()
    call = asyncio.ensure_future(function.invoke(invocation))
    await overdue.heard.wait()
    assert not call.done()
    _module(function).RELEASE.set()
    _failed(await call, ErrorKind.TIMEOUT)
    assert overdue.invocations == [invocation]


async def test_a_def_handler_that_outlives_its_timeout_keeps_its_invocation(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any
) -> None:
    function = await open_python(
        """
        import threading
        RELEASE = threading.Event()
        def handle(records, context):
            RELEASE.wait()
            return "discarded"
    """,
        timeout=0.05,
    )
    invocation = new_invocation()
    call = asyncio.ensure_future(function.invoke(invocation))
    await overdue.heard.wait()
    assert not call.done()
    _module(function).RELEASE.set()
    _failed(await call, ErrorKind.TIMEOUT)
    assert overdue.invocations == [invocation]
    assert threads.left_behind() == 0


async def test_a_def_handler_is_left_behind_when_its_invocation_is_cancelled(
    open_python: OpenPython, new_invocation: NewInvocation, overdue: Any
) -> None:
    function = await open_python("""
        import threading
        STARTED, RELEASE = threading.Event(), threading.Event()
        THREADS = []
        def handle(records, context):
            THREADS.append(threading.current_thread())
            STARTED.set()
            RELEASE.wait()
    """)
    call = asyncio.ensure_future(function.invoke(new_invocation()))
    module = _module(function)
    await anyio.to_thread.run_sync(module.STARTED.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert threads.left_behind() == 1
    await function.close()
    (thread,) = module.THREADS
    assert thread.daemon
    module.RELEASE.set()
    await anyio.to_thread.run_sync(thread.join)
    assert threads.left_behind() == 0
    assert overdue.invocations == []


async def test_an_anyio_scope_cancels_an_async_handler(open_python: OpenPython, new_invocation: NewInvocation) -> None:
    function = await open_python("""
        import asyncio
        async def handle(records, context):
            global STARTED
            STARTED.set()
            await asyncio.Event().wait()
    """)
    started = _module(function).__dict__.setdefault("STARTED", asyncio.Event())
    outcomes: list[Outcome] = []

    async def call() -> None:
        outcomes.append(await function.invoke(new_invocation()))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await started.wait()
        group.cancel_scope.cancel()
    assert outcomes == []


async def test_def_handlers_run_at_once_and_threads_are_used_again(
    open_python: OpenPython, new_invocation: NewInvocation
) -> None:
    function = await open_python("""
        import threading
        TOGETHER = threading.Barrier(3)
        NAMES = []
        def handle(records, context):
            NAMES.append(threading.current_thread().name)
            TOGETHER.wait()
    """)
    for _ in range(3):
        outcomes = await asyncio.gather(*[function.invoke(new_invocation()) for _ in range(3)])
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    names = _module(function).NAMES
    assert len(names) == 9
    assert len(set(names)) == 3
    assert all(name.startswith("function audit-") for name in names)
    assert threading.current_thread().name not in names


async def test_a_handler_that_holds_the_loop_is_reported_once_a_minute(
    open_python: OpenPython,
    new_invocation: NewInvocation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(steps, "BLOCKING_SECONDS", 0.0)
    function = await open_python("async def handle(records, context): pass")
    with caplog.at_level(logging.WARNING, "runner.functions"):
        for _ in range(3):
            await function.invoke(new_invocation())
    (record,) = caplog.records
    assert record.name == "runner.functions"
    assert "handle held the event loop" in record.getMessage()


def test_reports_that_were_held_back_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    report = steps.BlockingReport("team:handle", lambda: now)
    for now in (0.0, 30.0, 59.0, 60.0):  # noqa: B007 - read by the lambda
        report(1.5)
    assert ["0 more" in caplog.messages[0], "2 more" in caplog.messages[1], len(caplog.messages)] == [True, True, 2]


@pytest.mark.parametrize(
    ("source", "attribute"),
    [
        ("class Team:\n    @staticmethod\n    def handle(event, context): pass", "Team.handle"),
        ("class Team:\n    async def __call__(self, event, context): pass\nhandle = Team()", "handle"),
        ("import functools\nasync def any(n, e, c): pass\nhandle = functools.partial(any, 1)", "handle"),
        ("handle = lambda *arguments: None", "handle"),
        ("handle = max", "handle"),
    ],
)
async def test_many_things_are_handlers(
    open_python: OpenPython, new_invocation: NewInvocation, source: str, attribute: str
) -> None:
    function = await open_python(source, attribute)
    if attribute != "handle" or "max" not in source:
        assert isinstance(await function.invoke(new_invocation()), Succeeded)


@pytest.mark.parametrize(
    ("source", "attribute", "text"),
    [
        ("import no_such_module_at_all", "handle", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def handle(:", "handle", "SyntaxError"),
        ("\nraise RuntimeError('no database')", "handle", "RuntimeError: no database"),
        ("import sys\nsys.exit(3)", "handle", "SystemExit: 3"),
        ("def handel(event, context): pass", "handle", "did you mean handel?"),
        ("handle = 5", "handle", "is a int, which cannot be called"),
        ("def handle(event): pass", "handle", "must take (event, context)"),
        ("def handle(event, context): yield", "handle", "is a generator"),
        ("async def handle(event, context): yield", "handle", "is a generator"),
    ],
)
async def test_what_is_no_handler_is_refused_with_its_reason(
    open_python: OpenPython, source: str, attribute: str, text: str
) -> None:
    with pytest.raises(FunctionNotValid) as refused:
        await open_python(source, attribute)
    assert text in str(refused.value)
    assert "handlers_" in str(refused.value)


async def test_a_failing_module_is_named_with_its_line(open_python: OpenPython, tmp_path: Path) -> None:
    with pytest.raises(FunctionNotValid, match=rf"{tmp_path}/handlers_\d+\.py, line 2\)"):
        await open_python("\nraise RuntimeError('no database')")


@pytest.mark.parametrize("handler", ["no_such_module_here:handle", "team.audit", ":handle", "team:", ""])
async def test_a_name_that_leads_nowhere_is_refused(open_python: OpenPython, handler: str) -> None:
    with pytest.raises(FunctionNotValid):
        await open_python("", handler=handler)


async def test_a_module_is_found_from_the_working_directory_too(
    open_python: OpenPython, new_invocation: NewInvocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "audit_handlers.py").write_text("async def handle(records, context): pass")
    monkeypatch.chdir(tmp_path)
    function = await open_python("", handler="team.audit_handlers:handle", app_dir=tmp_path / "elsewhere")
    assert isinstance(await function.invoke(new_invocation()), Succeeded)
