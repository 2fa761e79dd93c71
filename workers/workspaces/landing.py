"""Merges a task's change to the run's branch, once: in turn, with gates on what comes of it, and a note of the result.

The note is written before the branch moves and says what the task came to. Should its worker die before that is stored,
the next attempt finds the note, and the commit on the branch, and has nothing left to do. Without the commit on the
branch a note says nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from coordination.domain.artifacts import Artifact
from coordination.domain.attempts import Claim, Outcome, Result
from coordination.domain.workspaces import run_slug
from workers.runners.base import Control
from workers.runners.watch import Interruption
from workers.workspaces.git import LONG, GitFailed, Interrupted
from workers.workspaces.repository import Repository
from workers.workspaces.turns import OURS, queue_of, tidy, turn
from workers.workspaces.worktree import Worktree

PATIENCE = timedelta(hours=1)
"""How long an attempt waits for its turn. Others hold it for as long as their gates take."""

_NOTES = "landed"
_FORGOTTEN_AFTER = 30 * 86400.0  # seconds; a note is needed for as long as a task may wait for its next attempt


@dataclass(frozen=True, slots=True)
class Landed:
    """The change is on the run's branch, at *commit*; None: there was nothing to merge."""

    commit: str | None


@dataclass(frozen=True, slots=True)
class Conflicted:
    """The change cannot be merged to *head* by itself, because of these files."""

    head: str
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rejected:
    """What came of the merge, *commit* on top of *head*, did not pass its gates."""

    head: str
    commit: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A change that wants to be merged; its own tree has passed the gates. *always*: also if it says nothing new."""

    commit: str
    message: str
    result: Result
    always: bool = False


@dataclass(frozen=True, slots=True)
class Landing:
    """Merges for one attempt. *passes*: runs the gates in the worktree; *ours*: whether the attempt still counts."""

    claim: Claim
    control: Control
    worktree: Worktree
    passes: Callable[[], bool]
    ours: Callable[[], bool]

    def land(self, candidate: Candidate) -> Landed | Conflicted | Rejected:
        """Wait for the turn and merge."""
        repository = self.worktree.repository
        queue = queue_of(repository.common, run_slug(self.claim.run_id))
        with turn(queue, self.control, limit=min(self.claim.timeout or PATIENCE, PATIENCE)):
            while True:
                if (head := repository.head()) is None:
                    raise GitFailed(f"the branch {repository.branch} is gone")
                merged = self._merged(candidate, head)
                if merged == head:
                    return Landed(candidate.commit)  # it is there already
                if isinstance(merged, Conflicted):
                    return merged
                if merged is None:
                    return Landed(None)  # the branch says the same already
                if merged != candidate.commit and self._tree(merged) != self._tree(candidate.commit):
                    self.worktree.stand_at(merged)
                    if not self.passes():
                        return Rejected(head, merged)
                if self._move(candidate, head, merged):
                    return Landed(merged)

    def _merged(self, candidate: Candidate, head: str) -> str | Conflicted | None:
        """The commit to move the branch to, *head* if it holds the change; None when it says the same without it."""
        git, commit = self.worktree.git, candidate.commit
        first_parent = git("rev-parse", "--quiet", "--verify", f"{commit}^", may_fail=True).text
        if first_parent == head:
            return commit
        if self.worktree.repository.contains(commit, head):
            return head
        said = git("merge-tree", "--write-tree", "--name-only", "-z", head, commit, limit=LONG, may_fail=True)
        tree, *others = said.out.split(b"\0")
        if said.code:
            paths = others[: others.index(b"")] if b"" in others else others  # messages follow an empty word
            return Conflicted(head, [os.fsdecode(path) for path in paths])
        oid = tree.decode("ascii").strip()
        if oid == self._tree(head) and not candidate.always:
            return None
        return git("commit-tree", oid, "-p", head, "-p", commit, "-m", candidate.message).text

    def _move(self, candidate: Candidate, head: str, merged: str) -> bool:
        if self.control.stop_requested or not self.ours():
            reason = self.control.stop_reason
            outcome = Outcome.LOST if reason is None else reason.outcome
            raise Interrupted(Interruption(outcome, "it was told to stop before its change was merged"))
        repository = self.worktree.repository
        path = _note(repository.common, self.claim.task_id)
        _write(path, {"commit": merged, "attempt": self.claim.attempt, **told(candidate.result)})
        return repository.move(repository.branch, merged, was=head)

    def _tree(self, commit: str) -> str:
        return self.worktree.git("rev-parse", f"{commit}^{{tree}}").text


def found(repository: Repository, claim: Claim) -> Result | None:
    """How the task ended already, in an attempt whose end was not stored."""
    note = _read(_note(repository.common, claim.task_id))
    commit = note.get("commit")
    if not repository.has(commit) or (head := repository.head()) is None or not repository.contains(str(commit), head):
        return None
    return retold(note, f"[merge] attempt {note.get('attempt')} had merged its change; only its end was not stored")


def forget(common: Path, task_id: str) -> None:
    """The task's end is stored: its note is needed no more. Old ones go too."""
    folder = common / OURS / _NOTES
    tidy(common)
    with contextlib.suppress(OSError):
        _note(common, task_id).unlink(missing_ok=True)
        for entry in os.scandir(folder):
            if time.time() - entry.stat().st_mtime > _FORGOTTEN_AFTER:
                Path(entry.path).unlink(missing_ok=True)
        for empty in (folder, folder.parent):
            empty.rmdir()


def told(result: Result) -> dict[str, Any]:
    """What is kept of a result until its change is merged."""
    artifacts = [asdict(artifact) for artifact in result.artifacts]
    return {"output": result.output, "exit_code": result.exit_code, "log": result.log, "artifacts": artifacts}


def retold(kept: Mapping[str, Any], remark: str) -> Result:
    """The completed result that was kept."""
    log = kept.get("log")
    return Result(
        Outcome.COMPLETED,
        output=kept.get("output"),
        exit_code=kept.get("exit_code"),
        artifacts=tuple(Artifact(**artifact) for artifact in kept.get("artifacts", ())),
        log=f"{log.rstrip()}\n{remark}" if isinstance(log, str) and log.strip() else remark,
    )


def _note(common: Path, task_id: str) -> Path:
    return common / OURS / _NOTES / f"{task_id}.json"


def _write(path: Path, note: dict[str, Any]) -> None:
    """Written whole or not at all, and on the disk before anything that follows."""
    while True:
        draft = path.with_suffix(f".{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                json.dump(note, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # the folder was empty, and somebody took it away
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return


def _read(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
