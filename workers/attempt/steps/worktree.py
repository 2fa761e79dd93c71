"""Runs an attempt in its own git worktree and merges its change to the branch of the run.

Finished work that is not merged yet is not repeated: the next attempt merges its commit (``carried["merge"]``). An
agent continues with its unfinished change (``carried["work"]``) and gets ``carried["feedback"]`` in its prompt.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import DatabaseUnavailable, Refused, Unavailable
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION, Checkout, parse_checkout, run_slug, slug
from coordination.domain.jobs.merges import Merge
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import TaskState
from coordination.store.engine import Store
from coordination.store.queries.jobs import merges as merge_rows
from coordination.store.queries.tasks import tasks
from workers.attempt.running import Proceed, RunningAttempt, is_in_worktree, with_log_line
from workers.runners import environment, program
from workers.runners.base import Control
from workers.runners.output import clean_text
from workers.runners.process import Launcher
from workers.workspaces import conflict_task, merge_queue, merged_changes, worktree_folder
from workers.workspaces import worktree as worktrees
from workers.workspaces.change import Change
from workers.workspaces.conflict_task import ROUNDS
from workers.workspaces.git import GitFailed, GitInterrupted, git_of_attempt, require
from workers.workspaces.merge_lock import delete_stale
from workers.workspaces.merge_queue import (
    MergeCandidate,
    MergeConflicted,
    Merged,
    MergeQueue,
    MergeRecords,
    MergeRejected,
)
from workers.workspaces.nested_repositories import NotCollected
from workers.workspaces.preparation import PreparedWorktree, ResourceLender, WorktreePreparation
from workers.workspaces.repository import Repository, repository_of
from workers.workspaces.worktree import Unresolved, Worktree, is_gone

_SHORT = 12
_FAILURES = (Outcome.FAILED, Outcome.TIMED_OUT)
# Errors that end the attempt; any other is a bug.
_EXPECTED = (Refused, GitInterrupted, GitFailed, Unavailable, NotCollected, Unresolved, OSError, ValueError)
_UNDONE = (Outcome.HANDED_BACK, Outcome.DEFERRED)  # the next attempt continues with what is carried


class SqlMergeRecords:
    """The MergeRecords of one store, for all threads of a worker process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, claim: Claim, merge: Merge) -> bool:
        def record(tx: Connection) -> bool:
            tasks.lock(tx, claim.workspace_id, [claim.task_id])
            states = tasks.get_states(tx, claim.workspace_id, [claim.task_id])
            if states.get(claim.task_id) != (TaskState.RUNNING, merge.attempt):
                return False
            merge_rows.put(tx, claim.workspace_id, claim.task_id, merge)
            return True

        return self._store.transact(record)

    def unfinished(self, claim: Claim) -> Sequence[Merge]:
        with self._store.read() as tx:
            return merge_rows.unfinished(tx, claim.workspace_id, claim.task_id, before=claim.attempt)

    def forget(self, claim: Claim) -> None:
        self._store.transact(lambda tx: merge_rows.delete_for_task(tx, claim.workspace_id, claim.task_id))


@dataclass(eq=False)
class WorktreeStep:
    """Makes the worktree before the job and merges its change afterwards.

    *root*: the folder of all worktrees. *keep*: how long worktrees of failed attempts are kept.
    *lender*: makes, for a claim and its scratch folder, the lender of ports and databases.
    """

    launcher: Launcher
    merges: MergeRecords
    root: Path
    keep: timedelta
    lender: Callable[[Claim, Path], ResourceLender] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _merged: dict[tuple[str, int], Path] = field(default_factory=dict, init=False)

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        claim = attempt.claim
        if not is_in_worktree(claim):
            return proceed(attempt)
        if (stopped := program.end_if_stopped(attempt.control)) is not None:
            return stopped
        in_worktree = _AttemptInWorktree(self, attempt, proceed, parse_checkout(claim.options[CHECKOUT_OPTION]))
        result = in_worktree.run()
        if in_worktree.merged is not None:
            with self._lock:
                self._merged[claim.task_id, claim.attempt] = in_worktree.merged
        return result

    def committed(self, claim: Claim, end: AttemptEnd, *, refused: bool) -> None:
        """Delete the records of the merge; if the end was refused, the next attempt needs them."""
        with self._lock:
            common = self._merged.pop((claim.task_id, claim.attempt), None)
        if common is None or refused or end.outcome is not Outcome.COMPLETED:
            return
        delete_stale(self.root.resolve(), common)
        with contextlib.suppress(DatabaseUnavailable):  # records of a completed task are never read
            self.merges.forget(claim)


class _AttemptInWorktree:
    """Runs one attempt. ``merged``: the repository, once the change is merged."""

    def __init__(self, step: WorktreeStep, attempt: RunningAttempt, proceed: Proceed, checkout: Checkout) -> None:
        self.merged: Path | None = None
        self._step = step
        self._attempt = attempt
        self._claim = attempt.claim
        self._control = attempt.control
        self._proceed = proceed
        self._checkout = checkout
        self._keep_for = step.keep if checkout.keep_failed is None else checkout.keep_failed
        self._message = worktrees.message_of(attempt.claim)
        # Chats count as agents: their prompts can have feedback, too.
        self._is_agent = attempt.claim.job_kind.asks_a_model
        self._rounds = int(merge_queue.carried_mapping(attempt.claim.carried_over, "merge").get("rounds", 0))
        self._prepared = PreparedWorktree()
        self._change: Change | None = None
        self._branch_is_needed = False

    def run(self) -> AttemptEnd:
        """Run the attempt and return its end; leave only what the next attempt needs."""
        with git_of_attempt(self._step.launcher, self._claim, self._control) as git, contextlib.closing(self._prepared):
            repository: Repository | None = None
            try:
                require(git, environment.base_variables()["PATH"])
                repository = repository_of(git, self._claim)
                result = self._run(repository)
            except _EXPECTED as error:
                result = self._failed(error)
            except BaseException:
                # A bug of ours or of the runner: the pipeline catches it and does not remove the worktree.
                if self._change is not None:
                    with contextlib.suppress(GitFailed, OSError):
                        self._change.worktree.worktree_folder.leave()
                raise
            return result if repository is None else self._clean_up(repository, result)

    # --- from the start to the merge

    def _run(self, repository: Repository) -> AttemptEnd:
        carried = self._claim.carried_over
        if (earlier := merge_queue.find_earlier_merge(repository, self._claim, self._step.merges)) is not None:
            self.merged = repository.common
            return earlier
        if (pending := merge_queue.carried_mapping(carried, "merge")) and repository.has(pending.get("commit")):
            return self._merge_pending(repository, pending)
        head = repository.ensure_branch(self._checkout)
        work = merge_queue.carried_mapping(carried, "work") if self._is_agent else {}
        if work and not (repository.has(work.get("commit")) and repository.has(work.get("base"))):
            work = {}
        if self._checkout.merge is not None:
            return self._resolve(repository, head, self._checkout.merge.commit, work)
        change = self._begin(repository, str(work.get("commit", head)))
        if work:
            change.worktree.resume(str(work["base"]))
        change.briefing = merged_changes.describe_missed(change.worktree, work, head)
        return self._finish(change)

    def _resolve(self, repository: Repository, head: str, commit: str, work: Mapping[str, Any]) -> AttemptEnd:
        """Run a conflict task: its worktree starts with *commit* half merged."""
        assert self._checkout.merge is not None  # noqa: S101 - checked by the caller
        if not repository.has(commit):
            raise Refused(f"The change of {self._checkout.merge.task}, {commit[:_SHORT]}, is gone from the repository")
        if repository.contains(commit, head):
            change = self._begin(repository, head)  # a job may have merged it; the gates decide
            change.result, change.commit = AttemptEnd(Outcome.COMPLETED, output="It is merged already"), head
            return self._finish(change)
        resolved = self._claim.carried_over.get("resolved")
        if repository.has(resolved) and repository.contains(commit, str(resolved)):
            commit = str(resolved)  # its own earlier result, since which others have merged
        change = self._begin(repository, str(work.get("commit", head)))
        worktree, change.merges = change.worktree, commit
        if work:
            worktree.resume(str(work["base"]))
            worktree.add_merge_parent(commit)
            change.briefing = merged_changes.describe_missed(worktree, work, head)
        elif worktree.merge(commit):
            change.briefing = conflict_task.describe_conflict(worktree, commit, self._claim.carried_over)
        else:
            change.result = AttemptEnd(Outcome.COMPLETED, output="It was merged without conflicts")
            change.commit = worktree.commit(self._message).commit
            worktree.settle()
        return self._finish(change)

    def _merge_pending(self, repository: Repository, pending: Mapping[str, Any]) -> AttemptEnd:
        """Merge the change of an earlier attempt, unless it is merged already."""
        commit = str(pending["commit"])
        result = merge_queue.result_from_json(
            pending, "[merge] an earlier attempt did the work; this attempt only merged it"
        )
        head = repository.ensure_branch(self._checkout)
        if pending.get("tested") and repository.contains(commit, head):
            return result
        change = self._begin(repository, commit)
        change.worktree.start = str(pending.get("base", commit))
        change.result, change.commit, change.is_earlier_result = result, commit, True
        change.was_tested = change.tested = bool(pending.get("tested"))
        return self._finish(change)

    def _begin(self, repository: Repository, start: str) -> Change:
        """Make the worktree at commit *start* and prepare it."""
        step, prepare = self._step, self._checkout.prepare
        worktree = worktrees.create(repository, step.root, self._claim, start, self._control)
        self._change = change = Change(worktree)
        where = {"worktree": worktree.folder, "branch": repository.task_branch, "from": start[:_SHORT]}
        self._control.event(EventType.PROGRESS, where)
        WorktreePreparation(worktree, self._claim, prepare, step.launcher, self._control).run(self._prepared)
        self._prepared.add_resources(prepare, step.lender(self._claim, self._control.scratch) if step.lender else None)
        return change

    def _finish(self, change: Change) -> AttemptEnd:
        """Run the inner steps, which do the work and check it, then merge it."""
        inside = self._prepared.in_folder(change.worktree, self._claim)
        result = change.result = self._proceed(replace(self._attempt, claim=inside, change=change))
        if change.rejection is not None:
            return self._rejected(change, change.rejection, change.commit, change.worktree.start)
        if result.outcome is not Outcome.COMPLETED or change.commit is None:
            was_stopped = change.commit is not None and result.outcome not in _FAILURES
            return result if was_stopped or not change.saves_work else self._save_work(change, result)
        change.tested = True
        if change.commit == change.worktree.start:
            change.commit = None
            return with_log_line(result, "[merge] it changed nothing")
        return self._merge(change, change.commit, result)

    def _merge(self, change: Change, commit: str, result: AttemptEnd) -> AttemptEnd:
        worktree, is_ours = change.worktree, self._attempt.is_ours
        candidate = MergeCandidate(commit, self._message, result, always=self._checkout.merge is not None)
        queue = MergeQueue(self._claim, self._control, worktree, change.run_checks_again, is_ours, self._step.merges)
        match queue.merge(candidate):
            case MergeConflicted() as conflict:
                return self._conflicted(change, commit, conflict)
            case Merged(merged):
                change.commit, branch = None, worktree.repository.branch
                result = change.result or result  # with the log of the gates on the merged files
                if merged is None:
                    return with_log_line(result, f"[merge] {branch} has the same content already")
                self.merged = worktree.repository.common
                self._control.event(EventType.PROGRESS, {"merged": merged[:_SHORT], "branch": branch})
                return with_log_line(result, f"[merge] merged to {branch} as {merged[:_SHORT]}")
            case MergeRejected(head, rejected):
                assert change.rejection is not None  # noqa: S101 - a check has failed
                return self._rejected(change, change.rejection, rejected, head)

    # --- ends without a merge

    def _rejected(self, change: Change, rejection: AttemptEnd, commit: str | None, base: str) -> AttemptEnd:
        """Return the end of an attempt whose check failed on *commit*, a change on top of *base*."""
        change.commit = None
        carry: dict[str, Any] = {"merge": None}
        if self._is_agent and commit is not None and commit != base:
            carry["work"] = self._saved(change.worktree, commit, base)
        return replace(rejection, carry_over={**rejection.carry_over, **carry})

    def _conflicted(self, change: Change, commit: str, conflict: MergeConflicted) -> AttemptEnd:
        change.commit = None
        worktree = change.worktree
        branch, files = worktree.repository.branch, conflict_task.name_conflicts(conflict.conflicts)
        why = f"its change conflicts with what others have merged to {branch}, in {files}"
        if self._checkout.merge is not None:
            self._keep_branch(worktree, commit)  # others merged meanwhile, so it does not count as a failure
            again = f"While you resolved it, {branch} has changed, and your result conflicts with it again, in {files}."
            carry = {"feedback": again, "merge": None, "work": None, "left": None, "resolved": commit}
            return self._ended(Outcome.DEFERRED, why, carry=carry)
        if not self._is_agent:
            return self._rerun_on_new_head(worktree, commit, why)
        self._rounds += 1
        self._keep_branch(worktree, commit)
        if self._rounds > ROUNDS:
            where = f"{why}, after {ROUNDS} rounds of merging; it stays on {worktree.repository.task_branch}"
            return self._ended(Outcome.FAILED, where, retryable=False, carry={"merge": None})
        task = conflict_task.make_conflict_task(self._claim, self._checkout, commit, conflict, round_=self._rounds)
        ended = self._ended(Outcome.DEFERRED, why, carry={"merge": self._pending(change, commit)})
        return replace(ended, discovered=(*ended.discovered, task))

    def _rerun_on_new_head(self, worktree: Worktree, commit: str, why: str) -> AttemptEnd:
        """Defer a command with a conflict: no agent can resolve it, but a new run starts on the changes of others."""
        if not self._claim.repeatable:
            self._keep_branch(worktree, commit)
            where = f"{why}, and the task is not repeatable; the change is on {worktree.repository.task_branch}"
            return self._ended(Outcome.FAILED, where, retryable=False)
        count = self._claim.carried_over.get("conflicts")
        times = count + 1 if isinstance(count, int) else 1
        if times > ROUNDS:
            return self._ended(Outcome.FAILED, f"{why}, {times} times in a row", carry={"conflicts": None})
        return self._ended(Outcome.DEFERRED, f"{why}; it runs again on top of these", carry={"conflicts": times})

    def _failed(self, error: BaseException) -> AttemptEnd:
        """Return the end after an error of git or the worktree. Its commits stay on the branch."""
        change = self._change
        is_missing = None if change is None else change.worktree.find_missing()
        failure = _failure_of(error, missing=is_missing)
        why, carry = failure.error or "", dict[str, Any]()
        if change is not None and change.result is not None:
            carry |= failure.carry_over
        if isinstance(error, Unresolved):
            carry |= self._save_half_resolved()
        if change is not None and is_missing and (commit := change.worktree.branch_commit()):
            saved = self._saved(change.worktree, commit, change.worktree.start)
            why = f"{why}; what it committed is {commit[:_SHORT]} on {change.worktree.repository.task_branch}"
            carry |= {"work": saved} if self._is_agent else {}
        ended = self._ended(failure.outcome, why, retryable=failure.retryable, carry=carry)
        return replace(ended, log="\n".join(filter(None, [ended.log, failure.log])) or None)

    def _save_work(self, change: Change, result: AttemptEnd) -> AttemptEnd:
        """Save the unfinished change of an agent that continues in another attempt."""
        continues = bool(result.carry_over) or result.question is not None or bool(result.discovered)
        if not self._is_agent or not continues or result.outcome is Outcome.LOST:
            return result
        worktree = change.worktree
        carry: dict[str, Any] = {worktrees.WORKTREE_FOLDER: worktree.worktree_folder.path.name}
        unstoppable = worktree.under(self._unstoppable())
        with contextlib.suppress(GitFailed, NotCollected, OSError):
            try:
                commit = unstoppable.commit(self._message, checked=False).commit
                carry |= {"work": self._saved(unstoppable, commit, worktree.start)} if commit != worktree.start else {}
            except Unresolved:
                carry |= self._save_half_resolved()
        return replace(result, carry_over={**result.carry_over, **carry})

    def _save_half_resolved(self) -> dict[str, Any]:
        """Save a folder with conflicts as a commit, from which the next attempt can take what was resolved."""
        with contextlib.suppress(GitFailed, OSError):
            if self._change is not None and self._is_agent:
                snapshot = self._change.worktree.under(self._unstoppable()).snapshot(self._message)
                self._keep_branch(self._change.worktree, snapshot)
                return {"left": snapshot}
        return {}

    def _saved(self, worktree: Worktree, commit: str, base: str) -> dict[str, str]:
        self._keep_branch(worktree, commit)
        return {"commit": commit, "base": base}

    def _keep_branch(self, worktree: Worktree, commit: str) -> None:
        """Move the task's branch to *commit*, also when the worktree is gone."""
        repository = worktree.repository.under(self._unstoppable())
        repository.move(repository.task_branch, commit)
        self._branch_is_needed = True

    def _pending(self, change: Change, commit: str) -> dict[str, Any]:
        assert change.result is not None  # noqa: S101 - a commit has a result
        state = {"commit": commit, "base": change.worktree.start, "tested": change.tested, "rounds": self._rounds}
        return state | merge_queue.result_to_json(change.result)

    def _ended(
        self, outcome: Outcome, error: str, *, retryable: bool = True, carry: Mapping[str, Any] | None = None
    ) -> AttemptEnd:
        """Return an end other than the job's own, with the job's usage and log."""
        job_end = None if self._change is None else self._change.result
        base = job_end or AttemptEnd(outcome, job_started=False)
        carry_over = {**base.carry_over, **(carry or {})}
        return base.ending_as(outcome, error=error, retryable=retryable, carry_over=carry_over)

    # --- cleanup

    def _clean_up(self, repository: Repository, result: AttemptEnd) -> AttemptEnd:
        """Remove what is not needed; keep a failed attempt's worktree for inspection."""
        unstoppable, change = repository.under(self._unstoppable()), self._change
        worktree = None if change is None else change.worktree.under(self._unstoppable())
        try:
            if worktree is not None and change is not None and change.commit is not None and result.outcome in _UNDONE:
                self._keep_branch(worktree, change.commit)
                pending = self._pending(change, change.commit)
                result = replace(result, carry_over={**result.carry_over, "merge": pending})
            is_safe = True  # the commits of the task's branch are reachable elsewhere
            if worktree is not None and result.outcome in _FAILURES and not is_gone(worktree.worktree_folder.path):
                if self._is_last(result) and "work" in result.carry_over:
                    self._branch_is_needed = False
                if self._keep_for:
                    result, is_safe = self._keep_worktree(worktree, result), worktree.holds_branch()
            if worktree is not None and not worktree.is_kept:
                worktree.worktree_folder.leave()
            is_done, is_ours = worktree is not None or result.outcome is Outcome.COMPLETED, self._attempt.is_ours
            if is_done and is_safe and not self._branch_is_needed and result.outcome is not Outcome.LOST and is_ours():
                unstoppable.drop(repository.task_branch)
            if result.outcome is Outcome.COMPLETED and is_ours():
                run = run_slug(self._claim.run_id)
                worktree_folder.delete_earlier(self._step.root.resolve(), run, slug(self._claim.key))
        except (GitFailed, OSError) as error:
            return with_log_line(result, f"[worktree] could not be cleaned up: {error}")
        return result

    def _keep_worktree(self, worktree: Worktree, result: AttemptEnd) -> AttemptEnd:
        until = time.time() + self._keep_for.total_seconds()
        work = merge_queue.carried_mapping(result.carry_over, "work")
        worktree.keep(until, branch_goes=bool(work) or not self._branch_is_needed, at=work.get("commit"))
        self._prepared.keep(until)
        day = datetime.fromtimestamp(until, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
        self._control.event(EventType.PROGRESS, {"kept": str(worktree.worktree_folder.path), "until": day})
        return with_log_line(result, f"[worktree] kept until {day}: {worktree.worktree_folder.path}")

    def _is_last(self, result: AttemptEnd) -> bool:
        """Return whether no attempt follows a failure, unless a person retries the task."""
        return not result.retryable or self._claim.failures + 1 >= self._claim.max_attempts

    def _unstoppable(self) -> Control:
        """Return a Control without stop requests, for cleanup after the attempt was told to stop."""
        return Control(scratch=self._control.scratch)


def _failure_of(error: BaseException, *, missing: str | None) -> AttemptEnd:
    """Return the end of an attempt after one of the expected errors. *missing*: what the worktree lacks, if any.

    It carries feedback for the agent's next attempt.
    """
    match error:
        case Refused():
            failure = AttemptEnd(Outcome.FAILED, error=error.sentence(), retryable=False)
        case GitInterrupted():
            failure = AttemptEnd(error.interruption.outcome, error=error.interruption.error)
        case Unavailable():  # of a port, or of the variant that may have been first
            failure = AttemptEnd(Outcome.DEFERRED, error=error.sentence())
        case Unresolved():
            why, feedback = conflict_task.explain_unresolved(error)
            failure = AttemptEnd(Outcome.FAILED, error=why, carry_over={"feedback": feedback})
        case _ if missing:
            failure = _collection_failure(missing)
        case GitFailed() if error.transient:
            failure = AttemptEnd(Outcome.DEFERRED, error=error.sentence)
        case GitFailed():
            failure = replace(_collection_failure(error.sentence), log=error.log)
        case NotCollected():
            failure = _collection_failure(error.sentence)
        case _:
            passing = isinstance(error, OSError | ValueError) and program.is_transient(error)
            outcome = Outcome.DEFERRED if passing else Outcome.FAILED
            failure = AttemptEnd(outcome, error=f"the workspace cannot be used: {error}", retryable=passing)
    return failure


def _collection_failure(why: str) -> AttemptEnd:
    why = clean_text(why)
    return AttemptEnd(
        Outcome.FAILED, error=why, carry_over={"feedback": f"What you left could not be committed: {why}"}
    )
