"""Restart a worker process: execute the command that it was started with, under the same pid.

That works under any supervisor (an embedded stack, a container, systemd) or none, does not need the main thread, which
may hang, and does not change the supervisor's count of restarts. A worker inside another program cannot do that: it
exits with ``STATUS``, so that its supervisor restarts it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from coordination.base import inherited_variables
from workers.runners import orphan_reaper

STATUS = 85
"""The exit status of a worker that needs a restart by its supervisor."""

LIVES_VARIABLE = "COORD_WATCHDOG_LIVES"
_PARENTS_PIPE = "COORD_READY_FD"  # used already, and the descriptor may be another file by now

_OURS = frozenset({"workers.__main__", "celery.__main__"})
_OUR_SCRIPTS = frozenset({"celery", "coord"})


def command(main: Any = None) -> list[str] | None:
    """Return the command to execute. None: the process was not started as a worker."""
    main = sys.modules.get("__main__") if main is None else main
    spec = getattr(main, "__spec__", None)
    ours = spec.name in _OURS if spec is not None else Path(sys.argv[0] or "?").name in _OUR_SCRIPTS
    return [sys.executable, *sys.orig_argv[1:]] if ours and sys.executable else None


def again(*, lives: int) -> NoReturn:
    """Execute the same command again at once, whatever other threads do. *lives*: see ``ConsumerWatchdog``."""
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = command()
    if arguments is not None:
        environment = inherited_variables.original_environment() | {LIVES_VARIABLE: str(lives)}
        environment.pop(_PARENTS_PIPE, None)
        orphan_reaper.drop_tag_before_exec()
        try:
            os.execve(arguments[0], arguments, environment)  # noqa: S606 - our own interpreter, no shell
        except OSError as error:
            sys.stderr.write(f"coord worker: it cannot restart: {error}\n")
            sys.stderr.flush()
    os._exit(STATUS)
