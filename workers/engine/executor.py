"""Works off what a doorbell named: claim, run, finish, go on with what that released.

No transaction is open while a job runs. Short jobs share claims, trips to an interpreter and commits (see bundles); a
thread goes on with short jobs that are ready, for a moment, before it takes the next message: other projects wait there
too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

import structlog

from coordination.adapters.artifact_store import ArtifactStore
from coordination.base.clock import monotonic, utc_now
from coordination.base.errors import CoordinationError, DatabaseUnavailable, Refused
from coordination.domain.plans.plan_expansion import VARIANT
from coordination.domain.tasks.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Discovered, Outcome
from coordination.domain.tasks.task_options import alone
from coordination.flows.attempts.dispatch import NextWork
from coordination.flows.tasks.add_discovered_tasks import add_found
from coordination.flows.tasks.choose_variant import choose_variant
from coordination.services.attempts.close_runs import close_runs
from coordination.services.attempts.decide import decide_end
from coordination.services.attempts.end_effects import EndEffects
from coordination.store.queries.tasks import ready, tasks
from workers.attempt import artifacts, review
from workers.attempt.agent_channel import Report, Reporting
from workers.attempt.folders import AttemptFolders
from workers.attempt.host_leases import HostResources
from workers.attempt.jobs import Jobs
from workers.attempt.merge_records import MergesInStore
from workers.attempt.prompting import Prompting
from workers.attempt.rendering import rendered
from workers.attempt.steps.model_policy import check_rendered_model
from workers.attempt.surroundings import Surroundings
from workers.attempt.telling import Told
from workers.attempt.token_issuer import TokenIssuer
from workers.context import Context
from workers.engine.batch import Batch, BatchWatch
from workers.engine.batch_control import BatchControl, keep, make_control
from workers.engine.committer import CommitResult, Committer
from workers.engine.isolation import Isolation
from workers.leases.in_flight import InFlightAttempt, Said
from workers.maintenance.supervisor_loop import SupervisorLoop
from workers.runners import cost_reports
from workers.runners.base import Control
from workers.runners.python_callable import PythonRunner
from workers.runners.registry import Runners

log = structlog.get_logger()

COMMIT_EVERY = timedelta(milliseconds=50)
"""How long the ends of short jobs may wait for a shared commit."""

GO_ON_FOR = timedelta(milliseconds=100)
"""How long a thread goes on with what is ready before it looks at the queue again; while no slot is free, that is: a
thread that is free takes what waits there.
"""

_LOOK_AGAIN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds between looks at rows that were locked; what is locked for longer is left to those who seek lost messages."""

_BATCH = 64


class Executor:
    """Runs claimed tasks in the calling thread; one instance serves all threads of the process."""

    def __init__(
        self, context: Context, runners: Runners, housekeeper: SupervisorLoop, *, isolation: Isolation | None = None
    ) -> None:
        """*isolation*: runs what is suspected to end its worker; None in a process that runs one job anyway."""
        self._context = context
        self._runners = runners
        self._housekeeper = housekeeper
        self._isolation = isolation
        settings = context.settings
        store = ArtifactStore(settings.artifacts_url)
        self._artifacts = artifacts.ArtifactLimits(store, settings.artifacts_most, settings.artifacts_bytes)
        self._jobs = Jobs(runners, worktrees=context.worktrees, keep=settings.worktrees_kept)
        self._merges = MergesInStore(context.store)
        self._writing = Committer(context)
        self._prompting = Prompting(context.store)
        self._folders = AttemptFolders(context.scratch, runners.launcher.show)
        self._reporting = Reporting(self._add_found, TokenIssuer(context.store).issue)
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
        """How many slots are free: a thread may take a parked task into one, and then no message finds it free."""
        return self._places._value  # noqa: SLF001 - a semaphore knows, and has no word for it

    def _claim_and_work(self, workspace_id: str, ids: Sequence[str]) -> None:
        """What somebody else has locked is claimed a little later: no other message tells of it."""
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
        """Run a bundle to its end; claims to go on with, if its last commit found short jobs that are ready."""
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
            # Whatever it was: what is not held any more is not renewed either, and its lease runs out.
            self._context.held.drop(*bundle.abandoned(), *(held.claim for held in running))
            raise
        finally:
            self.watch.remove(bundle)
        return written

    def _run_some(self, bundle: Batch, batch: Sequence[InFlightAttempt]) -> int:
        """Run the first of *batch*, or several together where they can be; how many were dealt with."""
        first = batch[0]
        result = self._ended_early(first)
        if result is None and first.claim.losses and self._isolation is not None:
            return self._run_isolated(bundle, first, self._isolation)
        if result is None:
            claims, result = self._rendered(batch)
            if claims:
                runner = self._runners.runner_for(claims[0].work)
                if isinstance(runner, PythonRunner) and not alone(claims[0].options):
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
        """It was running when a worker died: what waits behind it is handed back, and runs elsewhere."""
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
        """Run what is held, under a lease that was asked for at *sent* (monotonic seconds), and nothing else."""
        self._places.acquire()  # the only one: then nothing goes on with what this releases
        held = self._context.held.add([claim], sent=sent)
        self._work(Batch(held, sent=sent, enqueued=False), go_on_until=0.0)

    def _ended_early(self, held: InFlightAttempt) -> AttemptEnd | None:
        if self._context.draining.is_set():
            return AttemptEnd(Outcome.HANDED_BACK, error="the worker shut down before the job began", began=False)
        if held.gone is not None:
            return AttemptEnd(held.gone.outcome, error="ended before the job began", began=False)
        if self._is_stale(held):
            return AttemptEnd(Outcome.LOST, error="its lease may have run out before the job began", began=False)
        return None

    def _is_stale(self, held: InFlightAttempt) -> bool:
        """Whether this process was stopped for so long (a laptop's lid) that somebody else may hold the task."""
        return held.renewed < self._oldest_fresh()

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
        """A bulkhead: a bug of a runner costs the attempt that ran, not the worker."""
        ended = sum(held.ending for held in batch)
        result = AttemptEnd(Outcome.FAILED, error=f"the runner failed: {type(error).__name__}: {error}")
        keep(self._context, bundle, batch[ended], result, timedelta(0))
        return ended + 1

    def _run(self, held: InFlightAttempt, claim: Claim) -> AttemptEnd:
        with make_control(self._context, held) as control:
            self._context.held.attach(held, control)
            return control.secrets.hide_in(self._run_job(held, claim, control))

    def _run_job(self, held: InFlightAttempt, claim: Claim, control: Control) -> AttemptEnd:
        try:
            early = check_rendered_model(self._context.store, held.claim, claim) or review.before(claim, control)
            if early is not None:
                return early
            with self._folders.make(claim) as own, self._reporting.of(claim, control, own) as report:
                control.scratch = own.path
                result = self._run_reporting(held, claim, control, report)
            return self._won(claim, result)
        except Refused as refusal:
            return AttemptEnd(Outcome.FAILED, error=refusal.sentence(), retryable=False, began=False)
        except Exception as error:
            # A bulkhead: a bug of a runner costs its attempt, not the worker.
            log.exception("the runner failed", task=claim.key, project=claim.project)
            return AttemptEnd(Outcome.FAILED, error=f"the runner failed: {type(error).__name__}: {error}")

    def _run_reporting(self, held: InFlightAttempt, claim: Claim, control: Control, report: Report) -> AttemptEnd:
        with artifacts.with_folder(claim, control.scratch) as placed:
            told = Told(self._runners.runner_for(claim.work), self._prompting, held.claim, report)
            surroundings = Surroundings(
                ours=lambda: not self._is_stale(held),
                merges=self._merges,
                lost=partial(self._lost_to, claim),
                keeps=lambda folder, result: artifacts.kept(
                    placed, folder, result, control=control, terms=self._artifacts
                ),
                lends=HostResources(
                    self._context.store, claim, ports=self._context.settings.ports, scratch=control.scratch
                ),
            )
            return self._jobs.run(told, placed, control, surroundings)

    def _add_found(self, claim: Claim, discovered: tuple[Discovered, ...]) -> Mapping[str, str]:
        """Add what a running job found; a tick rings for it."""
        grown = self._context.store.transact(
            lambda tx: add_found(tx, claim.workspace_id, claim.task_id, claim.attempt, discovered)
        )
        if grown.ready:
            self._context.nudge([(claim.workspace_id, claim.project_id)])
        return grown.ids

    def _won(self, claim: Claim, result: AttemptEnd) -> AttemptEnd:
        """A variant counts only if it is the first of its task to have passed."""
        if result.outcome is not Outcome.COMPLETED:
            return result
        try:
            why = self._lost_to(claim)
        except DatabaseUnavailable as error:  # what it spent is kept; the next attempt asks again
            return replace(result, outcome=Outcome.DEFERRED, error=error.sentence())
        return result if why is None else replace(result, outcome=Outcome.CANCELED, error=why)

    def _lost_to(self, claim: Claim) -> str | None:
        """Let a variant win that has passed its gates, and tell the others to stop; or say who was first."""
        if VARIANT not in review.role_of(claim):
            return None
        choice = self._context.store.transact(
            lambda tx: choose_variant(tx, claim.workspace_id, claim.task_id, claim.attempt)
        )
        self._context.stop(claim.workspace_id, claim.project_id, choice.canceled)
        return None if choice.won else choice.why

    def close(self) -> None:
        """Nothing runs any more."""
        if self._isolation is not None:
            self._isolation.close()
        self._reporting.close()
        self._folders.close()

    def _relieve(self, bundle: Batch) -> bool:
        """If the job that runs now is long: write the ends that wait for it, hand back what waits behind it."""
        found = bundle.relieved()
        if found is None:
            return False
        waiting, finished = found
        for held in waiting:
            result = AttemptEnd(
                Outcome.HANDED_BACK, error="a job before it in its bundle turned out to be long", began=False
            )
            finished.append((decide_end(held.claim, result, now=utc_now()), self._context.held.ending(held)))
        if finished:
            self._write(bundle, finished, go_on=False)
        return True

    def _write(
        self, bundle: Batch, ends: Sequence[tuple[EndedAttempt, list[Said]]], *, go_on: bool
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
            completed = ended.end.outcome is Outcome.COMPLETED and ended.task_id not in written.refused
            self._jobs.stored(ended.claim, held=completed)
            if ended.task_id in written.refused:
                log.info("late result refused: the task moved on", task=ended.key, attempt=ended.attempt)
        if written.effects is not None and written.next_work is not None:
            self._follow_up(bundle, written.effects, written.next_work)
        return written

    def _follow_up(self, bundle: Batch, effects: EndEffects, work: NextWork) -> None:
        """After a commit: enqueue, look again where a back-off ends, close runs that two last tasks left open."""
        context, place = self._context, bundle.place
        if effects.money_returned:
            context.nudge([(place.workspace_id, place.project_id)])  # others may have waited for the money
        context.publisher.publish(
            place.workspace_id,
            place.project,
            self._writing.fill(place, work.claims[0][0].kind) if work.unfilled else work.enqueue,
            bundle=lambda kind: context.kinds.bundle(place.project_id, kind),
        )
        for wait in effects.retry_in.values():
            self._housekeeper.look_again(place.workspace_id, place.project_id, after=wait)
        for run_id in effects.maybe_done_runs:
            self._close_if_done(place.workspace_id, run_id)

    def _close_if_done(self, workspace_id: str, run_id: str) -> None:
        """Close a run that only tasks in flight kept open, if they have ended. Mostly they have not: look first."""
        with self._context.store.read() as tx:
            still_open = tasks.open_states(tx, workspace_id, run_id, limit=1)
        if not still_open:
            self._context.store.transact(lambda tx: close_runs(tx, workspace_id, [run_id]))

    def _write_what_can_be(
        self, bundle: Batch, ends: Sequence[tuple[EndedAttempt, list[Said]]], error: CoordinationError
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
        end = (replace(failed, costs=ended.costs, recorded_costs=ended.recorded_costs), list[Said]())
        return self._writing.end(bundle.place, [end], go_on=False, refill=True)
