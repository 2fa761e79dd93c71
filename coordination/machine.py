"""Which machine this is, as far as process ids on it mean anything."""

from __future__ import annotations

import contextlib
import os
import socket
import zlib
from pathlib import Path

ATTEMPT_MARKER = "COORD_ATTEMPT_ID"
"""What every process of a job has in its environment: ``TASK-ID.ATTEMPT.`` and something random."""

WORKER_MARKER = "COORD_WORKER_PROCESS"
"""The same of all that a worker has started: its id."""

_SET_DUMPABLE = 4  # PR_SET_DUMPABLE of <sys/prctl.h>


_TAGGED, _WORKER_BITS, _JOB_BITS = 1 << 62, 30, 32


def carries_tag(number: int, worker_id: str) -> bool:
    """Whether *number*, a process's RLIMIT_RTTIME, is the tag of what that worker has started, whichever job it is."""
    mask = _TAGGED | ((1 << _WORKER_BITS) - 1) << _JOB_BITS
    mark = zlib.crc32(os.fsencode(f"{WORKER_MARKER}={worker_id}")) << _JOB_BITS
    return number & mask == _TAGGED | mark & mask


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


def keep_private() -> None:
    """Let no other process of this user read this one's environment and memory, as jobs of ours run as the same user.

    Linux only; elsewhere, and where the system refuses, nothing changes. It ends with the next exec. Its core is not
    dumped, and only root can attach a debugger to it.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


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
