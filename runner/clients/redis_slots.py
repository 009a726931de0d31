"""The hash slots of a Redis cluster: which one a key lies in, and keys that lie in the same one."""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from typing import Final

SLOTS: Final = 16_384


def slot_of(key: bytes) -> int:
    """The slot of ``key``, from 0: what ``CLUSTER KEYSLOT`` answers."""
    return crc_hqx(hash_tag(key), 0) % SLOTS


def hash_tag(key: bytes) -> bytes:
    """The part of ``key`` that is hashed: what stands between its first ``{`` and the next ``}``, when not nothing.

    Else it is the whole key.
    """
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            return key[opening + 1 : closing]
    return key


def companion_key(name: bytes, suffix: bytes) -> bytes:
    """A key in the slot of ``name``, whatever bytes that has; equal only for equal ``name`` and ``suffix``.

    The tag at its front keeps the slot: the name's own hash tag, where it has one, else the whole name where no brace
    breaks that, else a number that lies in the same slot. Raises ValueError when ``suffix`` is empty or begins with a
    digit: by that the forms are told apart.
    """
    if not suffix or suffix[:1].isdigit():
        raise ValueError("a companion's suffix is not empty and begins with no digit")
    tag = hash_tag(name)
    if tag == name and (not name or b"}" in name):
        return b"{%d}%s%s" % (_numbers()[slot_of(name)], _quoted(name), suffix)
    if tag == name:
        return b"{%s}%s" % (name, suffix)
    return b"{%s}%s%s" % (tag, _quoted(name), suffix)


def _quoted(name: bytes) -> bytes:
    """``name`` with its length in front, so that no two names and suffixes make one key."""
    return b"%d:%s" % (len(name), name)


@cache
def _numbers() -> tuple[int, ...]:
    """For each slot the smallest number whose decimal digits lie in it."""
    found: dict[int, int] = {}
    number = 0
    while len(found) < SLOTS:
        found.setdefault(crc_hqx(b"%d" % number, 0) % SLOTS, number)
        number += 1
    return tuple(found[slot] for slot in range(SLOTS))
