"""Folders for the servers of one test process; what a killed test run has left is ended and removed by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PREFIX = "coord-tests-"
_OWNER = "owner"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder with a short path (a socket's name has a hundred characters at most), removed at the end."""
    clear_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        (folder / _OWNER).write_text(f"{os.getpid()} {psutil.Process().create_time()}")
        yield folder
    finally:
        shutil.rmtree(folder)


def clear_abandoned() -> None:
    """End the servers of test processes that are gone, and remove their folders."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/"):
        try:
            pid, created = (folder / _OWNER).read_text().split()
        except (OSError, ValueError):
            continue  # somebody else's, or one that is being made or removed right now
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
