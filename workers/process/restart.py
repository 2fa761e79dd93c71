"""How a worker process starts anew: it becomes the command that it was started with, under the same pid.

That works whether or not anybody supervises it (an embedded stack, a container, systemd, a terminal), needs nothing of
the main thread, which may be what hangs, and leaves the supervisor's record and its count of restarts as they are. A
process that is not ours alone (a worker inside somebody's program) cannot become anything: it ends with ``STATUS``,
and whoever supervises it starts it again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from coordination.base import inherited_variables
from workers.runners import orphan_reaper

STATUS = 85
"""The exit status of a worker that wants to be started again and could not do so itself."""

LIVES_VARIABLE = "COORD_WATCHDOG_LIVES"
_PARENTS_PIPE = "COORD_READY_FD"  # told long ago, and the number may be another file by now

_OURS = frozenset({"workers.__main__", "celery.__main__"})
_OUR_SCRIPTS = frozenset({"celery", "coord"})


def command(main: Any = None) -> list[str] | None:
    """What to become; None when the process was not started as a worker."""
    main = sys.modules.get("__main__") if main is None else main
    spec = getattr(main, "__spec__", None)
    ours = spec.name in _OURS if spec is not None else Path(sys.argv[0] or "?").name in _OUR_SCRIPTS
    return [sys.executable, *sys.orig_argv[1:]] if ours and sys.executable else None


def again(*, lives: int) -> NoReturn:
    """Become the same command again, now, whatever other threads do; *lives* tells the next life of the ones before."""
    sys.stdout.flush()
    sys.stderr.flush()
    become = command()
    if become is not None:
        environment = inherited_variables.complete() | {LIVES_VARIABLE: str(lives)}
        environment.pop(_PARENTS_PIPE, None)
        orphan_reaper.carry_none()
        try:
            os.execve(become[0], become, environment)  # noqa: S606 - our own interpreter, no shell
        except OSError as error:
            sys.stderr.write(f"coord worker: it cannot start anew: {error}\n")
            sys.stderr.flush()
    os._exit(STATUS)
