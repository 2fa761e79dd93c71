"""What runs in a child before its program: ties it to its parent's life, then becomes the program. Never imported.

    python -I -S launcher.py PARENT SIGNAL PROGRAM ARGUMENTS…

The kernel sends SIGNAL to the program when the thread that started it is gone, also after a kill -9. Asking for that
between fork and exec (preexec_fn) may deadlock in a process with threads, so a fresh interpreter does it: 15 ms, and
the pid stays the same.
"""

from __future__ import annotations

import os
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
_NOT_STARTED = 127


def main(arguments: list[str]) -> int:
    """Become the program; the exit status is for when that fails."""
    parent, number, *program = arguments
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(number), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # not Linux, or a Python built without ctypes: then the next start ends what was left
    if os.getppid() != int(parent):
        return _NOT_STARTED  # the parent died before the kernel was told
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{program[0]} cannot be started: {error.strerror}\n")
    return _NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
