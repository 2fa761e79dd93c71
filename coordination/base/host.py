"""Which machine this is, as far as process ids on it mean anything."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

ATTEMPT_MARKER = "COORD_ATTEMPT_ID"
"""What every process of a job has in its environment: ``TASK-ID.ATTEMPT.`` and something random."""

WORKER_MARKER = "COORD_WORKER_PROCESS"
"""The same of all that a worker has started: its id."""

_TERMINAL = "coord_terminal"  # an option of -X: the encoding of what is printed
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


def speak_utf8(environment: Mapping[str, str] = os.environ) -> None:
    """Begin this process anew in Python's UTF-8 mode where the locale has another encoding; else do nothing.

    Names of files, arguments and variables are UTF-8 in plans and in the database, whatever the locale of one machine
    says. What is printed stays in the encoding that the locale names. *environment*: what the new life is given.
    """
    if told := sys._xoptions.get(_TERMINAL):  # noqa: SLF001 - the documented way to options of one's own
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding=str(told))
        return
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or not sys.executable:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    arguments = ["-X", "utf8", "-X", f"{_TERMINAL}={encoding}", *sys.orig_argv[1:]]
    os.execve(sys.executable, [sys.executable, *arguments], environment)  # noqa: S606 - our own interpreter, no shell
