"""Starts a command that ends when whoever started it does, on cores of its own.

    python -m aihf_control.leash PARENT CORES COMMAND...

A process that is killed cannot end its children; so the kernel is asked to send them a SIGTERM then, at which a run
writes a checkpoint. PARENT is the id of the process that asks, CORES are numbers with commas between or `any`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def command(cores: Sequence[int], words: Sequence[str]) -> list[str]:
    """The command line that starts `words`, the first a program, on a leash of this process."""
    where = ",".join(map(str, cores)) or "any"
    return [sys.executable, "-m", "aihf_control.bench.child", str(os.getpid()), where, *words]


def main(argv: Sequence[str]) -> None:
    parent, cores, *words = argv
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:  # Linux; elsewhere children of a killed bench run on to their end
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):
        sys.exit("who started this is gone")
    if cores != "any":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execv(words[0], words)


if __name__ == "__main__":
    main(sys.argv[1:])
