"""A function for records of Redis streams, as people write it for AWS Lambda."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Note the event in the file that REGISTER names, and name the records that carry a ``reject`` header as failed."""
    with Path(os.environ["REGISTER"]).open("a", encoding="utf-8") as register:
        register.write(json.dumps(event) + "\n")
    failures = [
        {"itemIdentifier": {"stream": stream, "id": record["id"]}}
        for stream, records in event["records"].items()
        for record in records
        if any("reject" in header for header in record["headers"])
    ]
    return {"batchItemFailures": failures}
