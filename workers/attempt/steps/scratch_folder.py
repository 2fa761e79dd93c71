"""Makes a private folder for each attempt's scratch files, usage file and socket."""

from __future__ import annotations

from dataclasses import replace

from coordination.domain.tasks.attempts import AttemptEnd
from workers.attempt.folders import AttemptFolders
from workers.attempt.running import Proceed, RunningAttempt


class ScratchFolderStep:
    """Makes the folder before all steps that need it and deletes it at the end."""

    def __init__(self, folders: AttemptFolders) -> None:
        self._folders = folders

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        with self._folders.make(attempt.claim) as folder:
            attempt.control.scratch = folder.path
            return proceed(replace(attempt, folder=folder))

    def close(self) -> None:
        """Delete the link to the folders, if there is one."""
        self._folders.close()
