"""A worker process: runs jobs that are sent to it until its parent is gone.

    python -m tilewright.autotune.worker READ WRITE PARENT

READ and WRITE are the numbers of inherited pipes, PARENT the id of the process that started it.
A job is a function of a module with its arguments; the answer is its value, or the error it
raised. What native code of a candidate does to this process is the parent's to find out.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from .wire import receive, run, send

_PR_SET_PDEATHSIG = 1


def main(read: int, write: int, parent: int) -> None:
    """Answers jobs until the parent closes the pipe; ends with the parent in any case."""
    # Even in the middle of native code that never returns.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # Ctrl-C is for the parent, which decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(read, "rb") as jobs, os.fdopen(write, "wb") as answers:
        while True:
            try:
                function, arguments = receive(jobs)
            except EOFError:
                return
            send(answers, run(function, arguments))


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:4]))
