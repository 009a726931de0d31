"""What is particular to a file of dead letters: its lines, half a line at its end, a disk that fails."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from runner.clients.lines import encode_line
from runner.destinations.file import FileDestination
from runner.model import ErrorKind, FunctionError
from runner.ports import DestinationError
from runner.testing.destination_suite import a_letter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dead.jsonl"


def a_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def positions_in(path: Path) -> list[int]:
    return [json.loads(line)["position"] for line in path.read_bytes().splitlines()]


async def test_a_line_says_all_about_its_letter(path: Path) -> None:
    error = FunctionError(ErrorKind.ERROR, "ValueError", "bad \udcff", "line 1", 500)
    assert list(await FileDestination(path).store([a_letter(7, b"k", b"\xff", (("h", b"1"),), error=error)])) == [None]
    assert json.loads(content_of(path)) == {
        "key": "k",
        "value_base64": "/w==",
        "headers": [["h", "1"]],
        "timestamp": 1_700_000_000_123,
        "topic": "orders",
        "partition": 0,
        "position": 7,
        "source": "memory://orders",
        "group": "orders-to-charge-card",
        "mapping": "orders-to-charge-card",
        "function": "charge-card",
        "condition": "RetryAttemptsExhausted",
        "attempts": 3,
        "error": {
            "kind": "error",
            "type": "ValueError",
            "text": "bad \\udcff",
            "stack": "line 1",
            "status_code": 500,
        },
        "given_up_at": 1_700_000_060_000,
    }


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b'{"whole": 1}\n{"half', b'{"whole": 1}\n'),
        (b'{"half', b""),
        (b'{"whole": 1}\n{"an": "editor"}', b'{"whole": 1}\n{"an": "editor"}\n'),
        (b'{"whole": 1}\n{"half' + b"x" * 200_000, b'{"whole": 1}\n'),
        (b"", b""),
    ],
    ids=["half a line", "nothing but half a line", "only the newline is missing", "a long half", "empty"],
)
async def test_half_a_line_at_the_end_is_repaired(tmp_path: Path, before: bytes, kept: bytes) -> None:
    path = a_file(tmp_path / "dead.jsonl", before)
    await FileDestination(path).store([a_letter(1, b"k", b"v")])
    content = content_of(path)
    assert content.startswith(kept)
    [line] = content[len(kept) :].splitlines()
    assert json.loads(line)["position"] == 1


@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_a_failing_disk_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    destination = FileDestination(path)
    await destination.store([a_letter(1, b"k", b"v")])
    before = content_of(path)
    write = os.write

    def write_half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, write_half if call == "write" else fail)
        results = await destination.store([a_letter(2, b"k", b"v"), a_letter(3, b"k", b"v")])
    assert [type(result) for result in results] == [DestinationError, DestinationError]
    assert content_of(path) == before
    assert list(await destination.store([a_letter(2, b"k", b"v")])) == [None]
    assert positions_in(path) == [1, 2]


async def test_two_destinations_may_share_a_file(path: Path) -> None:
    first, second = FileDestination(path), FileDestination(path)
    for position in range(4):
        await (first if position % 2 else second).store([a_letter(position, b"k", b"v")])
    assert positions_in(path) == [0, 1, 2, 3]


async def test_a_letter_has_its_records_envelope(path: Path) -> None:
    letter = a_letter(1, b"k", None, (("a", None),))
    await FileDestination(path).store([letter])
    stored = json.loads(content_of(path))
    envelope = json.loads(encode_line(letter.record))
    assert {name: stored[name] for name in envelope} == envelope
