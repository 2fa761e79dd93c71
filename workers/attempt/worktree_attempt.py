"""One attempt in a worktree of its own: comes, works, passes the gates, merges, leaves.

What is done and only not merged yet is never done again: the next attempt is given the commit (``carried["merge"]``).
An agent finds its change where it left it (``carried["work"]``), and in its prompt ``carried["feedback"]``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.jobs.checkouts import Gate, Workspace, run_slug, slug
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType
from workers.attempt import changed_files
from workers.attempt import gates as gatekeeping
from workers.attempt.gates import GateResult
from workers.attempt.surroundings import Surroundings, goes_on
from workers.runners import environment
from workers.runners.base import Control, Runner
from workers.runners.process import Launcher
from workers.workspaces import changes, conflict_task, merge_queue, merged_changes, worktree, worktree_folder
from workers.workspaces.conflict_task import ROUNDS
from workers.workspaces.git import GitFailed, GitInterrupted, git_of_attempt, require
from workers.workspaces.git_failures import EXPECTED, failure_of
from workers.workspaces.merge_queue import MergeCandidate, MergeConflicted, Merged, MergeQueue, MergeRejected
from workers.workspaces.nested_repositories import NotCollected
from workers.workspaces.preparation import PreparedWorktree, WorktreePreparation
from workers.workspaces.repository import Repository, repository_of
from workers.workspaces.worktree import Unresolved, Worktree, is_gone

_SHORT = 12
_FAILURES = (Outcome.FAILED, Outcome.TIMED_OUT)
_UNDONE = (Outcome.HANDED_BACK, Outcome.DEFERRED)  # the task goes on with what was carried


class WorktreeAttempt:
    """One attempt. ``merged`` is the repository, once its change is merged."""

    def __init__(
        self,
        claim: Claim,
        control: Control,
        workspace: Workspace,
        gates: tuple[Gate, ...],
        *,
        runner: Runner,
        launcher: Launcher,
        root: Path,
        keep: timedelta,
        around: Surroundings,
    ) -> None:
        self.merged: Path | None = None
        self._claim = claim
        self._control = control
        self._workspace = workspace
        self._gates = gates
        self._runner = runner
        self._launcher = launcher
        self._root = root
        self._keep = keep if workspace.keep_failed is None else workspace.keep_failed
        self._around = around
        self._ours = around.ours
        self._message = worktree.message_of(claim)
        # A chat's answer is an agent's too: both have a prompt that can be told what was wrong.
        self._is_agent = "prompt" in claim.work
        self._result: AttemptEnd | None = None
        self._commit: str | None = None
        self._tested = False
        self._retold = False  # the result is an earlier attempt's
        self._rounds = int(merge_queue.mapping_in(claim.carried, "merge").get("rounds", 0))
        self._worktree: Worktree | None = None
        self._ready = PreparedWorktree()
        self._branch_is_needed = False
        self._verdict: GateResult | None = None

    def run(self) -> AttemptEnd:
        """Run it from its beginning to its end; nothing is left behind but what the next attempt needs."""
        with git_of_attempt(self._launcher, self._claim, self._control) as git, self._ready:
            repository: Repository | None = None
            try:
                require(git, environment.inherited()["PATH"])
                repository = repository_of(git, self._claim)
                result = self._visit(repository)
            except EXPECTED as error:
                result = self._failed(error)
            except BaseException:
                # A bug of ours or of the runner's: whoever catches it knows nothing of a worktree.
                if self._worktree is not None:
                    with contextlib.suppress(GitFailed, OSError):
                        self._worktree.remove()
                raise
            return result if repository is None else self._leave(repository, result)

    # --- the way through

    def _visit(self, repository: Repository) -> AttemptEnd:
        claim, carried = self._claim, self._claim.carried
        if (known := merge_queue.found(repository, claim, self._around.merges)) is not None:
            self.merged = repository.common
            return known
        if (pending := merge_queue.mapping_in(carried, "merge")) and repository.has(pending.get("commit")):
            return self._land_pending(repository, pending)
        head = repository.begun(self._workspace)
        work = merge_queue.mapping_in(carried, "work") if self._is_agent else {}
        if work and not (repository.has(work.get("commit")) and repository.has(work.get("base"))):
            work = {}
        if self._workspace.merge is not None:
            return self._merge(repository, head, self._workspace.merge.commit, work)
        place = self._settle(repository, str(work.get("commit", head)))
        if work:
            place.resume(str(work["base"]))
        was = changes.before(place)
        result = self._run_job(place, more=merged_changes.missed(place, work, head))
        if goes_on(result):
            return self._with_work(place, result)
        return self._judge_and_land(place, self._collected(place, was))

    def _merge(self, repository: Repository, head: str, commit: str, work: Mapping[str, Any]) -> AttemptEnd:
        """The job is to merge *commit*: it begins with it half merged."""
        assert self._workspace.merge is not None  # noqa: S101 - the caller looked
        if not repository.has(commit):
            raise Refused(f"The change of {self._workspace.merge.task}, {commit[:_SHORT]}, is gone from the repository")
        if repository.contains(commit, head):
            self._result = AttemptEnd(Outcome.COMPLETED, output="It is merged already")
            return self._judge_and_land(self._settle(repository, head), head)  # a job may have: gates decide
        commit = conflict_task.to_merge(repository, self._claim.carried, commit)
        place = self._settle(repository, str(work.get("commit", head)))
        if work:
            place.resume(str(work["base"]))
            place.go_on_merging(commit)
        if work or place.merge(commit):
            told = (
                merged_changes.missed(place, work, head)
                if work
                else conflict_task.told(place, commit, self._claim.carried)
            )
            was = changes.before(place)
            result = self._run_job(place, more=told)
            if goes_on(result):
                return self._with_work(place, result)
            merged = self._collected(place, was)
        else:
            self._result = AttemptEnd(Outcome.COMPLETED, output="It was merged without conflicts")
            merged = place.commit(self._message).commit
            place.settle()
        if not repository.contains(commit, merged):
            why = "the merge was given up"
            return self._ended(Outcome.FAILED, why, carry={"feedback": f"{why}. Resolve the conflicts instead."})
        return self._judge_and_land(place, merged)

    def _land_pending(self, repository: Repository, pending: Mapping[str, Any]) -> AttemptEnd:
        """The job was done by an earlier attempt; only the merge is missing, or not even that any more."""
        commit = str(pending["commit"])
        self._result = merge_queue.retold(pending, "[merge] an earlier attempt did the work; this one only merged it")
        self._retold = True
        head = repository.begun(self._workspace)
        if pending.get("tested") and repository.contains(commit, head):
            return self._result
        place = self._settle(repository, commit)
        place.start = str(pending.get("base", commit))
        self._tested = bool(pending.get("tested"))
        return self._judge_and_land(place, commit)

    def _settle(self, repository: Repository, start: str) -> Worktree:
        place = worktree.make(repository, self._root, self._claim, start, self._control)
        self._worktree = place
        where = {"worktree": place.folder, "branch": repository.task_branch, "from": start[:_SHORT]}
        self._control.event(EventType.PROGRESS, where)
        WorktreePreparation(place, self._claim, self._workspace.prepare, self._launcher, self._control).run(self._ready)
        self._ready.lend(self._workspace.prepare, self._around.lends)
        return place

    def _run_job(self, place: Worktree, *, more: str = "") -> AttemptEnd:
        inside = self._ready.inside(place, self._claim)
        if more:
            inside = replace(inside, work={**inside.work, "prompt": f"{inside.work['prompt']}{more}"})
        with merged_changes.hearing(place, self._control, self._calm()) if self._is_agent else contextlib.nullcontext():
            self._result = self._runner.run(inside, self._control)
        return self._result

    def _collected(self, place: Worktree, was: changes.HeadBefore) -> str:
        """The commit with all that the job made."""
        collected = changes.collect(place, was, self._claim)
        for remark in collected.remarks:
            self._result = self._with_remark(remark)
        if "agent" in self._claim.work and self._result is not None:
            self._result = changed_files.seen(self._result, self._claim, changed=collected.commit != place.start)
        return collected.commit

    def _judge_and_land(self, place: Worktree, commit: str) -> AttemptEnd:
        if self._result is not None and self._result.outcome is not Outcome.COMPLETED:
            return self._with_work(place, self._result)
        self._commit = commit
        if not self._tested:
            if self._gates:
                place.detach(commit)
            if not self._passes(place):
                return self._rejected(place, commit, place.start)
            self._tested = True
        if (lost := self._around.lost()) is not None:
            self._commit = None
            return self._ended(Outcome.CANCELED, lost)
        if self._result is not None and not self._retold:
            self._result = self._around.keeps(place.folder, self._result)
            if self._result.outcome is not Outcome.COMPLETED:
                return self._with_work(place, self._result)
        if commit == place.start:
            self._commit = None
            return self._with_remark("[merge] it changed nothing")
        return self._land(place, commit)

    def _land(self, place: Worktree, commit: str) -> AttemptEnd:
        assert self._result is not None  # noqa: S101 - the job has run, or its result was carried
        candidate = MergeCandidate(commit, self._message, self._result, always=self._workspace.merge is not None)
        about = (self._claim, self._control, place, partial(self._passes, place), self._ours, self._around.merges)
        match MergeQueue(*about).land(candidate):
            case MergeConflicted() as landed:
                return self._conflicted(place, commit, landed)
            case Merged(merged):
                self._commit, branch = None, place.repository.branch
                if merged is None:
                    return self._with_remark(f"[merge] {branch} says the same already")
                self.merged = place.repository.common
                self._control.event(EventType.PROGRESS, {"merged": merged[:_SHORT], "branch": branch})
                return self._with_remark(f"[merge] merged to {branch} as {merged[:_SHORT]}")
            case MergeRejected(head, rejected):
                return self._rejected(place, rejected, head)

    def _passes(self, place: Worktree) -> bool:
        """Run the gates on what the worktree holds."""
        assert self._result is not None  # noqa: S101 - the job has run, or its result was carried
        if not self._gates:
            return True
        claim = self._ready.around(self._claim)
        self._verdict = verdict = gatekeeping.judge(self._gates, claim, self._control, self._launcher, place.folder)
        self._result = gatekeeping.applied(
            self._result, replace(verdict, failed=None, interruption=None), limit=self._control.output_limit
        )
        if verdict.interruption is not None:
            raise GitInterrupted(verdict.interruption)
        return verdict.passed

    # --- ends that are none

    def _rejected(self, place: Worktree, commit: str, base: str) -> AttemptEnd:
        """A gate did not pass on *commit*, a change on top of *base*."""
        assert self._verdict is not None  # noqa: S101 - a gate has just said no
        self._commit = None
        carry: dict[str, Any] = {"feedback": self._verdict.feedback, "merge": None}
        if self._is_agent and commit != base:
            carry["work"] = self._saved(place, commit, base)
        return self._ended(Outcome.FAILED, self._verdict.failed or "a gate failed", carry=carry)

    def _conflicted(self, place: Worktree, commit: str, found: MergeConflicted) -> AttemptEnd:
        self._commit = None
        branch, files = place.repository.branch, conflict_task.in_conflict(found.conflicts)
        why = f"its change conflicts with what others have merged to {branch}, in {files}"
        if self._workspace.merge is not None:
            self._keep_branch(place, commit)  # others merged meanwhile: nobody's fault, so it is not charged
            return self._ended(Outcome.DEFERRED, why, carry=conflict_task.again(branch, files, commit))
        if not self._is_agent:
            return self._again_at_the_new_head(place, commit, why)
        self._rounds += 1
        self._keep_branch(place, commit)
        if self._rounds > ROUNDS:
            where = f"{why}, after {ROUNDS} rounds of merging; it stays on {place.repository.task_branch}"
            return self._ended(Outcome.FAILED, where, retryable=False, carry={"merge": None})
        task = conflict_task.merge_task(self._claim, self._workspace, self._gates, commit, found, round_=self._rounds)
        ended = self._ended(Outcome.DEFERRED, why, carry={"merge": self._pending(place, commit)})
        return replace(ended, discovered=(*ended.discovered, task))

    def _again_at_the_new_head(self, place: Worktree, commit: str, why: str) -> AttemptEnd:
        """A command has nobody to merge for it; begun anew, it finds what the others did."""
        if not self._claim.repeatable:
            self._keep_branch(place, commit)
            where = f"{why}, and it must not be repeated; the change is on {place.repository.task_branch}"
            return self._ended(Outcome.FAILED, where, retryable=False)
        outcome, why, times = conflict_task.repeated(self._claim, why)
        return self._ended(outcome, why, carry={"conflicts": times})

    def _failed(self, error: BaseException) -> AttemptEnd:
        """The worktree, or git, was in the way; what the job has committed stays on its branch without a worktree."""
        place = self._worktree
        gone = None if place is None else place.gone()
        failure = failure_of(error, gone=gone)
        told = None if self._result is None else failure.feedback
        why, carry = failure.error, {} if told is None else dict[str, Any](feedback=told)
        if isinstance(error, Unresolved):
            carry |= self._half_resolved()
        if place is not None and gone and (commit := place.committed()):
            saved = self._saved(place, commit, place.start)
            why = f"{why}; what it committed is {commit[:_SHORT]} on {place.repository.task_branch}"
            carry |= {"work": saved} if self._is_agent else {}
        ended = self._ended(failure.outcome, why, retryable=failure.retryable, carry=carry)
        return replace(ended, log="\n".join(filter(None, [ended.log, failure.log])) or None)

    def _with_work(self, place: Worktree, result: AttemptEnd) -> AttemptEnd:
        """An agent that goes on later goes on with what it has changed so far."""
        later = bool(result.carry) or result.question is not None or bool(result.discovered)
        if not self._is_agent or not later or result.outcome is Outcome.LOST:
            return result
        carry: dict[str, Any] = {worktree.WORKTREE_FOLDER: place.worktree_folder.path.name}
        calm = place.under(self._calm())
        with contextlib.suppress(GitFailed, NotCollected, OSError):
            try:
                commit = calm.commit(self._message, checked=False).commit
                carry |= {"work": self._saved(calm, commit, place.start)} if commit != place.start else {}
            except Unresolved:
                carry |= self._half_resolved()
        return replace(result, carry={**result.carry, **carry})

    def _half_resolved(self) -> dict[str, Any]:
        """What is kept of a folder with conflicts in it: the next attempt can take over what was resolved."""
        with contextlib.suppress(GitFailed, OSError):
            if self._worktree is not None and self._is_agent:
                left = self._worktree.under(self._calm()).snapshot(self._message)
                self._keep_branch(self._worktree, left)
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

    def _pending(self, place: Worktree, commit: str) -> dict[str, Any]:
        assert self._result is not None  # noqa: S101 - there is no commit without it
        state = {"commit": commit, "base": place.start, "tested": self._tested, "rounds": self._rounds}
        return state | merge_queue.told(self._result)

    def _ended(
        self, outcome: Outcome, error: str, *, retryable: bool = True, carry: Mapping[str, Any] | None = None
    ) -> AttemptEnd:
        """The attempt ends otherwise than its job did; what it spent and said stays."""
        base = self._result or AttemptEnd(outcome, began=False)
        return base.ending_as(outcome, error=error, retryable=retryable, carry={**base.carry, **(carry or {})})

    def _with_remark(self, remark: str) -> AttemptEnd:
        assert self._result is not None  # noqa: S101 - the job has run, or its result was carried
        log = (self._result.log or "").rstrip()
        return replace(self._result, log=f"{log}\n{remark}" if log else remark)

    def _leave(self, repository: Repository, result: AttemptEnd) -> AttemptEnd:
        """Take away what is not needed; a failed attempt's worktree is kept for people to look at."""
        calm = replace(repository, git=repository.git.under(self._calm()))
        place = None if self._worktree is None else self._worktree.under(self._calm())
        try:
            if place is not None and self._commit is not None and result.outcome in _UNDONE:
                self._keep_branch(place, self._commit)
                result = replace(result, carry={**result.carry, "merge": self._pending(place, self._commit)})
            held = True  # what is on the task's branch is somewhere else, too
            if place is not None and result.outcome in _FAILURES and not is_gone(place.worktree_folder.path):
                if self._is_last(result) and "work" in result.carry:
                    self._branch_is_needed = False
                if self._keep:
                    result, held = self._kept(place, result), place.holds_branch()
            if place is not None and not place.is_kept:
                place.remove()
            done = place is not None or result.outcome is Outcome.COMPLETED
            if done and held and not self._branch_is_needed and result.outcome is not Outcome.LOST and self._ours():
                calm.drop(repository.task_branch)
            if result.outcome is Outcome.COMPLETED and self._ours():
                worktree_folder.clear(self._root.resolve(), run_slug(self._claim.run_id), slug(self._claim.key))
        except (GitFailed, OSError) as error:
            log = (result.log or "").rstrip()
            return replace(result, log=f"{log}\n[worktree] could not be cleared up: {error}".lstrip())
        return result

    def _kept(self, place: Worktree, result: AttemptEnd) -> AttemptEnd:
        until, work = time.time() + self._keep.total_seconds(), merge_queue.mapping_in(result.carry, "work")
        place.keep(until, branch_goes=bool(work) or not self._branch_is_needed, at=work.get("commit"))
        self._ready.keep(until)
        day = datetime.fromtimestamp(until, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
        self._control.event(EventType.PROGRESS, {"kept": str(place.worktree_folder.path), "until": day})
        log = (result.log or "").rstrip()
        return replace(result, log=f"{log}\n[worktree] kept until {day}: {place.worktree_folder.path}".lstrip())

    def _is_last(self, result: AttemptEnd) -> bool:
        """Whether no attempt follows a failure, unless a person wants one."""
        return not result.retryable or self._claim.failures + 1 >= self._claim.max_attempts

    def _calm(self) -> Control:
        """A line to nobody: for what has to be done although the attempt was told to stop."""
        return Control(scratch=self._control.scratch)
