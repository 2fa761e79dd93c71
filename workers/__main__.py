"""``python -m workers``: a Celery worker with our defaults; further arguments are Celery's own."""

from __future__ import annotations

import os
import sys

from coordination.base import inherited_variables
from coordination.base.host import ensure_utf8, keep_private


def main(arguments: list[str]) -> int:
    """Run a worker until it is told to stop; bad settings are one sentence and exit 2."""
    ensure_utf8(inherited_variables.original_environment())
    keep_private()
    from coordination.base.errors import CoordinationError
    from coordination.callers import check_caller  # not before: a job could read the environment meanwhile
    from coordination.settings import load_settings

    try:
        check_caller(load_settings().database_url)
        from workers.app import app
    except CoordinationError as error:
        sys.stderr.write(f"coord worker: {error.sentence()}\n")
        return 2
    defaults = ["worker", "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    if not any(argument in ("-n", "--hostname") or argument.startswith("--hostname=") for argument in arguments):
        # Two workers on one machine need two names: Celery's control commands address them by it.
        defaults += ["-n", f"coord-{os.getpid()}@%h"]
    app.worker_main([*defaults, *_unmistakable(arguments)])
    return 0


def _unmistakable(arguments: list[str]) -> list[str]:
    """Celery takes "-P prefork" for its own default and gives our pool instead; the pool's other name it believes."""
    return [
        argument.replace("prefork", "processes")
        if argument in ("--pool=prefork", "-Pprefork")
        or (argument == "prefork" and arguments[place - 1 : place] in (["-P"], ["--pool"]))
        else argument
        for place, argument in enumerate(arguments)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
