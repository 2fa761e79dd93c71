"""A process that owns a stack with the stand-in worker, as ``coord up`` owns one with the real worker."""

from __future__ import annotations

import sys
from pathlib import Path

from coordination.errors import CoordinationError
from coordination.local import stack
from coordination.settings import load_settings

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))


def main() -> int:
    try:
        started = stack.start(
            load_settings(),
            with_beat=False,
            worker_argv=[sys.executable, STAND_IN, *sys.argv[1:]],
            on_worker_death=None,
        )
        started.hold()
    except CoordinationError as error:
        sys.stderr.write(error.sentence() + "\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
