"""Restrictions of jobs: writing outside their directories, reading hidden files, privileges, signals to others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordination.base.errors import SettingsError
from workers.runners import sandbox_exec, untrusted_files
from workers.runners.namespaces import Namespaces, private_places, program_places

_PROGRAM = str(Path(sandbox_exec.__file__))
# Variables with which a job's code could be loaded into sandbox_exec before it has dropped its rights.
_OF_THE_LOADER = ("LD_", "GLIBC_", "MALLOC_", "GCONV_PATH", "LOCPATH")
_TEMPORARY = ("TMPDIR", "TMP", "TEMP")
_INTERPRETER = (sys.executable, "-I", "-S", "-B")
_PATIENCE = 30.0
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class ConfinedCommand:
    """The command and environment of a process. *status*: a descriptor to pass on, to which bwrap writes its status."""

    command: list[str]
    environment: dict[str, str]
    status: int | None = None


class SandboxPolicy:
    """The confinement of the processes of one worker's jobs.

    *scratch*: the worker's directory for temporary files. *write*: further writable paths. *hide*: unreadable paths;
    *read*: readable paths even below these. *required*: start no process if the kernel cannot confine it. *namespaces*:
    start processes only in these.
    """

    def __init__(
        self,
        scratch: Path,
        write: Sequence[str] = (),
        *,
        read: Sequence[str] = (),
        hide: Sequence[str] = (),
        required: bool = False,
        namespaces: Namespaces | None = None,
    ) -> None:
        self._scratch = os.path.realpath(scratch)
        # Resolved before a job of this worker can change links.
        self._write = [os.path.realpath(place) for place in write]
        self._read = [os.path.realpath(place) for place in read]
        self._hide = sorted({os.path.realpath(place) for place in hide} - {"/"})
        self._required = required or namespaces is not None
        self._namespaces = namespaces

    def check(self) -> None:
        """Raise SettingsError when confinement is required but unavailable."""
        if self._required and not (sandbox_exec.version() >= sandbox_exec.ENOUGH and sandbox_exec.can_refuse_calls()):
            variable = "COORD_REQUIRE_SANDBOX" if self._namespaces is None else "COORD_SANDBOX"
            what = "COORD_REQUIRE_SANDBOX is set" if self._namespaces is None else "COORD_SANDBOX is strict"
            raise SettingsError(
                f"{what}, and this kernel cannot confine jobs: it lacks Landlock or seccomp",
                hint="Linux 6.2 or later (x86_64, aarch64) has both, if lsm= among its boot parameters names landlock",
                field=variable,
            )
        if self._namespaces is not None:
            self._try_namespaces()

    def _try_namespaces(self) -> None:
        """Start a program as jobs are started, to detect whether namespaces work."""
        temporary = self.make_temporary()
        try:
            trial = self.around(["/bin/sh", "-c", "exit 0"], {}, folder=temporary, temporary=temporary, write=[])
            assert trial.status is not None  # noqa: S101 - there are namespaces
            try:
                done = subprocess.run(
                    trial.command,
                    env=trial.environment,
                    pass_fds=[trial.status],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_PATIENCE,
                    check=False,
                )
                why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"status {done.returncode}"
            finally:
                os.close(trial.status)
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        else:
            if done.returncode == 0:
                return
        finally:
            untrusted_files.delete_quietly(temporary)
        raise SettingsError(
            f"COORD_SANDBOX is strict, and no namespaces can be made here: {why[:_LONGEST]}",
            hint="Let this user make user namespaces (user.max_user_namespaces, "
            "kernel.apparmor_restrict_unprivileged_userns), or set COORD_SANDBOX=1",
            field="COORD_SANDBOX",
        )

    def show(self, place: str) -> None:
        """Let processes that start from now on read a path of the worker."""
        if (place := os.path.realpath(place)) not in self._read:
            self._read.append(place)

    def make_temporary(self, within: str | None = None) -> str:
        """Create a directory for temporary files of one process. ``untrusted_files.delete_quietly`` deletes it."""
        return tempfile.mkdtemp(prefix="tmp-", dir=os.path.realpath(within) if within else self._scratch)

    def around(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        *,
        folder: str,
        temporary: str,
        write: Sequence[str],
        read: Sequence[str] = (),
    ) -> ConfinedCommand:
        """Return the command that drops rights and then executes *arguments* in *folder*.

        *write*: further writable paths, without "/". Raises OSError when a necessary directory has become a link.
        """
        variables = environment | dict.fromkeys(_TEMPORARY, temporary)
        late = {name: value for name, value in variables.items() if name.startswith(_OF_THE_LOADER)}
        early = {name: value for name, value in variables.items() if name not in late}
        places = [place for place in (temporary, *write, *self._write) if place != "/"]
        visible = [*self._read, *read]
        order: dict[str, Any] = {"write": places, "required": self._required, "env": late}
        if self._namespaces is None:
            own = (*visible, *program_places(), folder)
            order |= {"hide": self._hide, "read": [place for place in own if self._is_hidden(place)]}
            return ConfinedCommand([*_INTERPRETER, _PROGRAM, json.dumps(order), *arguments], early)
        status = os.memfd_create("bwrap")
        try:
            command, order["strict"] = self._namespaces.command(
                folder, write=places, read=visible, hide=self._hide, status=status
            )
        except BaseException:
            os.close(status)
            raise
        order["write"] = [*places, *private_places(places)]
        return ConfinedCommand([*command, *_INTERPRETER, _PROGRAM, json.dumps(order), *arguments], early, status)

    def _is_hidden(self, place: str) -> bool:
        return any(f"{place}/".startswith(f"{hidden}/") for hidden in self._hide)
