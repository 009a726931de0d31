"""TCP ports that stay free while their server is down, so that it can come back on the same one."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

# Below the range from which the kernel takes the ports of outgoing connections. In that range, a client that
# reconnects to a dead server's port can be given the very same port and end up connected to itself.
_RANGE = range(12_000, 32_000)
_ATTEMPTS = 200


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now, and that no other run of the tests is given before we end."""
    chooser = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = chooser.choice(_RANGE)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port found between {_RANGE.start} and {_RANGE.stop}")


@cache
def _locks() -> int:
    """A file of which byte n is locked by the process that has been given port n; the lock ends with the process."""
    path = Path(tempfile.gettempdir()) / f"stream-runner-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
