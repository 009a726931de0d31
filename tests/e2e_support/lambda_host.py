"""What a Lambda-like runtime does around a handler: each POST is an event, what the handler returns is the answer."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[Any, Any], Any]

_TIMEOUT = 30.0


@dataclass
class Context:
    """The part of AWS Lambda's context that handlers use most."""

    function_name: str
    aws_request_id: str
    invoked_function_arn: str
    deadline: float = field(default_factory=lambda: time.monotonic() + _TIMEOUT)

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.deadline - time.monotonic()) * 1000))


class Runtime(BaseHTTPRequestHandler):
    """One connection; a handler that raises is answered 200 with ``X-Amz-Function-Error``, as AWS does."""

    protocol_version = "HTTP/1.1"
    handler: Handler
    function_name: str

    def do_GET(self) -> None:
        self._answer(b"ready")

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.function_name
        arn = f"arn:aws:lambda:local:000000000000:function:{name}"
        context = Context(name, self.headers["Idempotency-Key"], arn)
        try:
            result = type(self).handler(event, context)
        except Exception as error:
            trace = traceback.format_tb(error.__traceback__)
            report = {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": trace}
            self._answer(json.dumps(report).encode(), "Unhandled")
        else:
            self._answer(json.dumps(result).encode())

    def log_message(self, template: str, *args: object) -> None:
        """Nothing: what a test needs is in the function's own register."""

    def _answer(self, body: bytes, function_error: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if function_error is not None:
            self.send_header("X-Amz-Function-Error", function_error)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True, help="where the handler's module is")
    parser.add_argument("--handler", required=True, help="module.function, as AWS writes it")
    parser.add_argument("--name", required=True, help="the function's name")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.directory))
    module, _, attribute = arguments.handler.rpartition(".")
    Runtime.handler = staticmethod(getattr(importlib.import_module(module), attribute))
    Runtime.function_name = arguments.name
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), Runtime) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
