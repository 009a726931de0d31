"""The forms in which a dead letter is written, each smaller than the one before."""

from __future__ import annotations

import enum
import hashlib

import msgspec

from runner.destinations.headers import original_headers
from runner.model import DeadLetter


class Form(enum.IntEnum):
    """How much of the letter is written. The next one is tried when the destination takes none of this size."""

    WHOLE = 0
    WITHOUT_ERROR_TEXT = 1
    POINTER = 2
    POINTER_WITHOUT_KEY = 3

    @property
    def smaller(self) -> Form | None:
        return Form(self + 1) if self < Form.POINTER_WITHOUT_KEY else None


def pointer_to(letter: DeadLetter, form: Form) -> bytes:
    """JSON that says where the record of ``letter`` is, for a form that does not hold it."""
    record = letter.record
    has_key_left_out = form is Form.POINTER_WITHOUT_KEY and record.key is not None
    return msgspec.json.encode(
        {
            "topic": record.partition.topic,
            "partition": record.partition.number,
            "offset": record.position,
            "size": None if record.value is None else len(record.value),
            "sha256": None if record.value is None else hashlib.sha256(record.value).hexdigest(),
            "headers_left_out": len(original_headers(record)),
            "key_left_out": has_key_left_out,
            "key_sha256": hashlib.sha256(record.key or b"").hexdigest() if has_key_left_out else None,
        }
    )
