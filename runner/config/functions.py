"""The sections that say how functions are invoked."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from runner.clients.secret import Secret
from runner.config.addresses import Url
from runner.config.connections import TlsConfig
from runner.config.headers import Headers
from runner.config.scalars import Choice, Duration, NormalisedText, Size, Text, WholeNumber
from runner.config.secrets import SecretText
from runner.config.sections import Section, derived_key, key, section

_LONGEST_TIMEOUT: Final = 24 * 3600
_MOST_CONCURRENCY: Final = 100_000
_NAME: Final = r"[^\W\d]\w*"


class HttpPayload(enum.StrEnum):
    """What an HTTP function is sent: AWS's event for a batch, or one record's value as it is."""

    LAMBDA = "lambda"
    RAW = "raw"


class PythonPayload(enum.StrEnum):
    """What a handler is called with: AWS's event, or a list of ``Record``."""

    LAMBDA = "lambda"
    RECORDS = "records"


class Executor(enum.StrEnum):
    """Where a handler runs: ``async def`` on the loop and ``def`` in threads, or each call in a process."""

    AUTO = "auto"
    PROCESS = "process"


def _normalise_handler(text: str) -> str:
    """``package.module:attribute`` for AWS's ``package.module.attribute`` too."""
    if ":" in text:
        return text
    module, _, attribute = text.rpartition(".")
    return f"{module}:{attribute}"


@section()
class HttpFunctionConfig:
    """A function behind HTTP."""

    url: str = key(Url(), "Where to POST.")
    timeout: float = key(Duration(0.001, _LONGEST_TIMEOUT), "How long one invocation may take.", default=30.0)
    connect_timeout: float = derived_key(
        Duration(0.001, _LONGEST_TIMEOUT),
        "How much of it connecting may take, TLS included.",
        derived="5s, or the timeout when that is shorter",
    )
    payload: HttpPayload = key(
        Choice(HttpPayload, planned=("cloudevents",)),
        "AWS's event for a batch, or one record's value as the body (which needs batch_size 1).",
        default=HttpPayload.LAMBDA,
    )
    headers: Mapping[str, Secret] = key(Headers(), "Sent with every invocation; shown nowhere.", default={})
    bearer_token: Secret | None = key(
        SecretText(), "Sent as 'Authorization: Bearer ...'; one in a file is read again when it changes.", default=None
    )
    maximum_response: int = key(
        Size(1, 1 << 30), "The longest response body that is read, after decompression.", default=1_000_000
    )
    tls: TlsConfig | None = key(Section(TlsConfig), "How an https:// URL is verified.", default=None)


@section()
class PythonFunctionConfig:
    """A function in this process, or in processes of its own."""

    handler: str = key(
        NormalisedText(
            Text(
                "a handler such as package.module:attribute",
                rf"{_NAME}(\.{_NAME})*(:{_NAME}(\.{_NAME})*|\.{_NAME})",
                hint="write package.module:attribute, or AWS's package.module.attribute",
            ),
            _normalise_handler,
        ),
        "What to call: 'package.module:attribute', or AWS's 'module.attribute'.",
    )
    payload: PythonPayload = key(
        Choice(PythonPayload, planned=("cloudevents", "raw")),
        "AWS's event, or a list of Record, which costs less.",
        default=PythonPayload.LAMBDA,
    )
    timeout: float = key(Duration(0.001, _LONGEST_TIMEOUT), "How long one invocation may take.", default=30.0)
    executor: Executor = key(
        Choice(Executor),
        "auto: 'async def' on the loop, 'def' in threads. process: for CPU-bound code; a timeout kills it.",
        default=Executor.AUTO,
    )


@section(exactly_one=("http", "python"))
class FunctionConfig:
    """A function; several mappings may share it."""

    http: HttpFunctionConfig | None = key(Section(HttpFunctionConfig), "A function behind HTTP.", default=None)
    python: PythonFunctionConfig | None = key(Section(PythonFunctionConfig), "A function in Python.", default=None)
    reserved_concurrency: int | None = key(
        WholeNumber(1, _MOST_CONCURRENCY),
        "How many invocations all mappings of this function together may have at once, in this process.",
        default=None,
    )

    @property
    def timeout(self) -> float:
        """Seconds that one invocation may take."""
        chosen = self.http or self.python
        assert chosen is not None
        return chosen.timeout
