"""Who a call is: the headers that every HTTP call carries, whatever its payload."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from runner.model import Invocation

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[\x21-\x7e]*)?")
_READABLE: Final = "!#$&'()*+,/:;=?@[]{}|^`<>\\\""
_LONGEST_TRACEPARENT: Final = 256


def valid_traceparent(invocation: Invocation) -> str | None:
    """The invocation's W3C trace context when it has a valid one; an invalid one is as none, as the standard says."""
    value = invocation.traceparent
    if value is None or len(value) > _LONGEST_TRACEPARENT:
        return None
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, parent_id, more = match.groups()
    unusable = version == "ff" or not trace_id.strip("0") or not parent_id.strip("0") or (version == "00" and more)
    return None if unusable else value


def identity_headers(invocation: Invocation) -> list[tuple[str, str]]:
    """Names and values; what is not visible ASCII, and ``%``, is percent-encoded in the values."""
    headers = [
        ("Stream-Runner-Mapping", _value(invocation.mapping)),
        ("Stream-Runner-Partition", _value(invocation.partition.identifier)),
        ("Stream-Runner-First-Position", _value(str(invocation.first_position))),
        ("Stream-Runner-Last-Position", _value(str(invocation.last_position))),
        ("Stream-Runner-Attempt", str(invocation.attempt)),
        ("Idempotency-Key", invocation.idempotency_key),
    ]
    if invocation.lease is not None and invocation.lease.generation is not None:
        headers.append(("Stream-Runner-Generation", str(invocation.lease.generation)))
    traceparent = valid_traceparent(invocation)
    if traceparent is not None:
        headers.append(("traceparent", traceparent))
    return headers


def _value(text: str) -> str:
    return quote(text, safe=_READABLE, errors="replace")
