"""Launcher of a child process that ends when its parent does, on cores of its own.

    python -m aihf_control.bench.child PARENT CORES COMMAND...

A process that is killed cannot end its children, so the kernel is asked to send them a SIGTERM when that happens; a run
then writes a checkpoint. PARENT is the id of the calling process, CORES are numbers separated by commas, or `any`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def child_command(cores: Sequence[int], words: Sequence[str]) -> list[str]:
    """Return the command line that starts the program `words[0]` as a child that ends with this process."""
    pinned = ",".join(map(str, cores)) or "any"
    return [sys.executable, "-m", "aihf_control.bench.child", str(os.getpid()), pinned, *words]


def main(argv: Sequence[str]) -> None:
    """Pin this process, tie it to its parent, and replace it by the command."""
    parent, cores, *words = argv
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:  # Linux; elsewhere the children of a killed bench run to their end
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):
        sys.exit("the parent process has ended")
    if cores != "any":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execv(words[0], words)


if __name__ == "__main__":
    main(sys.argv[1:])
