"""A function as people write it for AWS Lambda: the standard library, an event, a context, nothing of Stream Runner."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Note the call in the file that REGISTER names, and name the records that carry a ``reject`` header as failed.

    A ``fail`` header, whose value is a number, makes it raise with so long a message.
    """
    failures = []
    for partition, records in event["records"].items():
        for record in records:
            headers = {name: value for header in record["headers"] for name, value in header.items()}
            if "fail" in headers:
                raise ValueError("x" * int(bytes(headers["fail"])))
            if "reject" in headers:
                failures.append({"itemIdentifier": {"partition": partition, "offset": record["offset"]}})
    note = {
        "event": event,
        "function_name": context.function_name,
        "request_id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "arn": context.invoked_function_arn,
    }
    with Path(os.environ["REGISTER"]).open("a", encoding="utf-8") as register:
        register.write(json.dumps(note) + "\n")
    return {"batchItemFailures": failures}
