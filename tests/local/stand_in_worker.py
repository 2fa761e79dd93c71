"""Stands in for the Celery worker in the tests of the stack: reports readiness and obeys SIGTERM at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def main(how: str) -> None:
    home = Path(os.environ["COORD_HOME"])
    if how == "dies":
        sys.exit("the database is on holiday")
    if how == "dies-later" and (home / "began").exists():
        sys.exit("once was enough")
    (home / "began").touch()
    (home / "redis-url").write_text(os.environ["COORD_REDIS_URL"])
    (home / "database-url").write_text(os.environ["COORD_DATABASE_URL"])
    # Blocked before another process can know that it runs, so that no signal is missed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
    if how == "forks":
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        (home / "forked").write_text(str(child.pid))
    ready = int(os.environ["COORD_READY_FD"])
    if how != "silent":
        os.write(ready, b"ready\n")
    os.close(ready)
    while True:
        number = signal.sigwait({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
        if number == signal.SIGINT:
            (home / "interrupted").touch()
        elif how != "stubborn":
            break
    # A signal in the meantime is a second request.
    again = signal.sigtimedwait({signal.SIGTERM}, 0.1) is not None
    (home / "drained").write_text("twice" if again else "once")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "obeys")
