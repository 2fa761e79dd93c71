"""What jobs are kept from: writing outside their folders, gaining privileges, signals to what is not theirs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from coordination.errors import SettingsError
from workers.runners import confine

_PROGRAM = str(Path(confine.__file__))
# What would load a job's code into our program, before it has given up anything.
_OF_THE_LOADER = ("LD_", "GLIBC_", "MALLOC_", "GCONV_PATH", "LOCPATH")
_TEMPORARY = ("TMPDIR", "TMP", "TEMP")


class Sandbox:
    """How the processes of one worker's jobs are confined.

    *scratch*: the worker's folder for what they need while they run. *write*: files and folders that each may change
    besides. *required*: a kernel that cannot confine them starts none.
    """

    def __init__(self, scratch: Path, write: Sequence[str] = (), *, required: bool = False) -> None:
        self._scratch = os.path.realpath(scratch)
        # Looked up before any job of this worker could change where they lead.
        self._write = [os.path.realpath(place) for place in write]
        self._required = required

    def check(self) -> None:
        """SettingsError when it is required and cannot be had here."""
        if self._required and not (confine.version() >= confine.ENOUGH and confine.can_refuse_calls()):
            raise SettingsError(
                "COORD_REQUIRE_SANDBOX is set, and this kernel cannot confine jobs: it lacks Landlock or seccomp",
                hint="Linux 6.2 or later (x86_64, aarch64) has both, if lsm= among its boot parameters names landlock",
                field="COORD_REQUIRE_SANDBOX",
            )

    def make_temporary(self, within: str | None = None) -> str:
        """A folder for the files of one process, closed to other jobs; ``remove`` takes it away."""
        return tempfile.mkdtemp(prefix="tmp-", dir=os.path.realpath(within) if within else self._scratch)

    def around(
        self, arguments: Sequence[str], environment: dict[str, str], *, temporary: str, write: Sequence[str]
    ) -> tuple[list[str], dict[str, str]]:
        """The command that gives up the rights and then becomes *arguments*, and its environment.

        It may write to the places of *write*, too; to all of the file system nobody may.
        """
        given = environment | dict.fromkeys(_TEMPORARY, temporary)
        late = {name: value for name, value in given.items() if name.startswith(_OF_THE_LOADER)}
        places = [place for place in (temporary, *write, *self._write) if place != "/"]
        order = json.dumps({"write": places, "required": self._required, "env": late})
        early = {name: value for name, value in given.items() if name not in late}
        return [sys.executable, "-I", "-S", "-B", _PROGRAM, order, *arguments], early


def remove(temporary: str | None) -> None:
    """Take away a process's temporary files, if it had a folder for them."""
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
