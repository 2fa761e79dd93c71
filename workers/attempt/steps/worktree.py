"""Runs an attempt in a git worktree of its own and merges what it changed to the branch of the run.

Work that is done and only not merged yet is never done again: the next attempt is given the commit
(``carried["merge"]``). An agent finds its change where it left it (``carried["work"]``), and in its prompt
``carried["feedback"]``.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from coordination.base.errors import DatabaseUnavailable, Refused
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION, Checkout, parse_checkout, parse_gates, run_slug, slug
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType
from workers.attempt.running import Proceed, RunningAttempt, with_log_line
from workers.runners import environment, program
from workers.runners.base import Control
from workers.runners.process import Launcher
from workers.workspaces import conflict_task, merge_queue, merged_changes, worktree, worktree_folder
from workers.workspaces.change import Change
from workers.workspaces.conflict_task import ROUNDS
from workers.workspaces.git import GitFailed, git_of_attempt, require
from workers.workspaces.git_failures import EXPECTED, failure_of
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
from workers.workspaces.preparation import Lends, PreparedWorktree, WorktreePreparation
from workers.workspaces.repository import Repository, repository_of
from workers.workspaces.worktree import Unresolved, Worktree, is_gone

_SHORT = 12
_FAILURES = (Outcome.FAILED, Outcome.TIMED_OUT)
_UNDONE = (Outcome.HANDED_BACK, Outcome.DEFERRED)  # the task goes on with what was carried


class WorktreeStep:
    """Makes the worktree before the job and merges its change afterwards.

    *root*: the folder of all worktrees. *keep*: how long those of failed attempts stay.
    *lender*: makes, for a claim and its scratch folder, what lends ports and databases.
    """

    def __init__(
        self,
        launcher: Launcher,
        merges: MergeRecords,
        *,
        root: Path,
        keep: timedelta,
        lender: Callable[[Claim, Path], Lends] | None = None,
    ) -> None:
        self.launcher = launcher
        self.merges = merges
        self.root = root
        self.keep = keep
        self.lender = lender
        self._lock = threading.Lock()
        self._merged: dict[tuple[str, int], Path] = {}

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        claim, control = attempt.claim, attempt.control
        if (stopped := program.stopped_early(control)) is not None:
            return stopped
        in_worktree = _AttemptInWorktree(self, attempt, proceed, parse_checkout(claim.options[CHECKOUT_OPTION]))
        result = in_worktree.run()
        if in_worktree.merged is not None:
            with self._lock:
                self._merged[claim.task_id, claim.attempt] = in_worktree.merged
        return result

    def committed(self, claim: Claim, end: AttemptEnd, *, refused: bool) -> None:
        """Forget the records of what it merged, unless its end was refused: then that must stay known."""
        with self._lock:
            common = self._merged.pop((claim.task_id, claim.attempt), None)
        if common is None or refused or end.outcome is not Outcome.COMPLETED:
            return
        delete_stale(self.root.resolve(), common)
        with contextlib.suppress(DatabaseUnavailable):  # a record of a completed task is never read
            self.merges.forget(claim)


class _AttemptInWorktree:
    """One attempt. ``merged``: the repository, once its change is merged."""

    def __init__(self, step: WorktreeStep, attempt: RunningAttempt, proceed: Proceed, checkout: Checkout) -> None:
        self.merged: Path | None = None
        self._step = step
        self._attempt = attempt
        self._claim = attempt.claim
        self._control = attempt.control
        self._proceed = proceed
        self._checkout = checkout
        self._keep = step.keep if checkout.keep_failed is None else checkout.keep_failed
        self._message = worktree.message_of(attempt.claim)
        # The prompt of a chat, too, can say what was wrong with an earlier attempt.
        self._is_agent = attempt.claim.job_kind.asks_a_model
        self._rounds = int(merge_queue.mapping_in(attempt.claim.carried_over, "merge").get("rounds", 0))
        self._ready = PreparedWorktree()
        self._change: Change | None = None
        self._branch_is_needed = False

    def run(self) -> AttemptEnd:
        """Run the attempt and return its end; only what the next attempt needs is left behind."""
        with git_of_attempt(self._step.launcher, self._claim, self._control) as git, self._ready:
            repository: Repository | None = None
            try:
                require(git, environment.inherited()["PATH"])
                repository = repository_of(git, self._claim)
                result = self._run(repository)
            except EXPECTED as error:
                result = self._failed(error)
            except BaseException:
                # A bug of ours or of the runner's: whoever catches it knows nothing of a worktree.
                if self._change is not None:
                    with contextlib.suppress(GitFailed, OSError):
                        self._change.place.remove()
                raise
            return result if repository is None else self._leave(repository, result)

    # --- from the beginning to the merge

    def _run(self, repository: Repository) -> AttemptEnd:
        carried = self._claim.carried_over
        if (earlier := merge_queue.found(repository, self._claim, self._step.merges)) is not None:
            self.merged = repository.common
            return earlier
        if (pending := merge_queue.mapping_in(carried, "merge")) and repository.has(pending.get("commit")):
            return self._merge_pending(repository, pending)
        head = repository.ensure_branch(self._checkout)
        work = merge_queue.mapping_in(carried, "work") if self._is_agent else {}
        if work and not (repository.has(work.get("commit")) and repository.has(work.get("base"))):
            work = {}
        if self._checkout.merge is not None:
            return self._resolve(repository, head, self._checkout.merge.commit, work)
        change = self._begin(repository, str(work.get("commit", head)))
        if work:
            change.place.resume(str(work["base"]))
        change.briefing = merged_changes.describe_missed(change.place, work, head)
        return self._finish(change)

    def _resolve(self, repository: Repository, head: str, commit: str, work: Mapping[str, Any]) -> AttemptEnd:
        """Run a job that is to merge *commit*: its worktree begins with it half merged."""
        assert self._checkout.merge is not None  # noqa: S101 - the caller looked
        if not repository.has(commit):
            raise Refused(f"The change of {self._checkout.merge.task}, {commit[:_SHORT]}, is gone from the repository")
        if repository.contains(commit, head):
            change = self._begin(repository, head)  # a job may have merged it: gates decide
            change.result, change.commit = AttemptEnd(Outcome.COMPLETED, output="It is merged already"), head
            return self._finish(change)
        commit = conflict_task.to_merge(repository, self._claim.carried_over, commit)
        change = self._begin(repository, str(work.get("commit", head)))
        place, change.merges = change.place, commit
        if work:
            place.resume(str(work["base"]))
            place.add_merge_parent(commit)
            change.briefing = merged_changes.describe_missed(place, work, head)
        elif place.merge(commit):
            change.briefing = conflict_task.told(place, commit, self._claim.carried_over)
        else:
            change.result = AttemptEnd(Outcome.COMPLETED, output="It was merged without conflicts")
            change.commit = place.commit(self._message).commit
            place.settle()
        return self._finish(change)

    def _merge_pending(self, repository: Repository, pending: Mapping[str, Any]) -> AttemptEnd:
        """Merge what an earlier attempt did, unless it is merged already."""
        commit = str(pending["commit"])
        result = merge_queue.retold(pending, "[merge] an earlier attempt did the work; this one only merged it")
        head = repository.ensure_branch(self._checkout)
        if pending.get("tested") and repository.contains(commit, head):
            return result
        change = self._begin(repository, commit)
        change.place.start = str(pending.get("base", commit))
        change.result, change.commit, change.is_retold = result, commit, True
        change.was_tested = change.tested = bool(pending.get("tested"))
        return self._finish(change)

    def _begin(self, repository: Repository, start: str) -> Change:
        """Make the worktree at the commit *start* and prepare it."""
        step, prepare = self._step, self._checkout.prepare
        place = worktree.create(repository, step.root, self._claim, start, self._control)
        self._change = change = Change(place, self._ready)
        where = {"worktree": place.folder, "branch": repository.task_branch, "from": start[:_SHORT]}
        self._control.event(EventType.PROGRESS, where)
        WorktreePreparation(place, self._claim, prepare, step.launcher, self._control).run(self._ready)
        self._ready.lend(prepare, step.lender(self._claim, self._control.scratch) if step.lender else None)
        return change

    def _finish(self, change: Change) -> AttemptEnd:
        """Let the steps inside do the work and judge it, then merge it."""
        inside = self._ready.in_folder(change.place, self._claim)
        result = change.result = self._proceed(replace(self._attempt, claim=inside, change=change))
        if change.rejection is not None:
            return self._rejected(change, change.rejection, change.commit, change.place.start)
        if result.outcome is not Outcome.COMPLETED or change.commit is None:
            was_stopped = change.commit is not None and result.outcome not in _FAILURES
            return result if was_stopped or not change.saves_work else self._with_work(change, result)
        change.tested = True
        if change.commit == change.place.start:
            change.commit = None
            return with_log_line(result, "[merge] it changed nothing")
        return self._merge(change, change.commit, result)

    def _merge(self, change: Change, commit: str, result: AttemptEnd) -> AttemptEnd:
        place, is_ours = change.place, self._attempt.is_ours
        candidate = MergeCandidate(commit, self._message, result, always=self._checkout.merge is not None)
        about = (self._claim, self._control, place, change.passes_again, is_ours, self._step.merges)
        match MergeQueue(*about).land(candidate):
            case MergeConflicted() as found:
                return self._conflicted(change, commit, found)
            case Merged(merged):
                change.commit, branch = None, place.repository.branch
                result = change.result or result  # with the log of gates on the merged files
                if merged is None:
                    return with_log_line(result, f"[merge] {branch} says the same already")
                self.merged = place.repository.common
                self._control.event(EventType.PROGRESS, {"merged": merged[:_SHORT], "branch": branch})
                return with_log_line(result, f"[merge] merged to {branch} as {merged[:_SHORT]}")
            case MergeRejected(head, rejected):
                assert change.rejection is not None  # noqa: S101 - a check has just failed
                return self._rejected(change, change.rejection, rejected, head)

    # --- ends without a merge

    def _rejected(self, change: Change, rejection: AttemptEnd, commit: str | None, base: str) -> AttemptEnd:
        """A check did not pass on *commit*, a change on top of *base*."""
        change.commit = None
        carry: dict[str, Any] = {"merge": None}
        if self._is_agent and commit is not None and commit != base:
            carry["work"] = self._saved(change.place, commit, base)
        return replace(rejection, carry_over={**rejection.carry_over, **carry})

    def _conflicted(self, change: Change, commit: str, found: MergeConflicted) -> AttemptEnd:
        change.commit = None
        place = change.place
        branch, files = place.repository.branch, conflict_task.in_conflict(found.conflicts)
        why = f"its change conflicts with what others have merged to {branch}, in {files}"
        if self._checkout.merge is not None:
            self._keep_branch(place, commit)  # others merged meanwhile: nobody's fault, so it is not charged
            return self._ended(Outcome.DEFERRED, why, carry=conflict_task.again(branch, files, commit))
        if not self._is_agent:
            return self._again_at_the_new_head(place, commit, why)
        self._rounds += 1
        self._keep_branch(place, commit)
        if self._rounds > ROUNDS:
            where = f"{why}, after {ROUNDS} rounds of merging; it stays on {place.repository.task_branch}"
            return self._ended(Outcome.FAILED, where, retryable=False, carry={"merge": None})
        gates = parse_gates(self._claim.options.get("gates"))
        task = conflict_task.merge_task(self._claim, self._checkout, gates, commit, found, round_=self._rounds)
        ended = self._ended(Outcome.DEFERRED, why, carry={"merge": self._pending(change, commit)})
        return replace(ended, discovered=(*ended.discovered, task))

    def _again_at_the_new_head(self, place: Worktree, commit: str, why: str) -> AttemptEnd:
        """End the attempt of a command: nobody can merge for it, but run anew it finds what others did."""
        if not self._claim.repeatable:
            self._keep_branch(place, commit)
            where = f"{why}, and it must not be repeated; the change is on {place.repository.task_branch}"
            return self._ended(Outcome.FAILED, where, retryable=False)
        outcome, why, times = conflict_task.repeated(self._claim, why)
        return self._ended(outcome, why, carry={"conflicts": times})

    def _failed(self, error: BaseException) -> AttemptEnd:
        """The worktree, or git, was in the way; what the job has committed stays on its branch without a worktree."""
        change = self._change
        gone = None if change is None else change.place.find_missing()
        failure = failure_of(error, missing=gone)
        feedback = None if change is None or change.result is None else failure.feedback
        why, carry = failure.error, {} if feedback is None else dict[str, Any](feedback=feedback)
        if isinstance(error, Unresolved):
            carry |= self._half_resolved()
        if change is not None and gone and (commit := change.place.branch_commit()):
            saved = self._saved(change.place, commit, change.place.start)
            why = f"{why}; what it committed is {commit[:_SHORT]} on {change.place.repository.task_branch}"
            carry |= {"work": saved} if self._is_agent else {}
        ended = self._ended(failure.outcome, why, retryable=failure.retryable, carry=carry)
        return replace(ended, log="\n".join(filter(None, [ended.log, failure.log])) or None)

    def _with_work(self, change: Change, result: AttemptEnd) -> AttemptEnd:
        """Save what an agent has changed so far, if it goes on later."""
        later = bool(result.carry_over) or result.question is not None or bool(result.discovered)
        if not self._is_agent or not later or result.outcome is Outcome.LOST:
            return result
        place = change.place
        carry: dict[str, Any] = {worktree.WORKTREE_FOLDER: place.worktree_folder.path.name}
        calm = place.under(self._calm())
        with contextlib.suppress(GitFailed, NotCollected, OSError):
            try:
                commit = calm.commit(self._message, checked=False).commit
                carry |= {"work": self._saved(calm, commit, place.start)} if commit != place.start else {}
            except Unresolved:
                carry |= self._half_resolved()
        return replace(result, carry_over={**result.carry_over, **carry})

    def _half_resolved(self) -> dict[str, Any]:
        """Keep a folder with conflicts in it as a commit: the next attempt can take over what was resolved."""
        with contextlib.suppress(GitFailed, OSError):
            if self._change is not None and self._is_agent:
                left = self._change.place.under(self._calm()).snapshot(self._message)
                self._keep_branch(self._change.place, left)
                return {"left": left}
        return {}

    def _saved(self, place: Worktree, commit: str, base: str) -> dict[str, str]:
        self._keep_branch(place, commit)
        return {"commit": commit, "base": base}

    def _keep_branch(self, place: Worktree, commit: str) -> None:
        """Let the task's branch hold *commit*, also when the worktree is gone."""
        replace(place.repository, git=place.repository.git.under(self._calm())).move(
            place.repository.task_branch, commit
        )
        self._branch_is_needed = True

    def _pending(self, change: Change, commit: str) -> dict[str, Any]:
        assert change.result is not None  # noqa: S101 - there is no commit without it
        state = {"commit": commit, "base": change.place.start, "tested": change.tested, "rounds": self._rounds}
        return state | merge_queue.told(change.result)

    def _ended(
        self, outcome: Outcome, error: str, *, retryable: bool = True, carry: Mapping[str, Any] | None = None
    ) -> AttemptEnd:
        """Return an end other than the job's own; what the job spent and printed stays."""
        done = None if self._change is None else self._change.result
        base = done or AttemptEnd(outcome, job_started=False)
        return base.ending_as(
            outcome, error=error, retryable=retryable, carry_over={**base.carry_over, **(carry or {})}
        )

    # --- afterwards

    def _leave(self, repository: Repository, result: AttemptEnd) -> AttemptEnd:
        """Take away what is not needed; a failed attempt's worktree is kept for people to look at."""
        calm, change = replace(repository, git=repository.git.under(self._calm())), self._change
        place = None if change is None else change.place.under(self._calm())
        try:
            if place is not None and change is not None and change.commit is not None and result.outcome in _UNDONE:
                self._keep_branch(place, change.commit)
                result = replace(
                    result, carry_over={**result.carry_over, "merge": self._pending(change, change.commit)}
                )
            is_safe = True  # what is on the task's branch is somewhere else, too
            if place is not None and result.outcome in _FAILURES and not is_gone(place.worktree_folder.path):
                if self._is_last(result) and "work" in result.carry_over:
                    self._branch_is_needed = False
                if self._keep:
                    result, is_safe = self._kept(place, result), place.holds_branch()
            if place is not None and not place.is_kept:
                place.remove()
            is_done, is_ours = place is not None or result.outcome is Outcome.COMPLETED, self._attempt.is_ours
            if is_done and is_safe and not self._branch_is_needed and result.outcome is not Outcome.LOST and is_ours():
                calm.drop(repository.task_branch)
            if result.outcome is Outcome.COMPLETED and is_ours():
                worktree_folder.clear(self._step.root.resolve(), run_slug(self._claim.run_id), slug(self._claim.key))
        except (GitFailed, OSError) as error:
            return with_log_line(result, f"[worktree] could not be cleared up: {error}")
        return result

    def _kept(self, place: Worktree, result: AttemptEnd) -> AttemptEnd:
        until, work = time.time() + self._keep.total_seconds(), merge_queue.mapping_in(result.carry_over, "work")
        place.keep(until, branch_goes=bool(work) or not self._branch_is_needed, at=work.get("commit"))
        self._ready.keep(until)
        day = datetime.fromtimestamp(until, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
        self._control.event(EventType.PROGRESS, {"kept": str(place.worktree_folder.path), "until": day})
        return with_log_line(result, f"[worktree] kept until {day}: {place.worktree_folder.path}")

    def _is_last(self, result: AttemptEnd) -> bool:
        """Return whether no attempt follows a failure, unless a person wants one."""
        return not result.retryable or self._claim.failures + 1 >= self._claim.max_attempts

    def _calm(self) -> Control:
        """Return a control that nobody stops, for what has to be done although the attempt was told to stop."""
        return Control(scratch=self._control.scratch)
