"""Executes the tasks that a message names: claims them, runs them, writes their ends, continues with what follows.

No transaction is open while a job runs. Short jobs share claims, calls of an interpreter and commits (see bundles). A
thread continues with short jobs that are ready, for a moment, before it takes the next message: other projects wait
there too.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from coordination.base.clock import monotonic, utc_now
from coordination.base.errors import CoordinationError, DatabaseUnavailable
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.tasks import needs_own_batch
from coordination.flows.attempts.dispatch import NextWork
from coordination.services.attempts.close_runs import close_runs
from coordination.services.attempts.decide import decide_end
from coordination.services.attempts.end_effects import EndEffects
from coordination.store.queries.tasks import ready, tasks
from workers.attempt.pipeline import Pipeline
from workers.attempt.rendering import rendered
from workers.attempt.running import RunningAttempt
from workers.attempt.step_list import make_steps
from workers.context import Context
from workers.engine.batch import Batch, BatchWatch
from workers.engine.batch_control import BatchControl, keep, make_control
from workers.engine.committer import CommitResult, Committer
from workers.engine.isolation import Isolation
from workers.leases.in_flight import EventOrOutput, InFlightAttempt
from workers.maintenance.supervisor_loop import SupervisorLoop
from workers.runners import cost_reports
from workers.runners.python_callable import PythonRunner
from workers.runners.registry import Runners

log = structlog.get_logger()

COMMIT_EVERY = timedelta(milliseconds=50)
"""How long the ends of short jobs may wait for a shared commit."""

GO_ON_FOR = timedelta(milliseconds=100)
"""How long a thread continues with what is ready before it looks at the queue again, while no other slot is free."""

_LOOK_AGAIN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds between looks at rows that were locked; the search for lost messages finds what is locked for longer."""

_BATCH = 64


class Executor:
    """Runs claimed tasks in the calling thread; one instance serves all threads of the process."""

    def __init__(
        self, context: Context, runners: Runners, housekeeper: SupervisorLoop, *, isolation: Isolation | None = None
    ) -> None:
        """*isolation*: runs jobs that may kill their worker; None in a process that runs one job anyway."""
        self._context = context
        self._runners = runners
        self._housekeeper = housekeeper
        self._isolation = isolation
        self._pipeline = Pipeline(make_steps(context, runners), runners.runner_for)
        self._writing = Committer(context)
        self._places = threading.Semaphore(context.slots)
        self.watch = BatchWatch(self._relieve)

    def work_off(self, workspace_id: str, ids: Sequence[str]) -> None:
        """Claim those of *ids* that are still ready and run them one after the other."""
        context = self._context
        if not context.serves(workspace_id):
            log.debug("left tasks of another workspace to its workers", workspace=workspace_id, tasks=len(ids))
            return
        if context.draining.is_set() or not self._places.acquire(blocking=False):
            with context.store.write() as tx:  # whoever looks next rings again at once
                ready.unmark_enqueued(tx, workspace_id, list(ids))
            return
        try:
            self._claim_and_work(workspace_id, ids)
        finally:
            self._places.release()

    def free(self) -> int:
        """Return how many slots are free: prefetch recovery takes one, too, and then no message finds it free."""
        return self._places._value  # noqa: SLF001 - a semaphore has no public word for it

    def _claim_and_work(self, workspace_id: str, ids: Sequence[str]) -> None:
        """Claim and run *ids*; rows that others have locked are claimed a little later: no other message names them."""
        wanted = ids
        for pause in (*_LOOK_AGAIN, None):
            began, enqueued = monotonic(), True
            first = self._writing.claim(workspace_id, wanted)
            written: CommitResult | None = first
            while written is not None and written.claims:
                bundle = self._bundle(written, enqueued=enqueued)
                enqueued = False
                written = self._work(bundle, go_on_until=began + GO_ON_FOR.total_seconds())
            wanted = first.locked
            if not wanted or pause is None or self._context.draining.wait(pause):
                return

    def _bundle(self, written: CommitResult, *, enqueued: bool) -> Batch:
        claims = self._context.held.add(written.claims, sent=written.sent)
        return Batch(claims, sent=written.sent, enqueued=enqueued)

    def _work(self, bundle: Batch, *, go_on_until: float) -> CommitResult | None:
        """Run a bundle to its end; return claims to continue with, if its last commit found short jobs."""
        written: CommitResult | None = None
        running: list[InFlightAttempt] = []
        self.watch.add(bundle)
        try:
            while running := bundle.take(_BATCH):
                bundle.ran(self._run_some(bundle, running))
                running = []
                due = bundle.due(COMMIT_EVERY)
                last = bundle.is_last()
                if last or due:
                    ends, writing = bundle.take_finished(), monotonic()
                    go_on = last and (writing < go_on_until or self.free() > 0)
                    written = self._write(bundle, ends, go_on=go_on) if ends else None
                    bundle.wrote(began=writing)
        except BaseException:
            # The leases of what is dropped are renewed no more and run out.
            self._context.held.drop(*bundle.abandoned(), *(held.claim for held in running))
            raise
        finally:
            self.watch.remove(bundle)
        return written

    def _run_some(self, bundle: Batch, batch: Sequence[InFlightAttempt]) -> int:
        """Run the first of *batch*, or several together where possible; return how many have ended."""
        first = batch[0]
        result = self._ended_early(first)
        if result is None and first.claim.losses and self._isolation is not None:
            return self._run_isolated(bundle, first, self._isolation)
        if result is None:
            claims, result = self._rendered(batch)
            if claims:
                runner = self._runners.runner_for(claims[0].work)
                if isinstance(runner, PythonRunner) and not needs_own_batch(claims[0].options):
                    return self._run_together(bundle, batch[: len(claims)], claims, runner)
                began = monotonic()
                bundle.singled_out(begun=1, began=began)
                self._context.started.begin(first.claim.task_id, first.claim.attempt)
                try:
                    result = self._run(first, claims[0])
                finally:
                    self._context.started.end([(first.claim.task_id, first.claim.attempt)])
                keep(self._context, bundle, first, result, timedelta(seconds=monotonic() - began))
                return 1
        assert result is not None  # noqa: S101 - there was neither a claim to run nor a reason not to
        keep(self._context, bundle, first, result, timedelta(0))
        return 1

    def _run_isolated(self, bundle: Batch, held: InFlightAttempt, isolation: Isolation) -> int:
        """Run a job in a process of its own because its worker died once; what waits behind it runs elsewhere."""
        began = monotonic()
        bundle.singled_out(begun=1, began=began)
        result = isolation.run(held)
        if result is None:
            bundle.gave_away()
            self._context.held.drop(held.claim)
        else:
            keep(self._context, bundle, held, result, timedelta(0))
        return 1

    def run_claim(self, claim: Claim, *, sent: float) -> None:
        """Run this claim and nothing else, under a lease that was requested at *sent* (monotonic seconds)."""
        self._places.acquire()  # the only one, so that no thread continues with what this releases
        held = self._context.held.add([claim], sent=sent)
        self._work(Batch(held, sent=sent, enqueued=False), go_on_until=0.0)

    def _ended_early(self, held: InFlightAttempt) -> AttemptEnd | None:
        if self._context.draining.is_set():
            return AttemptEnd(Outcome.HANDED_BACK, error="the worker shut down before the job began", job_started=False)
        if held.stop_reason is not None:
            return AttemptEnd(held.stop_reason.outcome, error="ended before the job began", job_started=False)
        if self._is_stale(held):
            return AttemptEnd(Outcome.LOST, error="its lease may have run out before the job began", job_started=False)
        return None

    def _is_stale(self, held: InFlightAttempt) -> bool:
        """Return whether this process slept so long (a laptop's lid) that another worker may have the task."""
        return held.renewed_at < self._oldest_fresh()

    def _oldest_fresh(self) -> float:
        return monotonic() - self._context.terms.fence_after.total_seconds()

    def _rendered(self, batch: Sequence[InFlightAttempt]) -> tuple[list[Claim], AttemptEnd | None]:
        return rendered(self._runners, batch, fresh_since=self._oldest_fresh())

    def _run_together(
        self, bundle: Batch, batch: Sequence[InFlightAttempt], claims: Sequence[Claim], runner: PythonRunner
    ) -> int:
        board = BatchControl(self._context, bundle, batch)
        try:
            with make_control(self._context, None) as settings:
                return runner.run_batch(claims, board, settings=settings)
        except Exception as error:
            log.exception("the runner failed", task=claims[0].key, project=claims[0].project)
            return self._failed(bundle, batch, error)
        finally:
            board.close()

    def _failed(self, bundle: Batch, batch: Sequence[InFlightAttempt], error: Exception) -> int:
        """Fail the attempt that ran when its runner raised: a bug costs its attempt, not the worker."""
        ended = sum(held.is_ending for held in batch)
        result = AttemptEnd(Outcome.FAILED, error=f"the runner failed: {type(error).__name__}: {error}")
        keep(self._context, bundle, batch[ended], result, timedelta(0))
        return ended + 1

    def _run(self, held: InFlightAttempt, claim: Claim) -> AttemptEnd:
        with make_control(self._context, held) as control:
            self._context.held.attach(held, control)
            return self._pipeline.run(
                RunningAttempt(claim, claim, held.claim, control, is_ours=lambda: not self._is_stale(held))
            )

    def close(self) -> None:
        """Close what this process keeps for its jobs; nothing runs any more."""
        if self._isolation is not None:
            self._isolation.close()
        self._pipeline.close()

    def _relieve(self, bundle: Batch) -> bool:
        """If the job that runs now is long: write the ends that wait for it, hand back what waits behind it."""
        found = bundle.relieved()
        if found is None:
            return False
        waiting, finished = found
        for held in waiting:
            result = AttemptEnd(
                Outcome.HANDED_BACK, error="a job before it in its bundle turned out to be long", job_started=False
            )
            finished.append((decide_end(held.claim, result, now=utc_now()), self._context.held.begin_end(held)))
        if finished:
            self._write(bundle, finished, go_on=False)
        return True

    def _write(
        self, bundle: Batch, ends: Sequence[tuple[EndedAttempt, list[EventOrOutput]]], *, go_on: bool
    ) -> CommitResult | None:
        """Write these ends and enqueue what they released; claims to go on with come along."""
        context = self._context
        try:
            written = self._writing.end(bundle.place, ends, go_on=go_on, refill=bundle.refills() or not go_on)
        except DatabaseUnavailable as error:
            log.error("ends could not be written; the jobs will run again", tasks=len(ends), why=error.message)  # noqa: TRY400
            written = None
        except CoordinationError as error:
            written = self._write_what_can_be(bundle, ends, error)
        finally:
            context.held.drop(*(ended.claim for ended, _ in ends))
        if written is None:
            return None
        cost_reports.discard([ended.fence for ended, _ in ends])
        for ended, _ in ends:
            refused = ended.task_id in written.refused
            self._pipeline.committed(ended.claim, ended.end, refused=refused)
            if refused:
                log.info("late result refused: the task moved on", task=ended.key, attempt=ended.attempt)
        if written.effects is not None and written.next_work is not None:
            self._follow_up(bundle, written.effects, written.next_work)
        return written

    def _follow_up(self, bundle: Batch, effects: EndEffects, work: NextWork) -> None:
        """After a commit: enqueue, look again where a back-off ends, close runs that two last tasks left open."""
        context, place = self._context, bundle.place
        if effects.money_returned:
            context.wake_projects([(place.workspace_id, place.project_id)])  # others may have waited for the money
        context.publisher.publish(
            place.workspace_id,
            place.project,
            self._writing.fill(place, work.claims[0][0].kind) if work.unfilled else work.enqueue,
            bundle=lambda kind: context.kinds.bundle(place.project_id, kind),
        )
        for wait in effects.retry_in.values():
            self._housekeeper.schedule_tick(place.workspace_id, place.project_id, after=wait)
        for run_id in effects.maybe_done_runs:
            self._close_if_done(place.workspace_id, run_id)

    def _close_if_done(self, workspace_id: str, run_id: str) -> None:
        """Close a run that only tasks in flight kept open, if they have ended. Mostly they have not: look first."""
        with self._context.store.read() as tx:
            still_open = tasks.open_states(tx, workspace_id, run_id, limit=1)
        if not still_open:
            self._context.store.transact(lambda tx: close_runs(tx, workspace_id, [run_id]))

    def _write_what_can_be(
        self, bundle: Batch, ends: Sequence[tuple[EndedAttempt, list[EventOrOutput]]], error: CoordinationError
    ) -> CommitResult | None:
        """A result cannot be stored. That is its job's fault: the others are written, and the task does not hang."""
        if len(ends) > 1:
            for each in ends:
                self._write(bundle, [each], go_on=False)
            return None
        ((ended, _),) = ends
        refused = AttemptEnd(Outcome.FAILED, error=f"its result cannot be stored: {error.message}", retryable=False)
        # What it spent is spent, whatever becomes of its result.
        failed = decide_end(ended.claim, refused, now=utc_now(), took=ended.took)
        end = (replace(failed, costs=ended.costs, recorded_costs=ended.recorded_costs), list[EventOrOutput]())
        return self._writing.end(bundle.place, [end], go_on=False, refill=True)
