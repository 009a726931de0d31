"""Finds a handler by its name, as a web server finds an application."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from runner.functions.errors import TEXT_CHARACTERS, printable
from runner.ports import FunctionNotValid

IMPORT_SECONDS: Final = 60.0

IMPORT_HINT: Final = "correct the module, or its name; --app-dir says where modules are found besides"

Handler: TypeAlias = Callable[[Any, Any], Any]

_NOT_THE_MODULE: Final = (Path(__file__), Path(importlib.__file__))


def load_handler(name: str, app_dir: Path) -> Handler:
    """Import ``module:attribute`` (the attribute may be dotted) from ``app_dir`` or the working directory.

    Both come before everything else on ``sys.path``, ``app_dir`` first, and stay there: handlers import late.
    Runs the module's code, so it blocks as long as that does. Raises FunctionNotValid, which says where and why.
    """
    module_name, separator, attribute = name.partition(":")
    if not separator or not module_name or not attribute:
        raise FunctionNotValid(f"the handler {name!r} must be written module:attribute, like team.audit:handle")
    for directory in (str(Path.cwd()), str(app_dir.resolve())):
        if directory not in sys.path:
            sys.path.insert(0, directory)
    handler = _attribute(_module(module_name, app_dir), name, attribute)
    _check(handler, name)
    return handler  # type: ignore[no-any-return]


def is_async(handler: Handler) -> bool:
    """Whether calling it makes a coroutine: ``async def``, also behind functools.partial or as ``__call__``."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _module(module_name: str, app_dir: Path) -> Any:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        where = _place(error)
        searched = ", ".join(dict.fromkeys([str(app_dir.resolve()), str(Path.cwd())]))
        raise FunctionNotValid(
            f"cannot import the module {module_name} (searched {searched} and sys.path): "
            f"{type(error).__qualname__}: {printable(str(error), TEXT_CHARACTERS)}{where}",
            IMPORT_HINT,
        ) from error


def _place(error: BaseException) -> str:
    """Where a module's own code failed; nothing when the import system did not find it."""
    if isinstance(error, SyntaxError):
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and Path(frame.filename) not in _NOT_THE_MODULE
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _attribute(module: Any, name: str, attribute: str) -> Any:
    found = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            similar = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            file = getattr(module, "__file__", None) or module.__name__
            raise FunctionNotValid(f"the handler {name!r}: {file} has no {attribute}{hint}") from error
    return found


def _check(handler: Any, name: str) -> None:
    if not callable(handler):
        raise FunctionNotValid(f"the handler {name!r} is a {type(handler).__qualname__}, which cannot be called")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise FunctionNotValid(f"the handler {name!r} is a generator: nothing would run it")
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return  # some built-in callables do not say what they take; the first call will
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise FunctionNotValid(f"the handler {name!r} must take (event, context): {error}") from error
