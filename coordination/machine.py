"""Which machine this is, as far as process ids on it mean anything."""

from __future__ import annotations

import os
import socket
from pathlib import Path

ATTEMPT_MARKER = "COORD_ATTEMPT_ID"
"""What every process of a job has in its environment: ``TASK-ID.ATTEMPT.`` and something random."""

WORKER_MARKER = "COORD_WORKER_PROCESS"
"""The same of all that a worker has started: its id."""


def host() -> str:
    """This machine's name (a container's own)."""
    return socket.gethostname()


def boot_id() -> str:
    """Where process ids mean what they mean here: this boot of this kernel, and this namespace of process ids in it.

    Two machines may have one name, and containers of one machine have the same boot: neither sees the other's pids.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown"


def job_processes() -> dict[int, tuple[str, int]]:
    """The processes here that belong to a job, as far as we may look: pid -> (task id, attempt). Linux only."""
    marker = f"\0{ATTEMPT_MARKER}=".encode()
    found: dict[int, tuple[str, int]] = {}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = b"\0" + entry.read_bytes()
        except OSError:  # gone, or somebody else's
            continue
        _, marked, rest = environ.partition(marker)
        task_id, _, number = rest.split(b"\0", 1)[0].decode(errors="replace").partition(".")
        number = number.partition(".")[0]
        if marked and number.isdecimal() and int(entry.parent.name) != os.getpid():
            found[int(entry.parent.name)] = (task_id, int(number))
    return found
