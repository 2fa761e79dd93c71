"""Folders for the servers of one test process; files of killed test processes are removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.reaper import OWNER, SCRATCH

_MEMORY = Path("/dev/shm")
_ROOM = 3 << 30  # bytes; the tests take a fifth of it
_SPARE = 6 << 30


def files_in_memory() -> None:
    """Keep temporary files in memory where there is enough: commits wait for the disk, most of a test's time.

    A TMPDIR that is set takes precedence. Killed processes lose nothing that way; no test simulates a power failure.
    """
    if os.environ.get("TMPDIR") or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return
    file_system = os.statvfs(_MEMORY)
    room = file_system.f_bavail * file_system.f_frsize
    if room < _ROOM or psutil.virtual_memory().available < _SPARE or file_system.f_flag & os.ST_NOEXEC:
        return
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None  # so that it is read again


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Provide an empty folder with a short path (a socket's name has at most 100 characters), removed at the end."""
    clear_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
    try:
        (folder / OWNER).write_text(f"{os.getpid()} {psutil.Process().create_time()}")
        yield folder
    finally:
        shutil.rmtree(folder)


def clear_abandoned() -> None:
    """End the servers of test processes that are gone, and remove their folders."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/"):
        try:
            pid, created = (folder / OWNER).read_text().split()
        except (OSError, ValueError):
            continue  # another user's, or one that is being created or removed right now
        if not _lives(int(pid), float(created)):
            for process in _working_in(folder):
                process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int, created: float) -> bool:
    try:
        return psutil.Process(pid).create_time() == created
    except psutil.Error:
        return False


def _working_in(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                yield process
        except psutil.Error:
            continue
