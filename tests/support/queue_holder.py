"""A program that takes a turn in the given queue, prints that it has it, and keeps it until it is killed."""

from __future__ import annotations

import signal
import sys
from datetime import timedelta
from pathlib import Path

from workers.runners.base import Control
from workers.workspaces.merge_lock import hold_lock

if __name__ == "__main__":
    with hold_lock(Path(sys.argv[1]), Control(scratch=Path("/nowhere")), limit=timedelta(seconds=9)):
        sys.stdout.write("has it\n")
        sys.stdout.flush()
        signal.pause()
