"""A runner that sees what its agent changed in its folder, and ends an attempt that changed nothing as its plan says.

In a git repository counts what git sees: commits, and files that it does not ignore. Elsewhere count all files.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordination.domain.attempts import Claim, Outcome, Result
from coordination.domain.effects import CHANGES, EXPECTS, Effect
from coordination.domain.workspaces import STORED
from workers.runners import environment
from workers.runners.base import Control, Runner
from workers.runners.process import Launcher
from workers.surroundings import goes_on
from workers.workspaces.git import Git, GitFailed, Interrupted, variables_of

_CHANGED = "changed"
"""Where a task carries that an earlier attempt has changed something."""

_EARLIER = (_CHANGED, "work", "merge")

_MOST_FILES = 20_000
_STATUS = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames")


class Observed:
    """Wraps the runner of an agent's attempt."""

    def __init__(self, runner: Runner, launcher: Launcher) -> None:
        self._runner = runner
        self._launcher = launcher

    def run(self, claim: Claim, control: Control) -> Result:
        """Run the job, and look at its folder before and after."""
        before = self._look(claim, control)
        result = self._runner.run(claim, control)
        if before is None or not result.began or control.stop_requested:
            return result
        after = self._look(claim, control)
        if after is None:
            return result
        changed = after != before
        if changed and STORED not in claim.options:  # a checkout of its own carries the work itself
            result = replace(result, carry={**result.carry, _CHANGED: True})
        changed = changed or any(claim.carried.get(name) for name in _EARLIER)
        effect = replace(result.effect or Effect(), changed=changed)
        if goes_on(result) and not changed:
            return result  # it may change something later
        if changed:
            return replace(result, effect=effect)
        return _with_remark(_judged(replace(result, effect=effect), claim), effect)

    def _look(self, claim: Claim, control: Control) -> str | None:
        """A name for the state of the folder; None where it cannot be told."""
        folder = claim.workdir
        if folder is None:
            return None
        try:
            if any((place / ".git").exists() for place in (Path(folder), *Path(folder).parents)):
                return self._of_repository(claim, control, folder)
            return _of_files(folder)
        except (GitFailed, Interrupted, OSError, ValueError):
            return None

    def _of_repository(self, claim: Claim, control: Control, folder: str) -> str:
        with environment.Scratch(control.scratch, claim) as scratch:
            variables = {**variables_of(claim, scratch), "GIT_OPTIONAL_LOCKS": "0"}
            git = Git(self._launcher, claim, control, folder, variables)
            words = git(*_STATUS).words
            top = git("rev-parse", "--show-toplevel").text
        state = hashlib.sha256()
        for word in words:
            state.update(os.fsencode(word) + b"\0")
            if word[:1] in _DIRTY:
                path = word.split(" ", _DIRTY[word[0]])[-1]
                state.update(_stamp(os.path.join(top, path)))  # noqa: PTH118 - names need not be text
        return state.hexdigest()


_DIRTY = {"1": 8, "2": 9, "u": 10, "?": 1}
"""Lines of git's that name a file, and how many words stand before its name."""


def _judged(result: Result, claim: Claim) -> Result:
    if claim.options.get(EXPECTS) != CHANGES:
        return result
    said = (result.effect or Effect()).sentence() or "changed nothing"
    error = f"it {said}, and its plan says expects: {CHANGES}"
    feedback = f"{error[0].upper()}{error[1:]}. Make the changes that the task asks for, or report why you cannot."
    return replace(result, outcome=Outcome.FAILED, error=error, carry={**result.carry, "feedback": feedback})


def _with_remark(result: Result, effect: Effect) -> Result:
    log = "\n".join(filter(None, [(result.log or "").rstrip("\n"), f"[agent] {effect.sentence()}"]))
    return replace(result, log=log)


def _of_files(folder: str) -> str | None:
    state, left = hashlib.sha256(), _MOST_FILES
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(place, name)  # noqa: PTH118 - many, and names need not be text
            state.update(os.fsencode(path) + b"\0" + _stamp(path))
        left -= len(files) + len(folders)
        if left < 0:
            return None
    return state.hexdigest()


def _stamp(path: str) -> bytes:
    try:
        found: Any = os.lstat(path)
    except OSError:
        return b"-"
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino} {found.st_mode}".encode()
