"""Merge a task's change to the run's branch exactly once: one merge at a time, with gates on the result and a record.

The attempt writes the record, with the task's result, to SQL before the branch moves. If its worker dies before the end
is stored, the next attempt finds the record and the commit on the branch and ends at once. Neither a record without the
commit nor a commit without a record counts.
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
from workers.workspaces.merge_lock import hold_lock, queue_folder
from workers.workspaces.repository import Repository
from workers.workspaces.worktree import Worktree

PATIENCE = timedelta(hours=1)
"""How long an attempt waits for the lock, which others hold while their gates run."""


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
    """The change is on the run's branch at *commit*. None: there was nothing to merge."""

    commit: str | None


@dataclass(frozen=True, slots=True)
class MergeConflicted:
    """The change cannot be merged to *head* because of these conflicts."""

    head: str
    conflicts: tuple[MergeConflict, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeRejected:
    """The merge, *commit* on top of *head*, did not pass its gates."""

    head: str
    commit: str


@dataclass(frozen=True, slots=True)
class MergeCandidate:
    """A change to merge, whose own tree has passed the gates.

    *always*: the result of a conflict task, which is merged even if it changes nothing, and before all others.
    """

    commit: str
    message: str
    result: AttemptEnd
    always: bool = False


@dataclass(frozen=True, slots=True)
class MergeQueue:
    """Merges for one attempt. *passes*: runs the gates in the worktree. *ours*: whether the attempt is still valid.

    *records*: stores the merge before the branch moves.
    """

    claim: Claim
    control: Control
    worktree: Worktree
    passes: Callable[[], bool]
    ours: Callable[[], bool]
    records: MergeRecords

    def land(self, candidate: MergeCandidate) -> Merged | MergeConflicted | MergeRejected:
        """Wait for the lock and merge."""
        repository = self.worktree.repository
        queue = queue_folder(self.worktree.worktree_folder.root, repository.common, run_slug(self.claim.run_id))
        with hold_lock(
            queue, self.control, limit=min(self.claim.timeout or PATIENCE, PATIENCE), first=candidate.always
        ):
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
        """Return the new commit of the branch: *head* if it contains the change, None if the change is empty."""
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
    """Return the task's result from an attempt that merged but whose end was not stored, or None."""
    if claim.attempt == 1:
        return None
    for merge in records.unfinished(claim):
        here = merge.branch == repository.branch and repository.has(merge.new_commit)
        if here and (head := repository.head()) is not None and repository.contains(merge.new_commit, head):
            remark = f"[merge] attempt {merge.attempt} had merged its change; only its end was not stored"
            return retold(merge.result, remark)
    return None


def told(result: AttemptEnd) -> dict[str, Any]:
    """Return the JSON form of a result for the record of its merge."""
    artifacts = [asdict(artifact) for artifact in result.artifacts]
    return {"output": result.output, "exit_code": result.exit_code, "log": result.log, "artifacts": artifacts}


def retold(kept: Mapping[str, Any], remark: str) -> AttemptEnd:
    """Restore a completed result from the record of its merge."""
    log = kept.get("log")
    return AttemptEnd(
        Outcome.COMPLETED,
        output=kept.get("output"),
        exit_code=kept.get("exit_code"),
        artifacts=tuple(Artifact(**artifact) for artifact in kept.get("artifacts", ())),
        log=f"{log.rstrip()}\n{remark}" if isinstance(log, str) and log.strip() else remark,
    )


def mapping_in(carried: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the carried mapping of that name, or an empty one."""
    found = carried.get(name)
    return found if isinstance(found, Mapping) else {}
