"""Which jobs a worker process runs right now, in a file that outlives the process: who may have ended it is known.

The file is mapped into memory, so that a note costs no system call and is there after a SIGKILL. It does not survive
the machine; where that went down, no job is to blame.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

_NAME = "started-"
_SIZE = 64  # bytes of a place: task id, attempt, blanks

Started = frozenset[tuple[str, int]]
"""(task id, attempt) pairs."""


class StartedJobs:
    """The writer's side; thread-safe. *places*: how many jobs may run at once; those beyond are not noted."""

    def __init__(self, folder: Path, worker_id: str, places: int) -> None:
        fd = os.open(folder / f"{_NAME}{worker_id}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, places * _SIZE)
            self._map = mmap.mmap(fd, places * _SIZE)
        finally:
            os.close(fd)
        self._lock = threading.Lock()
        self._free = list(range(places))
        self._taken: dict[tuple[str, int], int] = {}

    def begin(self, task_id: str, attempt: int) -> None:
        """A job begins."""
        with self._lock:
            if not self._free:
                return
            place = self._free.pop()
            self._taken[task_id, attempt] = place
            self._map[place * _SIZE : (place + 1) * _SIZE] = f"{task_id} {attempt}".encode().ljust(_SIZE)

    def end(self, jobs: Sequence[tuple[str, int]]) -> None:
        """These jobs are over, as far as they had begun."""
        with self._lock:
            for key in jobs:
                place = self._taken.pop(key, None)
                if place is not None:
                    self._map[place * _SIZE : (place + 1) * _SIZE] = bytes(_SIZE)
                    self._free.append(place)


def folder_of(scratch: Path, worker_id: str) -> Path | None:
    """The folder of a worker of this machine; None when there is none."""
    try:
        (path,) = scratch.glob(f"*/{_NAME}{worker_id}")
    except (OSError, ValueError):
        return None
    return path.parent


def read(scratch: Path, worker_id: str) -> Started | None:
    """What a worker of this machine was at when it died; None when nobody can say. *scratch*: see ``workers``."""
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
