"""Records whether an agent changed anything in its folder, and fails an attempt that had to and did not.

In a git repository, commits, stashes and files that git does not ignore count; elsewhere all files. In the attempt's
own worktree, the commit of the change decides.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from coordination.domain.jobs.changed_files import CHANGES, EXPECTS, ChangeSummary
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.attempt.running import Proceed, RunningAttempt, is_unfinished, with_log_line
from workers.runners import environment
from workers.runners.base import Control
from workers.runners.process import Launcher
from workers.workspaces import head_history, stash
from workers.workspaces.git import Git, GitFailed, GitInterrupted, variables_of

_CHANGED = "changed"
"""Carried: an earlier attempt has changed something."""

_BEFORE = "before"
"""Carried: the state of the folder before the first attempt of a task that expects changes, in case that is lost."""

_MOST_FILES = 20_000
_STATUS = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames")


@dataclass(frozen=True, slots=True)
class _State:
    """The state of a folder. *files*: a digest of its files; the other fields are for repositories."""

    files: str
    record: Path | None = None
    head: str = ""
    log: int = 0
    stashed: str = ""

    def changed_to(self, after: _State) -> bool:
        """Return whether files, commits or stashes differ in the later state *after*."""
        if after.files != self.files:
            return True
        if self.record is None:
            return False
        history = head_history.read(self.record, self.log, self.head)
        other_commits = set(history.departed) & history.created - history.replaced
        return bool(other_commits) or (bool(history.resets) and after.stashed != self.stashed)


class EffectsStep:
    """Compares the folder of an agent before and after its job."""

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
        return _with_effect(result, attempt.claim, changed=change.commit != change.worktree.start)

    def _run_in_folder(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        claim, control = attempt.claim, attempt.control
        before = self._read_state(claim, control)
        first = _first_state(claim, before)
        if first and _BEFORE not in claim.carried_over:
            control.remember({_BEFORE: first})
        result = proceed(attempt)
        if before is None or not result.job_started:
            return result
        if control.stop_reason is not None:  # its next attempt may find that everything is done
            return replace(result, carry_over={**result.carry_over, _BEFORE: first}) if first else result
        after = self._read_state(claim, control)
        if after is None:
            return result
        changed = before.changed_to(after)
        if changed:
            result = replace(result, carry_over={**result.carry_over, _CHANGED: True})
        changed = changed or bool(claim.carried_over.get(_CHANGED)) or (bool(first) and first["files"] != after.files)
        return _with_effect(result, claim, changed=changed)

    def _read_state(self, claim: Claim, control: Control) -> _State | None:
        """Return the state of the folder; None when it cannot be read."""
        folder = claim.workdir
        if folder is None:
            return None
        try:
            if any((path / ".git").exists() for path in (Path(folder), *Path(folder).parents)):
                return self._repository_state(claim, control, folder)
            files = _digest(folder)
            return None if files is None else _State(files)
        except (GitFailed, GitInterrupted, OSError, ValueError):
            return None

    def _repository_state(self, claim: Claim, control: Control, folder: str) -> _State:
        with environment.Scratch(control.scratch, claim) as scratch:
            variables = {**variables_of(claim, scratch), "GIT_OPTIONAL_LOCKS": "0"}
            git = Git(self._launcher, claim, control, folder, variables)
            words = git(*_STATUS).words
            top, record = git("rev-parse", "--show-toplevel", "--absolute-git-dir").text.split("\n")
            head = git("rev-parse", "--quiet", "--verify", "HEAD", may_fail=True).text
            stashed = git("rev-parse", "--quiet", "--verify", stash.REF, may_fail=True).text
        state = hashlib.sha256()
        for word in words:
            state.update(os.fsencode(word) + b"\0")
            if word[:1] in _DIRTY:
                path = os.path.join(top, word.split(" ", _DIRTY[word[0]])[-1])  # noqa: PTH118 - names need not be text
                # Of a nested repository, git reports only its path.
                nested = (_digest(path) or "").encode() if os.path.isdir(path) else b""  # noqa: PTH112
                state.update(_stamp(path) + nested)
        return _State(state.hexdigest(), Path(record), head, head_history.log_size(Path(record)), stashed)


_DIRTY = {"1": 8, "2": 9, "u": 10, "?": 1}
"""First characters of git's lines that name a file, and how many words come before the name."""


def _first_state(claim: Claim, now: _State | None) -> dict[str, str]:
    """Return the state before the first attempt of a task that expects changes; empty when unknown."""
    if claim.options.get(EXPECTS) != CHANGES or now is None:
        return {}
    carried = claim.carried_over.get(_BEFORE)
    current = {"folder": str(claim.workdir), "files": now.files}
    return dict(carried) if isinstance(carried, dict) and carried.get("folder") == current["folder"] else current


def _with_effect(result: AttemptEnd, claim: Claim, *, changed: bool) -> AttemptEnd:
    """Return *result* with the agent's effect; failed if its plan expects changes and it made none."""
    effect = replace(result.effect or ChangeSummary(), changed=changed)
    if changed:
        return replace(result, effect=effect)
    if is_unfinished(result):
        return result  # a later attempt may change something
    result = with_log_line(replace(result, effect=effect), f"[agent] {effect.sentence()}")
    if claim.options.get(EXPECTS) != CHANGES:
        return result
    error = f"it {effect.sentence()}, and its plan says expects: {CHANGES}"
    feedback = f"{error[0].upper()}{error[1:]}. Make the changes that the task asks for, or report why you cannot."
    return replace(result, outcome=Outcome.FAILED, error=error, carry_over={**result.carry_over, "feedback": feedback})


def _digest(folder: str) -> str | None:
    """Return a digest of the names and times of all files; None for too many."""
    state, files_left = hashlib.sha256(), _MOST_FILES
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(parent, name)  # noqa: PTH118 - many, and names need not be text
            state.update(os.fsencode(path) + b"\0" + _stamp(path))
        files_left -= len(files) + len(folders)
        if files_left < 0:
            return None
    return state.hexdigest()


def _stamp(path: str) -> bytes:
    try:
        status = os.lstat(path)
    except OSError:
        return b"-"
    return f"{status.st_mtime_ns} {status.st_size} {status.st_ino} {status.st_mode}".encode()
