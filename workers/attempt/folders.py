"""One folder for each attempt: scratch files, its file of costs, its ``bin`` and the socket on which it reports.

They are in the folder of the worker's process, which whoever clears up takes away after a process that was killed.
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
_LONGEST_ADDRESS = 100  # the system takes 107 bytes for a socket's
_LONGEST_NAME = 34  # of an attempt's folder, with the signs between
_LINK = "w"


class AttemptFolder:
    """The folder of one attempt, for this user alone (0700). ``path`` is where what it needs is made."""

    def __init__(self, folders: AttemptFolders, name: str) -> None:
        self._folders = folders
        self.path = folders.root / name
        self.path.mkdir(mode=0o700)

    def address(self) -> str:
        """Return the path of its socket, in a form that is short enough for one."""
        return f"{self._folders.short_root()}{os.sep}{self.path.name}{os.sep}{_SOCKET}"

    def programs(self) -> str | None:
        """Return a folder with ``coord`` in it, for jobs whose PATH has none; None where the PATH has it."""
        ours = self._folders.program
        if ours is None:
            return None
        folder = self.path / "bin"
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / "coord").symlink_to(ours)
        return str(folder)

    def close(self) -> None:
        """Take it away, with all that is in it."""
        with contextlib.suppress(OSError):
            return os.rmdir(self.path)  # noqa: PTH106 - mostly it is empty by now
        try:
            untrusted_files.delete_tree(self.path)
        except OSError as error:
            log.warning("an attempt's folder stays until its worker ends", folder=str(self.path), why=str(error))
        return None


class AttemptFolders:
    """The folders of one worker process's attempts, in *root*, which is of this process alone.

    *show*: lets the processes of jobs see a place, where they see only what they are shown.
    """

    def __init__(self, root: Path, show: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self._show = show
        self.program = _program()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._short: ScratchDir | None = None

    @contextlib.contextmanager
    def make(self, claim: Claim) -> Iterator[AttemptFolder]:
        """A new folder, for as long as its attempt runs."""
        folder = AttemptFolder(self, cost_reports.folder_name(claim.task_id, claim.attempt, next(self._numbers)))
        try:
            yield folder
        finally:
            folder.close()

    def short_root(self) -> str:
        """Return *root*, or a link to it where its own path is too long for sockets in the folders below."""
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
        """Take the link away, if there is one. The folders go with their attempts."""
        with self._lock:
            short, self._short = self._short, None
        if short is not None:
            short.close()


def _program() -> Path | None:
    """Our ``coord``, if jobs do not find one on the PATH anyway."""
    ours = Path(sys.executable).with_name("coord")
    return ours if shutil.which("coord") is None and ours.exists() else None
