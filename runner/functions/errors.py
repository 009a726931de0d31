"""Turns whatever went wrong in a function into the FunctionError that logs and dead letters carry."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from runner.model import ErrorKind, FunctionError

EXCERPT_CHARACTERS: Final = 512
EXCERPT_SOURCE_BYTES: Final = 8_192
TEXT_CHARACTERS: Final = 2_048
STACK_BYTES: Final = 8_192

_STACK_FRAMES: Final = 50
_OWN_CODE: Final = str(Path(__file__).parent)


def printable(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters, control and other unprintable characters escaped as Python does."""
    cut = text[: limit + 1]
    if not cut.isprintable():
        cut = "".join([c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut])
    return cut if len(cut) <= limit else cut[: limit - 1] + "…"


def excerpt(body: bytes, redact: Callable[[str], str] = str) -> str:
    """The beginning of a response body, for people: at most EXCERPT_CHARACTERS.

    ``redact`` takes secrets out of it, before it is cut: half a secret would not be found.
    """
    text = body[:EXCERPT_SOURCE_BYTES].decode("utf-8", "replace").strip()
    return printable(redact(text), EXCERPT_CHARACTERS)


def error_of(error: BaseException, kind: ErrorKind = ErrorKind.ERROR) -> FunctionError:
    """Describe an exception that a handler raised; its stack begins at the handler and has at most STACK_BYTES."""
    frames = _without_own_frames(error.__traceback__)
    lines = traceback.format_exception(type(error), error, frames, limit=-_STACK_FRAMES)
    return FunctionError(
        kind=kind, type=type(error).__qualname__, text=_text_of(error), stack=capped_stack("".join(lines).rstrip("\n"))
    )


def timed_out(what: str, timeout: float) -> FunctionError:
    """``timeout`` is in seconds."""
    return FunctionError(kind=ErrorKind.TIMEOUT, type="TimeoutError", text=f"{what} within {timeout:g} s")


def too_large(size: int, maximum: int) -> FunctionError:
    """Both are in bytes."""
    return FunctionError(
        kind=ErrorKind.TOO_LARGE,
        type="PayloadTooLarge",
        text=f"the encoded payload has {size} bytes, maximum_payload is {maximum}",
    )


def bad_response(text: str) -> FunctionError:
    return FunctionError(kind=ErrorKind.BAD_RESPONSE, type="BadResponse", text=text)


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:
        text = f"<its text cannot be shown: {type(broken).__qualname__}>"
    return printable(text, TEXT_CHARACTERS)


def _without_own_frames(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        frames = frames.tb_next
    return frames


def capped_stack(stack: str) -> str:
    """The last STACK_BYTES of a stack trace."""
    encoded = stack.encode("utf-8", "backslashreplace")
    # The end is what names the error, so the beginning is what goes.
    return encoded[-STACK_BYTES:].decode("utf-8", "ignore")
