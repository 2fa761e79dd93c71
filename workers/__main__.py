"""``python -m workers``: a Celery worker with our defaults. Further arguments are Celery's."""

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
    from coordination.callers import check_caller  # only after keep_private: jobs could read the environment
    from coordination.settings import load_settings

    try:
        check_caller(load_settings().database_url)
        from workers.app import app
    except CoordinationError as error:
        sys.stderr.write(f"coord worker: {error.sentence()}\n")
        return 2
    defaults = ["worker", "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    if not any(argument in ("-n", "--hostname") or argument.startswith("--hostname=") for argument in arguments):
        # Celery's control commands address workers by name, so workers of one host need different names.
        defaults += ["-n", f"coord-{os.getpid()}@%h"]
    app.worker_main([*defaults, *_with_pool_alias(arguments)])
    return 0


def _with_pool_alias(arguments: list[str]) -> list[str]:
    """Replace "-P prefork" by its alias: Celery takes "prefork" for the default and uses our configured pool."""
    return [
        argument.replace("prefork", "processes")
        if argument in ("--pool=prefork", "-Pprefork")
        or (argument == "prefork" and arguments[index - 1 : index] in (["-P"], ["--pool"]))
        else argument
        for index, argument in enumerate(arguments)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
