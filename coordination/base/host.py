"""This machine and boot, as the scope of process ids, and marks of processes."""

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
"""The variable in the environment of every process of a job: ``TASK-ID.ATTEMPT.`` and a random part."""

WORKER_MARKER = "COORD_WORKER_PROCESS"
"""The variable in the environment of every process that a worker has started: the worker's id."""

_TERMINAL = "coord_terminal"  # an option of -X: the encoding of the output
_SET_DUMPABLE = 4  # PR_SET_DUMPABLE of <sys/prctl.h>

_TAGGED, _WORKER_BITS, _JOB_BITS = 1 << 62, 30, 32


def carries_tag(number: int, worker_id: str) -> bool:
    """Return whether *number*, a process's RLIMIT_RTTIME, is the tag of processes that this worker has started."""
    mask = _TAGGED | ((1 << _WORKER_BITS) - 1) << _JOB_BITS
    mark = zlib.crc32(os.fsencode(f"{WORKER_MARKER}={worker_id}")) << _JOB_BITS
    return number & mask == _TAGGED | mark & mask


def host() -> str:
    """Return this machine's name, or the container's."""
    return socket.gethostname()


def boot_id() -> str:
    """Return the scope of process ids: this boot of this kernel, and this namespace of process ids.

    Two machines may have the same name, and containers of one machine have the same boot: neither sees the other's
    pids.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown"


def keep_private() -> None:
    """Prevent other processes of this user, such as jobs, from reading this process's environment and memory.

    Linux only; without effect elsewhere, where the system refuses, and after the next exec. Also disables core dumps,
    and leaves debugging to root.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def job_processes() -> dict[int, tuple[str, int]]:
    """Return the visible processes of jobs: pid -> (task id, attempt). Linux only."""
    marker = f"\0{ATTEMPT_MARKER}=".encode()
    processes: dict[int, tuple[str, int]] = {}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = b"\0" + entry.read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        _, marked, rest = environ.partition(marker)
        task_id, _, number = rest.split(b"\0", 1)[0].decode(errors="replace").partition(".")
        number = number.partition(".")[0]
        if marked and number.isdecimal() and int(entry.parent.name) != os.getpid():
            processes[int(entry.parent.name)] = (task_id, int(number))
    return processes


def ensure_utf8(environment: Mapping[str, str] = os.environ) -> None:
    """Restart this process in Python's UTF-8 mode if the locale has another encoding; else do nothing.

    File names, arguments and variables are UTF-8 in plans and in the database, whatever the locale of a machine is. The
    output keeps the locale's encoding. *environment*: of the restarted process.
    """
    if encoding_option := sys._xoptions.get(_TERMINAL):  # noqa: SLF001 - the documented way to read own options
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding=str(encoding_option))
        return
    if sys.getfilesystemencoding().lower() in ("utf-8", "utf8") or not sys.executable:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    arguments = ["-X", "utf8", "-X", f"{_TERMINAL}={encoding}", *sys.orig_argv[1:]]
    os.execve(sys.executable, [sys.executable, *arguments], environment)  # noqa: S606 - our own interpreter, no shell
