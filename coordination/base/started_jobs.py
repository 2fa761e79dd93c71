"""The jobs that a worker process runs, in a file that survives it, to know which jobs may have killed it.

The file is mapped into memory, so that writing an entry needs no system call and survives SIGKILL. It does not survive
a crash of the machine, for which no job is to blame.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

_NAME = "started-"
_SIZE = 64  # bytes of an entry: task id, attempt, blanks

Started = frozenset[tuple[str, int]]
"""(task id, attempt) pairs."""


class StartedJobs:
    """The writer of a worker's file; thread-safe. *places*: its capacity; further jobs are not recorded."""

    def __init__(self, folder: Path, worker_id: str, places: int) -> None:
        fd = os.open(folder / f"{_NAME}{worker_id}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, places * _SIZE)
            self._map = mmap.mmap(fd, places * _SIZE)
        finally:
            os.close(fd)
        self._lock = threading.Lock()
        self._free = list(range(places))
        self._index: dict[tuple[str, int], int] = {}

    def begin(self, task_id: str, attempt: int) -> None:
        """Record that a job begins."""
        with self._lock:
            if not self._free:
                return
            place = self._free.pop()
            self._index[task_id, attempt] = place
            self._map[place * _SIZE : (place + 1) * _SIZE] = f"{task_id} {attempt}".encode().ljust(_SIZE)

    def end(self, jobs: Sequence[tuple[str, int]]) -> None:
        """Record that these jobs have ended, as far as they were recorded."""
        with self._lock:
            for key in jobs:
                place = self._index.pop(key, None)
                if place is not None:
                    self._map[place * _SIZE : (place + 1) * _SIZE] = bytes(_SIZE)
                    self._free.append(place)


def folder_of(scratch: Path, worker_id: str) -> Path | None:
    """Return the folder of a worker of this machine, or None."""
    try:
        (path,) = scratch.glob(f"*/{_NAME}{worker_id}")
    except (OSError, ValueError):
        return None
    return path.parent


def read(scratch: Path, worker_id: str) -> Started | None:
    """Return what a dead worker of this machine was running; None if unknown. *scratch*: see ``workers``."""
    folder = folder_of(scratch, worker_id)
    if folder is None:
        return None
    try:
        data = (folder / f"{_NAME}{worker_id}").read_bytes()
    except OSError:
        return None
    started = set()
    for start in range(0, len(data), _SIZE):
        words = data[start : start + _SIZE].strip(b" \0").decode(errors="replace").split(" ")
        if len(words) == 2 and words[1].isdecimal():  # noqa: PLR2004 - a task and an attempt
            started.add((words[0], int(words[1])))
    return frozenset(started)
