"""``python -m coordination.cli.stack.process``: the process of an embedded stack, without a terminal.

A command that needs a stack starts it (``stack/joining``) and writes to its standard input when the store is ready.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from coordination.base.host import keep_private


def main() -> int:
    """Keep a stack running until its last user has left or it is stopped; return the exit code."""
    keep_private()
    signal.signal(signal.SIGUSR1, _ignore)  # before other processes know this one and may signal it
    from coordination.base.errors import CoordinationError
    from coordination.cli.stack.embedded import rescue_from
    from coordination.settings import load_settings
    from coordination.stack import stack
    from coordination.stack.home import Home
    from coordination.stack.interrupts import interruptible
    from coordination.stack.joining import encode_error
    from coordination.stack.users import StackUsers

    settings = load_settings()
    if not sys.stdin.buffer.readline():
        return 0  # the command that started this process was refused or has ended
    with open(os.devnull, "rb") as devnull:  # noqa: PTH123 - only its descriptor is used
        os.dup2(devnull.fileno(), 0)
    ready = False
    try:
        with interruptible():
            running = stack.start(settings, on_worker_death=rescue_from(settings), counts_users=True)
            ready = True
            running.run(StackUsers(Home(settings.home)))
    except CoordinationError as error:
        sys.stderr.write(f"coord: {error.sentence()}\n")
        if settings.ready_fd is not None and not ready:
            with contextlib.suppress(OSError):
                os.write(settings.ready_fd, encode_error(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _ignore(*_: object) -> None:
    """Ignore the signal: users are counted as soon as the stack is up."""


if __name__ == "__main__":
    sys.exit(main())
