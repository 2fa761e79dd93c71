"""A folder for each attempt: scratch files, the usage file, ``bin`` and the socket on which its job reports.

They are in the folder of the worker process, which a cleanup deletes after the process was killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from coordination.domain.tasks.attempts import Claim
from workers.runners import cost_reports, scratch_dirs, untrusted_files
from workers.runners.scratch_dirs import ScratchDir

log = structlog.get_logger()

_SOCKET = "reports.sock"
_LONGEST_ADDRESS = 100  # the kernel accepts 107 bytes for a socket
_LONGEST_NAME = 34  # of an attempt's folder, with separators
_LINK = "w"


class AttemptFolder:
    """The folder ``path`` of one attempt, which only this user may read (0700)."""

    def __init__(self, folders: AttemptFolders, name: str) -> None:
        self._folders = folders
        self.path = folders.root / name
        self.path.mkdir(mode=0o700)

    def address(self) -> str:
        """Return a path of the socket that is short enough for the kernel."""
        return f"{self._folders.short_root()}{os.sep}{self.path.name}{os.sep}{_SOCKET}"

    def programs(self) -> str | None:
        """Return a folder with ``coord`` in it for the job's PATH; None when the PATH has ``coord`` already."""
        program = self._folders.program
        if program is None:
            return None
        folder = self.path / "bin"
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / "coord").symlink_to(program)
        return str(folder)

    def close(self) -> None:
        """Delete the folder with its content."""
        with contextlib.suppress(OSError):
            return os.rmdir(self.path)  # noqa: PTH106 - in most cases it is empty
        try:
            untrusted_files.delete_tree(self.path)
        except OSError as error:
            log.warning(
                "an attempt's folder could not be deleted; the cleanup of its worker does it",
                folder=str(self.path),
                why=str(error),
            )
        return None


class AttemptFolders:
    """The folders of a worker process's attempts, in its private folder *root*.

    *show*: makes a path visible in the sandbox of jobs.
    """

    def __init__(self, root: Path, show: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self._show = show
        self.program = _find_program()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._short: ScratchDir | None = None

    @contextlib.contextmanager
    def make(self, claim: Claim) -> Iterator[AttemptFolder]:
        """Make a folder that is deleted when its attempt ends."""
        folder = AttemptFolder(self, cost_reports.folder_name(claim.task_id, claim.attempt, next(self._numbers)))
        try:
            yield folder
        finally:
            folder.close()

    def short_root(self) -> str:
        """Return *root*, or a link to it when its path is too long for the sockets."""
        root = str(self.root)
        if len(os.fsencode(root)) + _LONGEST_NAME + len(_SOCKET) <= _LONGEST_ADDRESS:
            return root
        with self._lock:
            if self._short is None:
                short = scratch_dirs.create(scratch_dirs.TEMPORARY, scratch_dirs.IN_TEMPORARY)
                (short.path / _LINK).symlink_to(self.root.resolve())
                self._show(str(short.path))
                self._short = short
            return str(self._short.path / _LINK)

    def close(self) -> None:
        """Delete the link, if there is one."""
        with self._lock:
            short, self._short = self._short, None
        if short is not None:
            short.close()


def _find_program() -> Path | None:
    """Return the path of this installation's ``coord``; None when the PATH has one."""
    program = Path(sys.executable).with_name("coord")
    return program if shutil.which("coord") is None and program.exists() else None
