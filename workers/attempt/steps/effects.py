"""Records whether an agent changed anything in its folder, and fails an attempt that had to and did not.

In a git repository, what git sees counts: commits, stashes, and files that it does not ignore. Elsewhere all files
count. In a worktree of its own, the commit of the change says it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordination.domain.jobs.changed_files import CHANGES, EXPECTS, ChangeSummary
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.attempt.running import Proceed, RunningAttempt, is_unfinished, with_log_line
from workers.runners import environment
from workers.runners.base import Control
from workers.runners.process import Launcher
from workers.workspaces import head_history, stash
from workers.workspaces.git import Git, GitFailed, GitInterrupted, variables_of

_CHANGED = "changed"
"""Where a task carries that an earlier attempt has changed something."""

_BEFORE = "before"
"""Where a task that expects changes carries how its folder was before its first attempt: that one may end unseen."""

_MOST_FILES = 20_000
_STATUS = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames")


@dataclass(frozen=True, slots=True)
class _State:
    """How a folder is. *files*: a name for what is in it; the rest is of a repository."""

    files: str
    record: Path | None = None
    head: str = ""
    log: int = 0
    stashed: str = ""

    def changed_to(self, after: _State) -> bool:
        """Whether anything changed until it was *after*: files and commits, and what was put where HEAD is not."""
        if after.files != self.files:
            return True
        if self.record is None:
            return False
        past = head_history.read(self.record, self.log, self.head)
        aside = set(past.departed) & past.created - past.replaced
        return bool(aside) or (bool(past.resets) and after.stashed != self.stashed)


class EffectsStep:
    """Looks at the folder of an agent before and after its job."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        change = attempt.change
        if change is None:
            return self._run_in_folder(attempt, proceed)
        has_job = change.result is None
        result = proceed(attempt)
        if not has_job or change.commit is None:
            return result
        return seen(result, attempt.claim, changed=change.commit != change.place.start)

    def _run_in_folder(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        claim, control = attempt.claim, attempt.control
        before = self._look(claim, control)
        first = _first(claim, before)
        if first and _BEFORE not in claim.carried_over:
            control.remember({_BEFORE: first})
        result = proceed(attempt)
        if before is None or not result.job_started:
            return result
        if control.stop_requested:  # it may go on elsewhere, and find that all is done
            return replace(result, carry_over={**result.carry_over, _BEFORE: first}) if first else result
        after = self._look(claim, control)
        if after is None:
            return result
        changed = before.changed_to(after)
        if changed:
            result = replace(result, carry_over={**result.carry_over, _CHANGED: True})
        changed = changed or bool(claim.carried_over.get(_CHANGED)) or (bool(first) and first["files"] != after.files)
        return seen(result, claim, changed=changed)

    def _look(self, claim: Claim, control: Control) -> _State | None:
        """The state of the folder; None where it cannot be told."""
        folder = claim.workdir
        if folder is None:
            return None
        try:
            if any((place / ".git").exists() for place in (Path(folder), *Path(folder).parents)):
                return self._of_repository(claim, control, folder)
            files = _of_files(folder)
            return None if files is None else _State(files)
        except (GitFailed, GitInterrupted, OSError, ValueError):
            return None

    def _of_repository(self, claim: Claim, control: Control, folder: str) -> _State:
        with environment.Scratch(control.scratch, claim) as scratch:
            variables = {**variables_of(claim, scratch), "GIT_OPTIONAL_LOCKS": "0"}
            git = Git(self._launcher, claim, control, folder, variables)
            words = git(*_STATUS).words
            top, record = git("rev-parse", "--show-toplevel", "--absolute-git-dir").text.split("\n")
            named = git("rev-parse", "--quiet", "--verify", "HEAD", may_fail=True).text
            stashed = git("rev-parse", "--quiet", "--verify", stash.REF, may_fail=True).text
        state = hashlib.sha256()
        for word in words:
            state.update(os.fsencode(word) + b"\0")
            if word[:1] in _DIRTY:
                path = os.path.join(top, word.split(" ", _DIRTY[word[0]])[-1])  # noqa: PTH118 - names need not be text
                # A repository inside: git tells no more of it than that it is there.
                inside = (_of_files(path) or "").encode() if os.path.isdir(path) else b""  # noqa: PTH112
                state.update(_stamp(path) + inside)
        place = Path(record)
        return _State(state.hexdigest(), place, named, head_history.log_size(place), stashed)


_DIRTY = {"1": 8, "2": 9, "u": 10, "?": 1}
"""Lines of git's that name a file, and how many words stand before its name."""


def _first(claim: Claim, now: _State | None) -> dict[str, str]:
    """How the folder was before the first attempt of a task that expects changes; nothing where that is not known."""
    if claim.options.get(EXPECTS) != CHANGES or now is None:
        return {}
    known = claim.carried_over.get(_BEFORE)
    here = {"folder": str(claim.workdir), "files": now.files}
    return dict(known) if isinstance(known, dict) and known.get("folder") == here["folder"] else here


def seen(result: AttemptEnd, claim: Claim, *, changed: bool) -> AttemptEnd:
    """Return *result* of an agent's attempt with its effect, failed if its plan expects changes and it made none."""
    effect = replace(result.effect or ChangeSummary(), changed=changed)
    if changed:
        return replace(result, effect=effect)
    if is_unfinished(result):
        return result  # it may change something later
    return with_log_line(_judged(replace(result, effect=effect), claim), f"[agent] {effect.sentence()}")


def _judged(result: AttemptEnd, claim: Claim) -> AttemptEnd:
    if claim.options.get(EXPECTS) != CHANGES:
        return result
    said = (result.effect or ChangeSummary()).sentence() or "changed nothing"
    error = f"it {said}, and its plan says expects: {CHANGES}"
    feedback = f"{error[0].upper()}{error[1:]}. Make the changes that the task asks for, or report why you cannot."
    return replace(result, outcome=Outcome.FAILED, error=error, carry_over={**result.carry_over, "feedback": feedback})


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
