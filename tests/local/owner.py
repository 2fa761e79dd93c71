"""A process that owns a stack with the stand-in worker, as the process of an embedded stack owns a real one.

With ``--users`` before the worker's behaviour, it counts its users, and waits for a request to stop.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from coordination.base.errors import CoordinationError
from coordination.settings import load_settings
from coordination.stack import stack
from coordination.stack.home import Home
from coordination.stack.joining import encode_error
from coordination.stack.users import StackUsers

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))


def note_death(pid: int) -> bool:
    (Path(os.environ["COORD_HOME"]) / "death").write_text(str(pid))
    return False


def main(arguments: list[str]) -> int:
    settings = load_settings()
    users: StackUsers | None = None
    if arguments[:1] == ["--users"]:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        users = StackUsers(Home(settings.home))
        del arguments[0]
        if not sys.stdin.readline():
            return 0
    try:
        started = stack.start(
            settings,
            with_beat=False,
            worker_argv=[sys.executable, STAND_IN, *arguments],
            on_worker_death=note_death,
            counts_users=users is not None,
        )
        started.run(users)
    except CoordinationError as error:
        sys.stderr.write(error.sentence() + "\n")
        if settings.ready_fd is not None and users is not None:
            os.write(settings.ready_fd, encode_error(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
