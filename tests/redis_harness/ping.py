"""Whether a server answers, asked without a client library, and without an event loop."""

from __future__ import annotations

import socket


def answers(port: int, *, password: str | None = None, timeout: float) -> bool:
    """Whether PING on 127.0.0.1 is answered by PONG. Blocks for ``timeout`` seconds at most for each of its steps.

    A server that loads its data, or refuses the password, answers something else: False.
    """
    request = _command("PING")
    if password is not None:
        request = _command("AUTH", password) + request
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as replies:
                if password is not None and not replies.readline().startswith(b"+OK"):
                    return False
                return replies.readline() == b"+PONG\r\n"
    except OSError:
        return False


def _command(*arguments: str) -> bytes:
    encoded = [argument.encode() for argument in arguments]
    return b"".join([b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(one), one) for one in encoded)])
