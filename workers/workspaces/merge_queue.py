"""Merges a task's change to the run's branch, once: in turn, with gates on the result, and a record.

The record is written to SQL before the branch moves, by the attempt that holds the task, and says what the task came
to. Should its worker die before that is stored, the next attempt finds the record, and the commit on the branch, and
has nothing left to do. Without the commit on the branch a record says nothing; without a record, neither does a commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.checkouts import run_slug
from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.runners.base import Control
from workers.runners.process_watch import Interruption
from workers.workspaces.git import GitFailed, GitInterrupted
from workers.workspaces.merge_conflicts import MergeConflict, trial
from workers.workspaces.merge_lock import queue_of, turn
from workers.workspaces.repository import Repository
from workers.workspaces.worktree import Worktree

PATIENCE = timedelta(hours=1)
"""How long an attempt waits for its turn. Others hold it for as long as their gates take."""


class MergeRecords(Protocol):
    """Records of merges, kept where no job can write. All methods raise DatabaseUnavailable."""

    def write(self, claim: Claim, merge: Merge) -> bool:
        """Record what the attempt is about to merge; return False when it does not hold its task any more."""
        ...

    def unfinished(self, claim: Claim) -> Sequence[Merge]:
        """Return the merges of earlier attempts whose own end was not stored, the latest first."""
        ...

    def forget(self, claim: Claim) -> None:
        """Delete the task's records: its end is stored."""
        ...


@dataclass(frozen=True, slots=True)
class Merged:
    """The change is on the run's branch, at *commit*; None: there was nothing to merge."""

    commit: str | None


@dataclass(frozen=True, slots=True)
class MergeConflicted:
    """The change cannot be merged to *head* by itself, because of these conflicts."""

    head: str
    conflicts: tuple[MergeConflict, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeRejected:
    """What came of the merge, *commit* on top of *head*, did not pass its gates."""

    head: str
    commit: str


@dataclass(frozen=True, slots=True)
class MergeCandidate:
    """A change that wants to be merged; its own tree has passed the gates.

    *always*: the result of a conflict task. It is merged also if it says nothing new, and before all that wait.
    """

    commit: str
    message: str
    result: AttemptEnd
    always: bool = False


@dataclass(frozen=True, slots=True)
class MergeQueue:
    """Merges for one attempt. *passes*: runs the gates in the worktree; *ours*: whether the attempt still counts.

    *records*: where the merge is recorded before the branch moves.
    """

    claim: Claim
    control: Control
    worktree: Worktree
    passes: Callable[[], bool]
    ours: Callable[[], bool]
    records: MergeRecords

    def land(self, candidate: MergeCandidate) -> Merged | MergeConflicted | MergeRejected:
        """Wait for the turn and merge."""
        repository = self.worktree.repository
        queue = queue_of(self.worktree.worktree_folder.root, repository.common, run_slug(self.claim.run_id))
        with turn(queue, self.control, limit=min(self.claim.timeout or PATIENCE, PATIENCE), first=candidate.always):
            while True:
                if (head := repository.head()) is None:
                    raise GitFailed(f"the branch {repository.branch} is gone")
                merged = self._merged(candidate, head)
                if merged == head:
                    return Merged(candidate.commit)  # it is there already
                if isinstance(merged, MergeConflicted):
                    return merged
                if merged is None:
                    return Merged(None)  # the branch says the same already
                if merged != candidate.commit and self._tree(merged) != self._tree(candidate.commit):
                    self.worktree.stand_at(merged)
                    if not self.passes():
                        return MergeRejected(head, merged)
                if self._move(candidate, head, merged):
                    return Merged(merged)

    def _merged(self, candidate: MergeCandidate, head: str) -> str | MergeConflicted | None:
        """The commit to move the branch to, *head* if it holds the change; None when it says the same without it."""
        git, commit = self.worktree.git, candidate.commit
        first_parent = git("rev-parse", "--quiet", "--verify", f"{commit}^", may_fail=True).text
        if first_parent == head:
            return commit
        if self.worktree.repository.contains(commit, head):
            return head
        tried = trial(git, head, commit)
        if not tried.clean:
            return MergeConflicted(head, tried.conflicts)
        if tried.tree == self._tree(head) and not candidate.always:
            return None
        return git("commit-tree", tried.tree, "-p", head, "-p", commit, "-m", candidate.message).text

    def _move(self, candidate: MergeCandidate, head: str, merged: str) -> bool:
        repository = self.worktree.repository
        merge = Merge(self.claim.attempt, repository.branch, head, merged, told(candidate.result))
        if self.control.stop_requested or not self.ours() or not self.records.write(self.claim, merge):
            reason = self.control.stop_reason
            outcome = Outcome.LOST if reason is None else reason.outcome
            raise GitInterrupted(Interruption(outcome, "it was told to stop before its change was merged"))
        return repository.move(repository.branch, merged, was=head)

    def _tree(self, commit: str) -> str:
        return self.worktree.git("rev-parse", f"{commit}^{{tree}}").text


def found(repository: Repository, claim: Claim, records: MergeRecords) -> AttemptEnd | None:
    """How the task ended already, in an attempt whose end was not stored."""
    if claim.attempt == 1:
        return None
    for merge in records.unfinished(claim):
        here = merge.branch == repository.branch and repository.has(merge.new_commit)
        if here and (head := repository.head()) is not None and repository.contains(merge.new_commit, head):
            remark = f"[merge] attempt {merge.attempt} had merged its change; only its end was not stored"
            return retold(merge.result, remark)
    return None


def told(result: AttemptEnd) -> dict[str, Any]:
    """What is kept of a result until its change is merged."""
    artifacts = [asdict(artifact) for artifact in result.artifacts]
    return {"output": result.output, "exit_code": result.exit_code, "log": result.log, "artifacts": artifacts}


def retold(kept: Mapping[str, Any], remark: str) -> AttemptEnd:
    """The completed result that was kept."""
    log = kept.get("log")
    return AttemptEnd(
        Outcome.COMPLETED,
        output=kept.get("output"),
        exit_code=kept.get("exit_code"),
        artifacts=tuple(Artifact(**artifact) for artifact in kept.get("artifacts", ())),
        log=f"{log.rstrip()}\n{remark}" if isinstance(log, str) and log.strip() else remark,
    )


def mapping_in(carried: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What an earlier attempt has carried under that name; empty when that is nothing of the kind."""
    found = carried.get(name)
    return found if isinstance(found, Mapping) else {}
