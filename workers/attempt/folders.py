"""A private folder for each attempt: scratch files, the usage file, ``bin`` and the socket on which its job reports.

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

from coordination.domain.tasks.attempts import AttemptEnd, Claim
from workers.attempt.running import Proceed, RunningAttempt
from workers.runners import scratch_dirs, untrusted_files, usage_file
from workers.runners.scratch_dirs import ScratchDir

log = structlog.get_logger()

_SOCKET = "reports.sock"
_LONGEST_ADDRESS = 100  # the kernel accepts 107 bytes for a socket
_LONGEST_NAME = 34  # of an attempt's folder, with separators
_LINK = "w"


class AttemptFolders:
    """The step that makes the folders of a worker process's attempts, in its private folder *root*.

    *show*: makes a path visible in the sandbox of jobs.
    """

    def __init__(self, root: Path, show: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self._show = show
        self.program = _find_program()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._short: ScratchDir | None = None

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        """Make the folder before all steps that need it and delete it at the end."""
        with self.make(attempt.claim) as folder:
            attempt.control.scratch = folder
            return proceed(attempt)

    @contextlib.contextmanager
    def make(self, claim: Claim) -> Iterator[Path]:
        """Make a folder that only this user may read and that is deleted when its attempt ends."""
        folder = self.root / usage_file.folder_name(claim.task_id, claim.attempt, next(self._numbers))
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            _delete(folder)

    def address(self, folder: Path) -> str:
        """Return a path of the socket in *folder* that is short enough for the kernel."""
        return f"{self._short_root()}{os.sep}{folder.name}{os.sep}{_SOCKET}"

    def programs(self, folder: Path) -> str | None:
        """Return a folder in *folder* with ``coord`` in it for the job's PATH; None when the PATH has ``coord``."""
        if self.program is None:
            return None
        programs = folder / "bin"
        programs.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (programs / "coord").symlink_to(self.program)
        return str(programs)

    def close(self) -> None:
        """Delete the link to the folders, if there is one."""
        with self._lock:
            short, self._short = self._short, None
        if short is not None:
            short.close()

    def _short_root(self) -> str:
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


def _delete(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()  # in most cases it is empty
        return
    try:
        untrusted_files.delete_tree(folder)
    except OSError as error:
        log.warning(
            "an attempt's folder could not be deleted; the cleanup of its worker does it",
            folder=str(folder),
            why=str(error),
        )


def _find_program() -> Path | None:
    """Return the path of this installation's ``coord``; None when the PATH has one."""
    program = Path(sys.executable).with_name("coord")
    return program if shutil.which("coord") is None and program.exists() else None
