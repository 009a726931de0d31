"""Kafka requests small enough to be written by hand, to learn whether a broker serves before any client is built."""

from __future__ import annotations

import socket
import struct

_METADATA = 3
_FIND_COORDINATOR = 10


def serves(host: str, port: int, *, timeout: float = 2.0) -> bool:
    """Whether the broker knows itself as alive and coordinates groups, and says so within ``timeout`` seconds."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            # Version 1 asks for no topic with an empty array; version 0 of the other is a group's name.
            metadata = _ask(connection, _METADATA, 1, struct.pack(">i", 0))
            group = b"harness"
            coordinator = _ask(connection, _FIND_COORDINATOR, 0, struct.pack(">h", len(group)) + group)
    except OSError:
        return False
    brokers: int = struct.unpack_from(">i", metadata)[0]
    error: int = struct.unpack_from(">h", coordinator)[0]
    return brokers > 0 and error == 0


def _ask(connection: socket.socket, api: int, version: int, body: bytes) -> bytes:
    client = b"harness"
    header = struct.pack(">hhih", api, version, 0, len(client)) + client
    connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    (size,) = struct.unpack(">i", _receive(connection, 4))
    return _receive(connection, size)[4:]


def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = connection.recv(size - len(received))
        if not chunk:
            raise ConnectionResetError("the broker closed the connection in the middle of an answer")
        received += chunk
    return bytes(received)
