"""Become another program that the kernel kills when the process that started it dies, however it dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """``python tether.py PARENT-PID PROGRAM ARGUMENT...``; never returns."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
        # It may have died before the kernel was told to watch it.
        if os.getppid() != parent:
            sys.exit("the process to be tied to is gone")
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
