"""A handler is found as a web server finds an application, or refused with the reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runner.functions.python import PythonFunction
from runner.model import Invocation, Succeeded
from runner.ports import FunctionNotValid

NewInvocation = Callable[..., Invocation]
OpenPython = Callable[..., Awaitable[PythonFunction]]


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


async def test_who_looks_for_a_module_in_vain_is_told_once_where_and_what_may_help(
    open_python: OpenPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FunctionNotValid, match=rf"\(searched {tmp_path} and sys\.path\)") as refused:
        await open_python("", handler="no_such_module_here:handle", app_dir=tmp_path)
    assert "--app-dir" in refused.value.hint


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
