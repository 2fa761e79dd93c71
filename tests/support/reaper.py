"""Ends the servers and processes that a killed test process has left, then deletes its folders.

A small process beside each test process waits for that one's end, whatever its cause. It then ends all processes with
the test process's mark in their environment. It is in a session of its own, ignores the signals that end a run, and
carries no mark, so that nothing ends it with the others. Standard library only; run as a file.

    python -I -S reaper.py PIDFD PID MARK TEMPORARY_FOLDER SOURCE_ROOT
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TAG = "PYTEST_PROCESS_OF"
SCRATCH = "coord-tests-"
OWNER = "owner"

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_IN_ORDER = 3.0  # seconds for a database server to give back its shared memory
_PATIENCE = 20.0
_PAUSE = 0.05


def watch_over_this_process(tag: str) -> None:
    """Start the process that ends all processes with *tag* when this process is gone."""
    this = os.pidfd_open(os.getpid())
    try:
        subprocess.run(
            [
                *(sys.executable, "-I", "-S", __file__),
                *(str(this), str(os.getpid()), tag, tempfile.gettempdir(), str(Path(__file__).parents[2])),
            ],
            pass_fds=(this,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
            check=True,
        )
    finally:
        os.close(this)


def main(arguments: list[str]) -> None:
    """Wait for the test process's end, then end what it left and remove its folders."""
    owner, pid, tag, temporary, sources = int(arguments[0]), int(arguments[1]), *arguments[2:]
    if os.fork():
        os._exit(0)  # orphans get another parent, so no test finds them as its children
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)  # a reader of the run's output must not wait for this process
    end = select.poll()
    end.register(owner, select.POLLIN)
    end.poll()
    _end_all(f"{TAG}={tag}".encode())
    _remove_folders(pid, Path(temporary))
    sys.path.append(sources)
    with contextlib.suppress(Exception):
        from workers.runners import scratch_dirs  # files of killed workers in the folder for temporary files

        scratch_dirs.delete_abandoned(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)


def _end_all(mark: bytes) -> None:
    """Kill all processes with *mark* until there are none: some start others meanwhile."""
    began = time.monotonic()
    terminated: set[int] = set()
    scans_without = 0
    while scans_without < 2 and time.monotonic() - began < _PATIENCE:
        result = list(_carrying(mark))
        scans_without = 0 if result else scans_without + 1
        patient = time.monotonic() - began < _IN_ORDER
        databases = {pid for pid in result if _is_postgres(pid)} if patient else set()
        for process in result:
            if process not in databases:
                _send(process, signal.SIGKILL)
            elif process not in terminated and _is_server(process):
                terminated.add(process)
                _send(process, signal.SIGQUIT)  # PostgreSQL ends its processes, and gives back its shared memory
        time.sleep(_PAUSE)


def _carrying(mark: bytes) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def _is_postgres(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
    return False


def _is_server(pid: int) -> bool:
    """Return whether it is the process that was started, and not one of those that it has forked and renamed."""
    with contextlib.suppress(OSError):
        return b"\0-D\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _remove_folders(pid: int, temporary: Path) -> None:
    """Remove the folders of servers, and pytest's own, whose lock remains when pytest was killed."""
    pytests = (lock.parent for lock in temporary.glob("pytest-of-*/pytest-*/.lock") if _names(lock, pid))
    servers = (mark.parent for mark in temporary.glob(f"{SCRATCH}*/{OWNER}") if _names(mark, pid))
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for folder in (*servers, *pytests):
        if not any(Path(mount).is_relative_to(folder) for mount in mounts):  # a mounted file system is not ours
            shutil.rmtree(folder, ignore_errors=True)


def _names(file: Path, pid: int) -> bool:
    with contextlib.suppress(OSError):
        return file.read_text().split()[:1] == [str(pid)]
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
