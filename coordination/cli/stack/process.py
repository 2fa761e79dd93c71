"""``python -m coordination.cli.stack.process``: the process of an embedded stack, without a terminal.

A command that needs a stack starts it (``local/joining``) and writes to its standard input when the store is ready.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from coordination.base.host import keep_private


def main() -> int:
    """Keep a stack up until its last user has gone or it is stopped; return the exit code."""
    keep_private()
    signal.signal(signal.SIGUSR1, _nothing)  # before it is known to anybody who might send one
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
        return 0  # the command that has started this was refused, or is gone
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is all that is wanted
        os.dup2(nothing.fileno(), 0)
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


def _nothing(*_: object) -> None:
    """Ignore the signal: users are counted as soon as the stack is up."""


if __name__ == "__main__":
    sys.exit(main())
