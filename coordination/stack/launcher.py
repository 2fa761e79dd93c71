"""A program that runs in a child process: it ties the child to its parent, then executes the service. Never imported.

    python -I -S launcher.py PARENT SIGNAL PROGRAM ARGUMENTS…

The kernel sends SIGNAL to the program when the thread that started it ends, also after a kill -9. Setting that between
fork and exec (preexec_fn) may deadlock in a process with threads, so a new interpreter does it, in 15 ms and with the
same pid.
"""

from __future__ import annotations

import os
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
_NOT_STARTED = 127


def main(arguments: list[str]) -> int:
    """Execute the program. Return an exit status when that fails."""
    parent, number, *program = arguments
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(number), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # not Linux, or a Python without ctypes: the next start ends remaining processes
    if os.getppid() != int(parent):
        return _NOT_STARTED  # the parent ended before the call
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{program[0]} cannot be started: {error.strerror}\n")
    return _NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
