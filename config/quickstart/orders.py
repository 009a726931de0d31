"""A handler as one writes it for AWS Lambda: it takes the event of a Kafka trigger and names what it could not do."""

import base64
import json


def handler(event, context):
    """Charge each order; an order whose amount is not a number is reported and comes again, alone."""
    failures = []
    for partition, records in event["records"].items():
        for record in records:
            order = json.loads(base64.b64decode(record["value"]))
            try:
                charge(order["customer"], order["amount"])
            except TypeError:
                failures.append({"itemIdentifier": {"partition": partition, "offset": record["offset"]}})
    return {"batchItemFailures": failures}


charged: dict[str, int] = {}


def charge(customer: str, amount: int) -> None:
    """Raises TypeError when the amount is not a number."""
    charged[customer] = charged.get(customer, 0) + amount
