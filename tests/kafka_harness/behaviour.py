"""What the test's function does with the records it is given, as one value that is replaced while it runs."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

REFUSED: Final = 409
"""The status of a call that comes too late: see ``Behaviour.fenced``."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that happens to a share ``rate`` (0..1) of the calls before their records are looked at.

    ``kind`` is an answer with ``status`` (and ``Retry-After: retry_after``, in seconds), or a reset connection.
    """

    rate: float
    kind: Literal["status", "reset"] = "status"
    status: int = 500
    retry_after: float | None = None


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the function answers. A record is poison when its value is a JSON object with ``poison``: true (it fails
    always) or a number (it fails that many times).

    ``payload``: what the bodies are, AWS's event or a record's value. ``poison``: a call that holds one is answered
    ``failure_status``, or 200 with ``batchItemFailures``, or as if there were none. ``named``: what such an answer
    names: the poison records, also the later ones of their keys, or all from the first poison on. ``delay_ms`` a
    call, and ``slow_keys`` (text of a key to milliseconds; the slowest record of a call counts) on top. ``hang``, and
    ``hang_keys`` for the calls with such a key, hold calls until the behaviour is replaced. ``seed`` makes the faults
    repeatable. ``answers``: by the mapping's name, the bodies that its first calls are answered 200 with, word for
    word and in turn; what such a body says is not looked at, so the journal names no record of the call as failed.
    ``fenced``: a call whose lease's generation is below the highest that was ever seen of its partition is answered
    ``REFUSED``, and does nothing else.
    """

    payload: Literal["lambda", "raw"] = "lambda"
    poison: Literal["fail", "report", "accept"] = "fail"
    named: Literal["poison", "rest_of_key", "rest"] = "poison"
    failure_status: int = 500
    delay_ms: float = 0.0
    slow_keys: dict[str, float] = {}
    hang: bool = False
    hang_keys: list[str] = []
    faults: list[Fault] = []
    seed: int = 0
    answers: dict[str, list[str]] = {}
    fenced: bool = False


class Status(msgspec.Struct, frozen=True):
    """What the function says about itself: ``calls`` have ended, ``in_flight`` have not, ``held`` of them hang."""

    behaviour: Behaviour
    calls: int
    in_flight: int
    held: int
