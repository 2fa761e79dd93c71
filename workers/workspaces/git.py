"""Run git for an attempt: with time limits, without prompts, hooks or maintenance, and ended with the worker.

The user's configuration applies (filters, ignored files, line ends), except settings that start other programs or
change the meaning of commands. The environment sets the committer.
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
from workers.runners.program import Interruption, is_transient, run_program

QUICK = timedelta(minutes=2)
LONG = timedelta(minutes=30)
"""The limit of commands that read or write a whole tree, because a filter may have to fetch large files."""

OLDEST = (2, 38)  # the first one that merges without a checkout

_SYSTEM = "Coordination"
_MOST_OUTPUT = 8 * 1024 * 1024
_ERROR_LIMIT = 300
_SETTINGS = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.pager=cat"),
    *("-c", "core.safecrlf=false"),  # a warning that users may configure as an error
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
    *("-c", "rerere.enabled=false"),
    *("-c", "submodule.recurse=false"),
    *("-c", "advice.detachedHead=false"),
    *("-c", "diff.autoRefreshIndex=true"),  # otherwise files with a new timestamp count as changed
    *("-c", "i18n.commitEncoding=UTF-8"),
)
# Variables that locate the user's configuration.
_CONFIGURATION = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "XDG_CONFIG_HOME")
_VERSION = re.compile(rb"git version (\d+)\.(\d+)")
_BUSY = re.compile(
    r"\.lock'?: File exists|cannot lock ref(?!.*cannot create)|failed to read .*commondir"
    r"|Resource temporarily unavailable|No space left on device"
)


class GitFailed(Exception):
    """git failed. ``transient``: a retry may succeed. ``log``: for the attempt's log."""

    def __init__(self, sentence: str, *, transient: bool = False, log: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.transient = transient
        self.log = log


class GitTimeout(GitFailed):
    """git exceeded its time limit."""


class GitInterrupted(Exception):
    """The attempt was requested to stop while git ran."""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__(interruption.error)
        self.interruption = interruption


@dataclass(frozen=True, slots=True)
class GitOutput:
    """The output and exit status of a git command. ``log``: its stderr."""

    code: int
    out: bytes
    log: str = ""

    @property
    def text(self) -> str:
        """Return stdout without the last line break."""
        return os.fsdecode(self.out).removesuffix("\n")

    @property
    def words(self) -> list[str]:
        """Return stdout split at NULs."""
        return [os.fsdecode(word) for word in self.out.split(b"\0") if word]


@dataclass(frozen=True, slots=True)
class Git:
    """git in one directory for one attempt. Raises GitInterrupted when the attempt is requested to stop.

    *write*: what it may change besides the repository in a sandbox: at most one worktree, never the checkout, because a
    job may have configured a filter or merge driver.
    *poll*: called regularly while a command runs, and after it.
    """

    launcher: Launcher
    claim: Claim
    control: Control
    folder: str | Path
    variables: Mapping[str, str]
    write: Sequence[str] = ()
    poll: Callable[[], None] | None = None

    def at(self, folder: str | Path, **variables: str) -> Git:
        """Return a copy for another directory, with additional variables."""
        return replace(self, folder=folder, variables={**self.variables, **variables})

    def allow_writing(self, *places: str | Path) -> Git:
        """Return a copy that may also change *places*."""
        return replace(self, write=(*self.write, *map(str, places)))

    def under(self, control: Control) -> Git:
        """Return a copy with another control, for commands that must run even if the attempt is requested to stop."""
        return replace(self, control=control)

    def tree_of(self, commit: str) -> str:
        return self("rev-parse", f"{commit}^{{tree}}").text

    def head(self) -> str | None:
        """Return the commit of HEAD, or None on a branch without commits."""
        output = self("rev-parse", "--quiet", "--verify", "HEAD^{commit}", may_fail=True)
        return output.text or None if output.code == 0 else None

    @contextlib.contextmanager
    def with_own_index(self, folder: Path, record: Path) -> Iterator[Git]:
        """Provide a copy for *folder* with an empty index in *record*, which is deleted afterwards."""
        index = record / "coordination-index"
        try:
            yield self.at(folder, GIT_INDEX_FILE=str(index))
        finally:
            untrusted_files.unlink(index)
            untrusted_files.unlink(index.with_name(f"{index.name}.lock"))

    @property
    def patience(self) -> timedelta:
        """The limit for reading the job's files: the job's own limit, between QUICK and LONG."""
        return LONG if self.claim.timeout is None else min(LONG, max(QUICK, self.claim.timeout))

    def __call__(
        self, *arguments: str, limit: timedelta = QUICK, may_fail: bool = False, stdin: bytes | None = None
    ) -> GitOutput:
        """Run one command. Raises GitFailed for an exit status other than 0; with *may_fail*, 1 is allowed."""
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
                self.launcher,
                ["git", *_SETTINGS, *arguments],
                replace(self.claim, timeout=limit, stall_timeout=None),
                self.control,
                variables=self.variables,
                folder=str(self.folder),
                feed=keep,
                poll=self.poll,
                stdin=stdin,
                announced=False,
                write=self.write,
                read=_configuration(self.variables),
            )
        except (OSError, ValueError) as error:
            raise GitFailed(f"git cannot be started: {error}", transient=is_transient(error)) from None
        if ran.interruption is not None:
            if ran.interruption.outcome is Outcome.TIMED_OUT:
                raise GitTimeout(f"git {arguments[0]} {ran.interruption.error}", transient=True)
            raise GitInterrupted(ran.interruption)
        code = -1 if ran.exit_code is None else ran.exit_code
        if code and not (may_fail and code == 1):
            reason = last_line(_reason(ran.log), _ERROR_LIMIT) or f"exit status {code}"
            raise GitFailed(f"git {arguments[0]}: {reason}", transient=code < 0 or bool(_BUSY.search(ran.log)))
        return GitOutput(code, bytes(out), ran.log)


def _configuration(variables: Mapping[str, str]) -> list[str]:
    """Return the paths of the user's configuration, which sets filters, ignored files and line ends."""
    home = variables.get("HOME", "/")
    elsewhere = [variables[name] for name in _CONFIGURATION if name.startswith("GIT_CONFIG_") and name in variables]
    other = os.path.join(variables.get("XDG_CONFIG_HOME") or f"{home}/.config", "git")  # noqa: PTH118
    return [f"{home}/.gitconfig", other, *(place for place in elsewhere if place.startswith("/"))]


def variables_of(claim: Claim, scratch: environment.Scratch) -> dict[str, str]:
    """Return the environment of git for an attempt, with those of the worker's variables that a job may see."""
    own = {name: os.environ[name] for name in _CONFIGURATION if name in os.environ}
    return {
        **environment.base_variables(),
        **own,
        **environment.attempt_variables(claim, scratch),
        **identity_of(claim),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "true",
        "GIT_LITERAL_PATHSPECS": "1",
        "LC_ALL": "C.UTF-8",
    }


@contextlib.contextmanager
def git_of_attempt(launcher: Launcher, claim: Claim, control: Control) -> Iterator[Git]:
    """Provide git for an attempt, and record the usage that its filters and merge drivers report.

    In a sandbox they report into a separate directory: any job may have configured them, so they may not write to the
    attempt's directory.
    """
    place = launcher.make_place(str(control.scratch))
    try:
        with environment.Scratch(control.scratch, claim) as scratch:
            if place is not None:
                scratch.move_costs(place)
            with usage_file.meter_side_command(scratch.costs, control) as poll:
                write = [] if place is None else [place]
                yield Git(launcher, claim, control, "/", variables_of(claim, scratch), write=write, poll=poll)
    finally:
        untrusted_files.delete_quietly(place)


def identity_of(claim: Claim) -> dict[str, str]:
    """Return the variables that name the agent as author and the system as committer."""
    author = claim.agent or str(claim.work.get("agent", _SYSTEM))
    plain = re.sub(r"[^\w./ -]+", "", author).strip() or "agent"
    mailbox = re.sub(r"[^A-Za-z0-9]+", ".", plain).strip(".") or "agent"
    return {
        "GIT_AUTHOR_NAME": plain,
        "GIT_AUTHOR_EMAIL": f"{mailbox}@coordination.invalid",
        "GIT_COMMITTER_NAME": _SYSTEM,
        "GIT_COMMITTER_EMAIL": "coordination@coordination.invalid",
    }


def ids_in(path: Path) -> list[str]:
    """Return the object ids in a file in which git keeps the state of an operation; none without a readable file."""
    try:
        return untrusted_files.read(path).decode("ascii").split()
    except (OSError, ValueError):
        return []


_checked: set[str] = set()


def require(git: Git, path: str) -> None:
    """Raise Refused if git is missing or too old. Checks each PATH once."""
    if path in _checked:
        return
    if shutil.which("git", path=path) is None:
        raise Refused("git is not installed where this worker looks for programs (PATH)")
    output = git("version")
    version = _VERSION.search(output.out)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        raise Refused(
            f"Worktrees need git {OLDEST[0]}.{OLDEST[1]} or newer; this machine has {output.text[:60]}",
            hint="Install a newer git, or write checkout: folder",
        )
    _checked.add(path)


def _reason(text: str) -> str:
    """Return the lines that name the problem: the line before "adding files failed" names the file."""
    passing = ("hint:", "warning:", "fatal: adding files failed", "fatal: updating files failed")
    return "\n".join(line for line in text.splitlines() if not line.startswith(passing))
