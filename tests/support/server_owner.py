"""A program like a test run in a scratch folder of its own: it owns a server there, and lives until it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.support.scratch import scratch_folder

if __name__ == "__main__":
    with scratch_folder() as folder:
        pause = [sys.executable, "-c", "import signal; signal.pause()"]
        server = subprocess.Popen(pause, cwd=folder, start_new_session=True)
        sys.stdout.write(f"{server.pid} {folder}\n")
        sys.stdout.flush()
        signal.pause()
