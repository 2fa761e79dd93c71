"""A process that owns a stack with the stand-in worker, as ``coord up`` owns one with the real worker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from coordination.errors import CoordinationError
from coordination.local import stack
from coordination.settings import load_settings

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))


def note_death(pid: int) -> bool:
    (Path(os.environ["COORD_HOME"]) / "death").write_text(str(pid))
    return False


def main() -> int:
    try:
        started = stack.start(
            load_settings(),
            with_beat=False,
            worker_argv=[sys.executable, STAND_IN, *sys.argv[1:]],
            on_worker_death=note_death,
        )
        started.hold()
    except CoordinationError as error:
        sys.stderr.write(error.sentence() + "\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
