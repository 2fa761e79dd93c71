"""A program that owns a folder below the one it is given, prints its path, and lives until it is killed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from workers.runners.scratch_dirs import IN_HOME, create

if __name__ == "__main__":
    own = create(Path(sys.argv[1]), IN_HOME)
    (own.path / "d").mkdir()
    (own.path / "d" / "file").touch()
    sys.stdout.write(f"{own.path}\n")
    sys.stdout.flush()
    signal.pause()
