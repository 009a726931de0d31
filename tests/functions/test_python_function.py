"""Handlers in this process: what they are given, and what becomes of their results and errors."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runner.functions.python import PythonFunction
from runner.model import ErrorKind, Failed, Invocation, Outcome, PartlyFailed, Record, Succeeded, TooLarge

NewRecord = Callable[..., Record]
NewInvocation = Callable[..., Invocation]
OpenPython = Callable[..., Awaitable[PythonFunction]]


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
        "generation": None,
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
        module = f"interrupted_{definition.replace(' ', '_')}"
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
