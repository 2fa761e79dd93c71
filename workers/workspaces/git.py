"""Calls git in an attempt's name: bounded, ended with its worker, asking nobody, blind to hooks, never cleaning up.

The person's configuration holds (filters, ignored files, line ends), but for what would start programs on the side or
change what is meant. Who commits is said by the environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from coordination.base.errors import Refused
from coordination.domain.tasks.attempts import Claim, Outcome
from workers.runners import environment, untrusted_files, usage_file
from workers.runners.base import Control
from workers.runners.output import last_line
from workers.runners.process import Launcher
from workers.runners.process_watch import Interruption
from workers.runners.program import is_passing, run_program

QUICK = timedelta(minutes=2)
LONG = timedelta(minutes=30)
"""For what reads or writes a whole tree: a filter may have to fetch large files."""

OLDEST = (2, 38)  # the first one that merges without a checkout

_SYSTEM = "Coordination"
_MOST_OUTPUT = 8 * 1024 * 1024
_ERROR_LIMIT = 300
_SETTINGS = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.pager=cat"),
    *("-c", "core.safecrlf=false"),  # a warning that some make fatal
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
    *("-c", "rerere.enabled=false"),
    *("-c", "submodule.recurse=false"),
    *("-c", "advice.detachedHead=false"),
    *("-c", "diff.autoRefreshIndex=true"),  # without it, what was only touched counts as changed
    *("-c", "i18n.commitEncoding=UTF-8"),
)
# Where the person's own configuration is, if not in the usual place.
_CONFIGURATION = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "XDG_CONFIG_HOME")
_VERSION = re.compile(rb"git version (\d+)\.(\d+)")
_BUSY = re.compile(
    r"\.lock'?: File exists|cannot lock ref(?!.*cannot create)|failed to read .*commondir"
    r"|Resource temporarily unavailable|No space left on device"
)


class GitFailed(Exception):
    """git said no. ``transient``: it may well say yes a little later. ``log``: what the attempt's log is to hold."""

    def __init__(self, sentence: str, *, transient: bool = False, log: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.transient = transient
        self.log = log


class GitTimeout(GitFailed):
    """git was ended when its time was up."""


class GitInterrupted(Exception):
    """The attempt has to end: its line to the worker said so."""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__(interruption.error)
        self.interruption = interruption


@dataclass(frozen=True, slots=True)
class GitOutput:
    """What git printed, and its exit status. ``log``: what it printed on stderr."""

    code: int
    out: bytes
    log: str = ""

    @property
    def text(self) -> str:
        """stdout without the last line break."""
        return os.fsdecode(self.out).removesuffix("\n")

    @property
    def words(self) -> list[str]:
        """stdout as the words between NULs."""
        return [os.fsdecode(word) for word in self.out.split(b"\0") if word]


class Git:
    """git in one folder on behalf of one attempt. Raises Interrupted when the attempt is told to stop.

    *write*: what it may change besides the repository, where the launcher confines: a filter or a merge driver that the
    repository names may be a job's. So it is one worktree at most, and never the checkout.
    *glance*: called now and then while a command runs, and after it.
    """

    def __init__(
        self,
        launcher: Launcher,
        claim: Claim,
        control: Control,
        folder: str | Path,
        variables: Mapping[str, str],
        *,
        write: Sequence[str] = (),
        glance: Callable[[], None] | None = None,
    ) -> None:
        self._launcher = launcher
        self._claim = claim
        self._control = control
        self._folder = str(folder)
        self._variables = dict(variables)
        self._write = tuple(write)
        self._glance = glance

    def at(self, folder: str | Path, **variables: str) -> Git:
        """The same in another folder, with these variables too."""
        return self._with(self._control, folder, {**self._variables, **variables}, self._write)

    def writing(self, *places: str | Path) -> Git:
        """The same, which may change these *places* too."""
        return self._with(self._control, self._folder, self._variables, (*self._write, *map(str, places)))

    def under(self, control: Control) -> Git:
        """The same under other orders: for what has to be done though the attempt is told to stop."""
        return self._with(control, self._folder, self._variables, self._write)

    def _with(self, control: Control, folder: str | Path, variables: Mapping[str, str], write: Sequence[str]) -> Git:
        launcher, claim = self._launcher, self._claim
        return Git(launcher, claim, control, folder, variables, write=write, glance=self._glance)

    @property
    def patience(self) -> timedelta:
        """How long it may take to read what the job has left: as long as the job may take, within reason."""
        return LONG if self._claim.timeout is None else min(LONG, max(QUICK, self._claim.timeout))

    def __call__(
        self, *arguments: str, limit: timedelta = QUICK, may_fail: bool = False, stdin: bytes | None = None
    ) -> GitOutput:
        """Run one command. An exit status that is not 0 is GitFailed, or with *may_fail* an answer up to 1."""
        if stdin is None:
            return self._run(arguments, limit, subprocess.DEVNULL, may_fail=may_fail)
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            return self._run(arguments, limit, file.fileno(), may_fail=may_fail)

    def _run(self, arguments: tuple[str, ...], limit: timedelta, stdin: int, *, may_fail: bool) -> GitOutput:
        out = bytearray()

        def keep(data: bytes) -> None:
            if len(out) < _MOST_OUTPUT:
                out.extend(data)

        try:
            ran = run_program(
                self._launcher,
                ["git", *_SETTINGS, *arguments],
                replace(self._claim, timeout=limit, stall_timeout=None),
                self._control,
                variables=self._variables,
                folder=self._folder,
                feed=keep,
                glance=self._glance,
                stdin=stdin,
                announced=False,
                write=self._write,
                read=_configuration(self._variables),
            )
        except (OSError, ValueError) as error:
            raise GitFailed(f"git cannot be started: {error}", transient=is_passing(error)) from None
        if ran.interruption is not None:
            if ran.interruption.outcome is Outcome.TIMED_OUT:
                raise GitTimeout(f"git {arguments[0]} {ran.interruption.error}", transient=True)
            raise GitInterrupted(ran.interruption)
        code = -1 if ran.exit_code is None else ran.exit_code
        if code and not (may_fail and code == 1):
            said = last_line(_reason(ran.log), _ERROR_LIMIT) or f"exit status {code}"
            raise GitFailed(f"git {arguments[0]}: {said}", transient=code < 0 or bool(_BUSY.search(ran.log)))
        return GitOutput(code, bytes(out), ran.log)


def _configuration(variables: Mapping[str, str]) -> list[str]:
    """Where the person's own configuration is: it decides about filters, ignored files and line ends."""
    home = variables.get("HOME", "/")
    elsewhere = [variables[name] for name in _CONFIGURATION if name.startswith("GIT_CONFIG_") and name in variables]
    other = os.path.join(variables.get("XDG_CONFIG_HOME") or f"{home}/.config", "git")  # noqa: PTH118
    return [f"{home}/.gitconfig", other, *(place for place in elsewhere if place.startswith("/"))]


def variables_of(claim: Claim, scratch: environment.Scratch) -> dict[str, str]:
    """The environment of git for an attempt: of the worker's only what a job may see."""
    own = {name: os.environ[name] for name in _CONFIGURATION if name in os.environ}
    return {
        **environment.inherited(),
        **own,
        **environment.of_attempt(claim, scratch),
        **identity_of(claim),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "true",
        "GIT_LITERAL_PATHSPECS": "1",
        "LC_ALL": "C.UTF-8",
    }


@contextlib.contextmanager
def git_of_attempt(launcher: Launcher, claim: Claim, control: Control) -> Iterator[Git]:
    """git for an attempt; what its filters and merge drivers report as spent counts.

    In a sandbox they report in a folder of their own: any job may have left them, so the attempt's is closed to them.
    """
    place = launcher.make_place(str(control.scratch))
    try:
        with environment.Scratch(control.scratch, claim) as scratch:
            if place is not None:
                scratch.move_costs(place)
            with usage_file.metered(scratch.costs, control) as glance:
                write = [] if place is None else [place]
                yield Git(launcher, claim, control, "/", variables_of(claim, scratch), write=write, glance=glance)
    finally:
        untrusted_files.clear(place)


def identity_of(claim: Claim) -> dict[str, str]:
    """Whose a commit is: the agent's; and that the system made it."""
    author = claim.agent or str(claim.work.get("agent", _SYSTEM))
    plain = re.sub(r"[^\w./ -]+", "", author).strip() or "agent"
    mailbox = re.sub(r"[^A-Za-z0-9]+", ".", plain).strip(".") or "agent"
    return {
        "GIT_AUTHOR_NAME": plain,
        "GIT_AUTHOR_EMAIL": f"{mailbox}@coordination.invalid",
        "GIT_COMMITTER_NAME": _SYSTEM,
        "GIT_COMMITTER_EMAIL": "coordination@coordination.invalid",
    }


_checked: set[str] = set()


def require(git: Git, path: str) -> None:
    """Refuse where there is no git, or one that is too old. Looked at once for each place of programs."""
    if path in _checked:
        return
    if shutil.which("git", path=path) is None:
        raise Refused("git is not installed where this worker looks for programs (PATH)")
    said = git("version")
    found = _VERSION.search(said.out)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise Refused(
            f"Worktrees need git {OLDEST[0]}.{OLDEST[1]} or newer; this machine has {said.text[:60]}",
            hint="Install a newer git, or write checkout: folder",
        )
    _checked.add(path)


def _reason(text: str) -> str:
    """The lines that say what is wrong: "adding files failed" names no file, the line before it does."""
    passing = ("hint:", "warning:", "fatal: adding files failed", "fatal: updating files failed")
    return "\n".join(line for line in text.splitlines() if not line.startswith(passing))
