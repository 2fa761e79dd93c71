"""Executes the tasks of a message: claims and runs them, writes their ends, and continues with tasks they made ready.

No transaction is open while a job runs. Short jobs share claims, interpreter calls and commits (see ``batch``). A
thread continues with ready short jobs only for a moment before it takes the next message, which may be of another
project.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog

from coordination.base.clock import monotonic, utc_now
from coordination.base.errors import CoordinationError, DatabaseUnavailable, Refused
from coordination.domain.access.authority import Rights, check_within, rights_of
from coordination.domain.agents import prompts
from coordination.domain.jobs.resource_limits import limits_of
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.tasks import needs_own_batch
from coordination.flows.attempts.finish import NextWork
from coordination.services.attempts.end import EndEffects, close_runs, decide_end
from coordination.store.queries.tasks import ready, tasks
from workers.attempt.pipeline import Pipeline
from workers.attempt.running import RunningAttempt
from workers.attempt.step_list import make_steps
from workers.context import Context
from workers.engine.batch import Batch, BatchControl, BatchWatch, WaitingEnd, collect_result, make_control
from workers.engine.committer import CommitResult, Committer
from workers.engine.isolation import Isolation
from workers.leases.in_flight import EventOrOutput, InFlightAttempt
from workers.maintenance.supervisor_loop import SupervisorLoop
from workers.runners import usage_file
from workers.runners.base import Runner
from workers.runners.python_callable import PythonRunner
from workers.runners.registry import Runners


def render_claims(
    runners: Runners, group: Sequence[InFlightAttempt], *, fresh_since: float
) -> tuple[list[Claim], AttemptEnd | None]:
    """Return the rendered claims of *group*, up to the first that cannot run together with those before it.

    When the first claim cannot run, return no claims and its end. *fresh_since*: when leases must have been renewed at
    the earliest, in monotonic seconds.
    """
    claims: list[Claim] = []
    common_runner: Runner | None = None
    plain: Mapping[str, Any] | None = None  # a job without templates; claims of one statement share equal jobs
    for in_flight in group:
        claim = in_flight.claim
        if in_flight.stop_reason is not None or (claims and in_flight.renewed_at < fresh_since):
            break
        if claim.work is not plain or claim.authority is not None:
            try:
                if claim.authority is not None:
                    check_authority(claim)
                claim = prompts.render_job(claim)
                runner = runners.by_kind[claim.job_kind]
            except Exception as error:
                # A bug in the rendering of one template must not end the whole batch.
                if not isinstance(error, Refused):
                    log.exception("a job could not be rendered", task=claim.key, project=claim.project)
                why = error.sentence() if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
                refused = AttemptEnd(Outcome.FAILED, error=why, retryable=False, job_started=False)
                return (claims, None) if claims else ([], refused)
            if common_runner is not None and runner is not common_runner:
                break
            common_runner = runner
            plain = claim.work if claim is in_flight.claim else None
        if claims and (needs_own_batch(claim.options) or claim.losses):
            break
        claims.append(claim)
    return claims, None


def check_authority(claim: Claim) -> None:
    """Raise Refused if a discovered task exceeds the authority of the job that added it. *claim*: not rendered.

    Folders are compared by their real paths now, because a job may have made a link since the task was added. The
    priority is not checked: a person may have raised it.
    """
    allowed = rights_of(claim.authority)
    if allowed is None:
        return
    requested = Rights(
        claim.work,
        () if claim.workdir is None else (os.path.realpath(claim.workdir),),
        claim.options.get("checkout", {}),
        claim.timeout,
        claim.stall_timeout,
        limits_of(claim.options),
        claim.agent,
        max_attempts=claim.max_attempts,
    )
    folders = [os.path.realpath(folder) for folder in allowed.folders]
    check_within(replace(allowed, folders=folders), requested, models=False)


log = structlog.get_logger()

COMMIT_EVERY = timedelta(milliseconds=50)
"""How long ends of short jobs may wait for a shared commit."""

CONTINUE_FOR = timedelta(milliseconds=100)
"""How long a thread continues with ready tasks before it takes a message again, while no other slot is free."""

_RETRY_LOCKED = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds between attempts to claim locked rows. The sweep enqueues tasks that stay locked for longer."""

_MOST_TOGETHER = 64


class Executor:
    """Runs claimed tasks in the calling thread; one instance serves all threads of the process."""

    def __init__(
        self, context: Context, runners: Runners, supervisor_loop: SupervisorLoop, *, isolation: Isolation | None = None
    ) -> None:
        """*isolation*: runs jobs that may kill their worker; None in a process that runs a single job."""
        self._context = context
        self._runners = runners
        self._supervisor_loop = supervisor_loop
        self._isolation = isolation
        self._pipeline = Pipeline(make_steps(context, runners), lambda claim: runners.by_kind[claim.job_kind])
        self._committer = Committer(context)
        self._slots = threading.Semaphore(context.slots)
        self.watch = BatchWatch(self._split)

    def run_tasks(self, workspace_id: str, ids: Sequence[str]) -> None:
        """Claim those of *ids* that are still ready and run them one after the other."""
        context = self._context
        if not context.serves(workspace_id):
            why = "ignored tasks of a workspace that this worker does not serve"
            log.debug(why, workspace=workspace_id, tasks=len(ids))
            return
        if context.draining.is_set() or not self._slots.acquire(blocking=False):
            with context.store.write() as tx:  # so that the next tick enqueues them again at once
                ready.unmark_enqueued(tx, workspace_id, list(ids))
            return
        try:
            self._claim_and_run(workspace_id, ids)
        finally:
            self._slots.release()

    def free_slots(self) -> int:
        """Return how many slots are free. Prefetch recovery takes slots too, beside those that messages take."""
        return self._slots._value  # noqa: SLF001 - a semaphore has no public method for it

    def _claim_and_run(self, workspace_id: str, ids: Sequence[str]) -> None:
        """Claim and run *ids*. Retry locked rows a little later, because no other message names them."""
        unclaimed = ids
        for pause in (*_RETRY_LOCKED, None):
            began, enqueued = monotonic(), True
            first = self._committer.claim(workspace_id, unclaimed)
            result: CommitResult | None = first
            while result is not None and result.claims:
                attempts = self._context.in_flight.add(result.claims, sent=result.sent)
                batch, enqueued = Batch(attempts, sent=result.sent, enqueued=enqueued), False
                result = self._run_batch(batch, go_on_until=began + CONTINUE_FOR.total_seconds())
            unclaimed = first.locked
            if not unclaimed or pause is None or self._context.draining.wait(pause):
                return

    def _run_batch(self, batch: Batch, *, go_on_until: float) -> CommitResult | None:
        """Run a batch to its end. Return its last commit, which may have claimed short jobs to continue with."""
        result: CommitResult | None = None
        group: list[InFlightAttempt] = []
        self.watch.watch(batch)
        try:
            while group := batch.take(_MOST_TOGETHER):
                batch.requeue_after(self._run_some(batch, group))
                group = []
                is_due, is_last = batch.is_write_due(COMMIT_EVERY), batch.is_last()
                if is_last or is_due:
                    ends, began = batch.take_finished(), monotonic()
                    go_on = is_last and (began < go_on_until or self.free_slots() > 0)
                    result = self._write(batch, ends, go_on=go_on) if ends else None
                    batch.note_write(began=began)
        except BaseException:
            # Dropped leases are not renewed, so they expire.
            self._context.in_flight.drop(*batch.abandon(), *(each.claim for each in group))
            raise
        finally:
            self.watch.remove(batch)
        return result

    def _run_some(self, batch: Batch, group: Sequence[InFlightAttempt]) -> int:
        """Run the first of *group*, or several together where possible; return how many have ended."""
        first = group[0]
        result = self._end_before_start(first)
        if result is None and first.claim.losses and self._isolation is not None:
            return self._run_isolated(batch, first, self._isolation)
        if result is None:
            claims, result = self._render(group)
            if claims:
                runner = self._runners.by_kind[claims[0].job_kind]
                if isinstance(runner, PythonRunner) and not needs_own_batch(claims[0].options):
                    return self._run_together(batch, group[: len(claims)], claims, runner)
                began = monotonic()
                batch.run_alone(begun=1, began=began)
                self._context.started.begin(*first.fence)
                try:
                    result = self._run(first, claims[0])
                finally:
                    self._context.started.end([first.fence])
                collect_result(self._context, batch, first, result, timedelta(seconds=monotonic() - began))
                return 1
        assert result is not None  # noqa: S101 - render_claims returns claims or a result
        collect_result(self._context, batch, first, result, timedelta(0))
        return 1

    def _run_isolated(self, batch: Batch, in_flight: InFlightAttempt, isolation: Isolation) -> int:
        """Run a job in a helper process because its worker has died before; the rest of the batch runs elsewhere."""
        began = monotonic()
        batch.run_alone(begun=1, began=began)
        result = isolation.run(in_flight)
        if result is None:
            batch.end_elsewhere()
            self._context.in_flight.drop(in_flight.claim)
        else:
            collect_result(self._context, batch, in_flight, result, timedelta(0))
        return 1

    def run_claim(self, claim: Claim, *, sent: float) -> None:
        """Run this claim only, under a lease that was requested at *sent* (monotonic seconds)."""
        self._slots.acquire()  # the only slot, so that no thread continues with tasks that this makes ready
        attempts = self._context.in_flight.add([claim], sent=sent)
        self._run_batch(Batch(attempts, sent=sent, enqueued=False), go_on_until=0.0)

    def _end_before_start(self, in_flight: InFlightAttempt) -> AttemptEnd | None:
        if self._context.draining.is_set():
            return AttemptEnd(Outcome.HANDED_BACK, error="the worker shut down before the job began", job_started=False)
        if in_flight.stop_reason is not None:
            return AttemptEnd(in_flight.stop_reason.outcome, error="ended before the job began", job_started=False)
        if self._is_stale(in_flight):
            return AttemptEnd(Outcome.LOST, error="its lease may have run out before the job began", job_started=False)
        return None

    def _is_stale(self, in_flight: InFlightAttempt) -> bool:
        """Return whether this process was suspended so long (a laptop's lid) that another worker may own the task."""
        return in_flight.renewed_at < self._fresh_since()

    def _fresh_since(self) -> float:
        return monotonic() - self._context.terms.fence_after.total_seconds()

    def _render(self, group: Sequence[InFlightAttempt]) -> tuple[list[Claim], AttemptEnd | None]:
        return render_claims(self._runners, group, fresh_since=self._fresh_since())

    def _run_together(
        self, batch: Batch, group: Sequence[InFlightAttempt], claims: Sequence[Claim], runner: PythonRunner
    ) -> int:
        batch_run = BatchControl(self._context, batch, group)
        try:
            with make_control(self._context, None) as settings:
                return runner.run_batch(claims, batch_run, settings=settings)
        except Exception as error:
            # A bug of the runner fails the running attempt, not the worker.
            log.exception("the runner failed", task=claims[0].key, project=claims[0].project)
            ended = sum(each.is_ending for each in group)
            result = AttemptEnd(Outcome.FAILED, error=f"the runner failed: {type(error).__name__}: {error}")
            collect_result(self._context, batch, group[ended], result, timedelta(0))
            return ended + 1
        finally:
            batch_run.close()

    def _run(self, in_flight: InFlightAttempt, claim: Claim) -> AttemptEnd:
        with make_control(self._context, in_flight) as control:
            self._context.in_flight.attach(in_flight, control)
            return self._pipeline.run(
                RunningAttempt(claim, claim, in_flight.claim, control, is_ours=lambda: not self._is_stale(in_flight))
            )

    def close(self) -> None:
        """Release the resources of this process's jobs, none of which may run any more."""
        if self._isolation is not None:
            self._isolation.close()
        self._pipeline.close()

    def _split(self, batch: Batch) -> bool:
        """If the running job takes long, write the waiting ends and hand back the claims behind it."""
        parts = batch.split()
        if parts is None:
            return False
        waiting, finished = parts
        result = AttemptEnd(Outcome.HANDED_BACK, error="a job before it in its batch took long", job_started=False)
        for each in waiting:
            finished.append((decide_end(each.claim, result, now=utc_now()), self._context.in_flight.begin_end(each)))
        if finished:
            self._write(batch, finished, go_on=False)
        return True

    def _write(self, batch: Batch, ends: Sequence[WaitingEnd], *, go_on: bool) -> CommitResult | None:
        """Write these ends and enqueue the tasks they made ready. With *go_on*, the result has claims to run next."""
        context = self._context
        try:
            result = self._committer.end(batch.place, ends, go_on=go_on, refill=batch.take_refill() or not go_on)
        except DatabaseUnavailable as error:
            log.error("ends could not be written; the jobs will run again", tasks=len(ends), why=error.message)  # noqa: TRY400
            result = None
        except CoordinationError as error:
            result = self._write_separately(batch, ends, error)
        finally:
            context.in_flight.drop(*(ended.claim for ended, _ in ends))
        if result is None:
            return None
        usage_file.discard_report([ended.fence for ended, _ in ends])
        for ended, _ in ends:
            refused = ended.task_id in result.refused
            self._pipeline.committed(ended.claim, ended.end, refused=refused)
            if refused:
                log.info("late result refused: the task moved on", task=ended.key, attempt=ended.attempt)
        if result.effects is not None and result.next_work is not None:
            self._follow_up(batch, result.effects, result.next_work)
        return result

    def _follow_up(self, batch: Batch, effects: EndEffects, work: NextWork) -> None:
        """After a commit, enqueue ready tasks, schedule retries, and close runs whose last tasks ended together."""
        context, place = self._context, batch.place
        if effects.money_returned:
            context.wake_projects([(place.workspace_id, place.project_id)])  # other tasks may wait for this budget
        context.publisher.publish(
            place.workspace_id,
            place.project,
            self._committer.fill(place, work.claims[0][0].kind) if work.unfilled else work.enqueue,
            bundle=lambda kind: context.duration_stats.bundle(place.project_id, kind),
        )
        for wait in effects.retry_in.values():
            self._supervisor_loop.schedule_tick(place.workspace_id, place.project_id, after=wait)
        for run_id in effects.maybe_done_runs:
            self._close_if_done(place.workspace_id, run_id)

    def _close_if_done(self, workspace_id: str, run_id: str) -> None:
        """Close a run that only in-flight tasks kept open, if they have ended. Mostly they have not, so read first."""
        with self._context.store.read() as tx:
            still_open = tasks.open_states(tx, workspace_id, run_id, limit=1)
        if not still_open:
            self._context.store.transact(lambda tx: close_runs(tx, workspace_id, [run_id]))

    def _write_separately(
        self, batch: Batch, ends: Sequence[WaitingEnd], error: CoordinationError
    ) -> CommitResult | None:
        """Write each end alone because a result cannot be stored, and fail the attempt that returned it."""
        if len(ends) > 1:
            for each in ends:
                self._write(batch, [each], go_on=False)
            return None
        ((ended, _),) = ends
        refused = AttemptEnd(Outcome.FAILED, error=f"its result cannot be stored: {error.message}", retryable=False)
        # Its costs count although its result is lost.
        failed = decide_end(ended.claim, refused, now=utc_now(), took=ended.took)
        end = (replace(failed, costs=ended.costs, recorded_costs=ended.recorded_costs), list[EventOrOutput]())
        return self._committer.end(batch.place, [end], go_on=False, refill=True)
