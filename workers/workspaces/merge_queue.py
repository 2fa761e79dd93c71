"""Merges a task's change to the run's branch exactly once: in turn, with gates on the merged files, and a record.

The attempt that owns the task writes a record with its result to SQL before the branch moves. If the worker dies before
the attempt's end is stored, the next attempt finds the record and the commit on the branch and returns that result. A
record counts only with its commit on the branch, and a commit only with its record.
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
from workers.runners.program import Interruption
from workers.workspaces.git import GitFailed, GitInterrupted
from workers.workspaces.merge_conflicts import MergeConflict, trial
from workers.workspaces.merge_lock import hold_lock, queue_folder
from workers.workspaces.repository import Repository
from workers.workspaces.worktree import Worktree

PATIENCE = timedelta(hours=1)
"""How long an attempt waits for its turn. Each turn takes as long as the gates of its attempt."""


class MergeRecords(Protocol):
    """Records of merges, stored where jobs cannot write. All methods raise DatabaseUnavailable."""

    def write(self, claim: Claim, merge: Merge) -> bool:
        """Record the merge before it is made; return False when the attempt does not own its task any more."""
        ...

    def unfinished(self, claim: Claim) -> Sequence[Merge]:
        """Return the merges of earlier attempts whose end was not stored, the latest first."""
        ...

    def forget(self, claim: Claim) -> None:
        """Delete the task's records after its end was stored."""
        ...


@dataclass(frozen=True, slots=True)
class Merged:
    """The change is on the run's branch as *commit*; None: there was nothing to merge."""

    commit: str | None


@dataclass(frozen=True, slots=True)
class MergeConflicted:
    """The change cannot be merged to *head* because of these conflicts."""

    head: str
    conflicts: tuple[MergeConflict, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeRejected:
    """The merge *commit* on top of *head* did not pass its gates."""

    head: str
    commit: str


@dataclass(frozen=True, slots=True)
class MergeCandidate:
    """A change to merge, whose own tree has passed the gates.

    *always*: the result of a conflict task, which is merged even without new content, and before all others.
    """

    commit: str
    message: str
    result: AttemptEnd
    always: bool = False


@dataclass(frozen=True, slots=True)
class MergeQueue:
    """Merges the branch of one attempt.

    *run_checks*: runs the gates in the worktree. *is_ours*: whether the lease is valid.
    """

    claim: Claim
    control: Control
    worktree: Worktree
    run_checks: Callable[[], bool]
    is_ours: Callable[[], bool]
    records: MergeRecords

    def merge(self, candidate: MergeCandidate) -> Merged | MergeConflicted | MergeRejected:
        """Wait for the turn and merge; raises GitFailed or GitInterrupted."""
        git, repository = self.worktree.git, self.worktree.repository
        queue = queue_folder(self.worktree.worktree_folder.root, repository.common, run_slug(self.claim.run_id))
        limit = min(self.claim.timeout or PATIENCE, PATIENCE)
        with hold_lock(queue, self.control, limit=limit, first=candidate.always):
            while True:
                if (head := repository.head()) is None:
                    raise GitFailed(f"the branch {repository.branch} is gone")
                merged = self._make_commit(candidate, head)
                if merged == head:
                    return Merged(candidate.commit)  # it is there already
                if isinstance(merged, MergeConflicted):
                    return merged
                if merged is None:
                    return Merged(None)  # the branch has the same content already
                if merged != candidate.commit and git.tree_of(merged) != git.tree_of(candidate.commit):
                    self.worktree.stand_at(merged)
                    if not self.run_checks():
                        return MergeRejected(head, merged)
                if self._move(candidate, head, merged):
                    return Merged(merged)

    def _make_commit(self, candidate: MergeCandidate, head: str) -> str | MergeConflicted | None:
        """Return the commit to move the branch to: *head* if it has the change; None if it has the same content."""
        git, commit = self.worktree.git, candidate.commit
        first_parent = git("rev-parse", "--quiet", "--verify", f"{commit}^", may_fail=True).text
        if first_parent == head:
            return commit
        if self.worktree.repository.contains(commit, head):
            return head
        result = trial(git, head, commit)
        if not result.clean:
            return MergeConflicted(head, result.conflicts)
        if result.tree == git.tree_of(head) and not candidate.always:
            return None
        return git("commit-tree", result.tree, "-p", head, "-p", commit, "-m", candidate.message).text

    def _move(self, candidate: MergeCandidate, head: str, merged: str) -> bool:
        repository = self.worktree.repository
        merge = Merge(self.claim.attempt, repository.branch, head, merged, result_to_json(candidate.result))
        if self.control.stop_reason is not None or not self.is_ours() or not self.records.write(self.claim, merge):
            reason = self.control.stop_reason
            outcome = Outcome.LOST if reason is None else reason.outcome
            raise GitInterrupted(Interruption(outcome, "it had to stop before its change was merged"))
        return repository.move(repository.branch, merged, was=head)


def find_earlier_merge(repository: Repository, claim: Claim, records: MergeRecords) -> AttemptEnd | None:
    """Return the result of an earlier attempt that merged its change, but whose end was not stored."""
    if claim.attempt == 1:
        return None
    for merge in records.unfinished(claim):
        is_known = merge.branch == repository.branch and repository.has(merge.new_commit)
        if is_known and (head := repository.head()) is not None and repository.contains(merge.new_commit, head):
            remark = f"[merge] attempt {merge.attempt} had merged its change; only its end was not stored"
            return result_from_json(merge.result, remark)
    return None


def result_to_json(result: AttemptEnd) -> dict[str, Any]:
    """Return the part of a result that is stored until its change is merged."""
    artifacts = [asdict(artifact) for artifact in result.artifacts]
    return {"output": result.output, "exit_code": result.exit_code, "log": result.log, "artifacts": artifacts}


def result_from_json(stored: Mapping[str, Any], remark: str) -> AttemptEnd:
    """Return the completed result that was stored, with *remark* in its log."""
    log = stored.get("log")
    return AttemptEnd(
        Outcome.COMPLETED,
        output=stored.get("output"),
        exit_code=stored.get("exit_code"),
        artifacts=tuple(Artifact(**artifact) for artifact in stored.get("artifacts", ())),
        log=f"{log.rstrip()}\n{remark}" if isinstance(log, str) and log.strip() else remark,
    )


def carried_mapping(carried: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the mapping that an earlier attempt carried as *name*; empty if there is none."""
    value = carried.get(name)
    return value if isinstance(value, Mapping) else {}
