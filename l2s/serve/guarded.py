"""Runs a command that dies with the node: `python -m l2s.serve.guarded NODE_PID COMMAND...`. Linux.

An orphan would go on writing into a job's folder while the next node runs the same job again. The kernel kills the process when its
parent dies (prctl PR_SET_PDEATHSIG, which outlives exec), and takes it before the node where memory runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
OOM_SCORE = "800"  # of 1000: first to go


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        sys.exit("the node died before its segmentation began")
    with contextlib.suppress(OSError):  # a hardened container may have no writable /proc
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
