"""What jobs are kept from: writing outside their folders, gaining privileges, signals to what is not theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordination.errors import SettingsError
from workers.runners import confine

_PROGRAM = str(Path(confine.__file__))


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How the processes of jobs are confined. *write*: files and folders that each may change besides its own.

    *required*: a kernel that cannot do it starts none.
    """

    write: tuple[str, ...] = ()
    required: bool = False

    def check(self) -> None:
        """SettingsError when it is required and cannot be had here."""
        if self.required and not confine.version():
            raise SettingsError(
                "COORD_REQUIRE_SANDBOX is set, and this kernel cannot confine jobs: it has no Landlock",
                hint="Linux 5.13 or later has it, if lsm= among its boot parameters does not leave it out",
            )

    def around(self, arguments: Sequence[str], places: Sequence[str]) -> list[str]:
        """The command that gives up the rights and then becomes *arguments*; it may write to *places*, too."""
        order = {"write": [*places, *self.write], "required": self.required}
        return [sys.executable, "-I", "-S", "-B", _PROGRAM, json.dumps(order), *arguments]
