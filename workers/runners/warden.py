"""The program that ends the jobs of a worker when the worker dies. Standard library only; ``process.Warden`` starts it.

The worker sends the running process groups over a pipe. When the pipe closes, because the worker has ended in any way,
the warden kills these groups and all other processes with the worker's marker, and exits. It has its own session and
ignores the signals that stop a worker, so that it outlives the worker.

Lines: ``+ GROUP START_TIME`` a group runs; ``- GROUP`` it has ended.
"""

from __future__ import annotations

import os
import signal
import sys

from workers.runners import orphan_reaper

_PATIENCE = 5.0


def main() -> None:
    """Run the warden: read lines until the worker has ended, then kill its processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    marker = os.fsencode(sys.argv[1])
    groups = _read_groups()
    for group, started in groups.items():
        # The number of an ended leader is not reused while its group has processes.
        if orphan_reaper.start_time(group) in (started, None):
            orphan_reaper.signal_group(group, signal.SIGKILL)
    orphan_reaper.kill_all([marker, orphan_reaper.worker_tag(sys.argv[1])], patience=_PATIENCE)


def _read_groups() -> dict[int, int]:
    groups: dict[int, int] = {}
    with os.fdopen(0, "rb") as pipe:
        # Lines are short enough for atomic pipe writes, so a killed worker leaves only complete ones.
        for line in pipe:
            words = line.split()
            if words[:1] == [b"+"] and len(words) == 3:  # noqa: PLR2004 - the line's three words
                groups[int(words[1])] = int(words[2])
            elif words[:1] == [b"-"] and len(words) == 2:  # noqa: PLR2004 - the line's two words
                groups.pop(int(words[1]), None)
    return groups


if __name__ == "__main__":
    main()
