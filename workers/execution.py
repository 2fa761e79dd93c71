"""Works off what a doorbell named: claim, run, finish, go on with what that released.

No transaction is open while a job runs. Short jobs share claims and commits (see bundles); a thread goes on with short
jobs that its own commit released, for a moment, before it takes the next message: other projects wait there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from coordination.clock import monotonic, utc_now
from coordination.domain import templates
from coordination.domain.attempts import Claim, Outcome, Result
from coordination.domain.events import EventType
from coordination.errors import CoordinationError, DatabaseUnavailable, Refused
from coordination.flows.claim_tasks import claim_tasks
from coordination.flows.close_runs import close_runs
from coordination.flows.finish_attempts import Finish, Finished, decided, finish_attempts
from coordination.store.queries import events, ready, tasks
from coordination.store.queries.ready import Ready
from workers.bundles import Bundle, BundleWatch
from workers.context import Context
from workers.held import Held, Note
from workers.housekeeping import Housekeeper
from workers.runners.base import Control, ProcessRecord
from workers.runners.registry import Runners

log = structlog.get_logger()

COMMIT_EVERY = timedelta(milliseconds=50)
"""How long the ends of short jobs may wait for a shared commit: what a crash repeats at most."""

GO_ON_FOR = timedelta(milliseconds=250)
"""How long a thread goes on with what it released before it looks at the queue again."""

_Ends = list[tuple[Finish, list[Note]]]


class Execution:
    """Runs claimed tasks in the calling thread; one instance serves all threads of the process."""

    def __init__(self, context: Context, runners: Runners, housekeeper: Housekeeper) -> None:
        self._context = context
        self._runners = runners
        self._housekeeper = housekeeper
        self.watch = BundleWatch(self._relieve)

    def work_off(self, workspace_id: str, ids: Sequence[str]) -> None:
        """Claim those of *ids* that are still ready and run them one after the other."""
        context = self._context
        if context.draining.is_set():
            with context.store.write() as tx:  # whoever looks next rings again at once
                ready.unmark_rung(tx, workspace_id, list(ids))
            return
        sent = began = monotonic()
        claims = context.store.transact(lambda tx: self._claim(tx, workspace_id, ids))
        while claims:
            bundle = Bundle([context.held.add(claim, sent=sent) for claim in claims])
            sent = monotonic()  # before the commit that may claim the next ones
            claims = self._work(bundle, go_on_until=began + GO_ON_FOR.total_seconds())

    def _claim(self, tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[Claim]:
        return claim_tasks(tx, workspace_id, ids, worker_id=self._context.worker_id, lease=self._context.terms.ttl)

    def _work(self, bundle: Bundle, *, go_on_until: float) -> list[Claim]:
        """Run a bundle to its end; claims to go on with, if its last commit released short jobs."""
        claims: list[Claim] = []
        running: Claim | None = None
        self.watch.add(bundle)
        try:
            while (held := bundle.take()) is not None:
                running = held.claim
                started = monotonic()
                result = self._result(held)
                took = timedelta(seconds=monotonic() - started)
                self._context.kinds.learn(bundle.project_id, running.kind, took)
                bundle.add(decided(running, result, now=utc_now()), self._context.held.ending(running))
                last = bundle.is_last()
                if last or bundle.due(COMMIT_EVERY):
                    ends, writing = bundle.take_finished(), monotonic()
                    claims = self._write(bundle, ends, go_on=last and writing < go_on_until) if ends else []
                    bundle.wrote(began=writing)
        except BaseException:
            # Whatever it was: what is not held any more is not renewed either, and its lease runs out.
            for claim in [*bundle.abandoned(), *([running] if running else [])]:
                self._context.held.drop(claim)
            raise
        finally:
            self.watch.remove(bundle)
        return claims

    def _relieve(self, bundle: Bundle) -> None:
        """The job that runs now is long: write the ends that wait for it, hand back what waits behind it."""
        waiting, finished = bundle.relieved()
        for held in waiting:
            result = Result(
                Outcome.HANDED_BACK, error="a job before it in its bundle turned out to be long", began=False
            )
            finished.append((decided(held.claim, result, now=utc_now()), self._context.held.ending(held.claim)))
        if finished:
            self._write(bundle, finished, go_on=False)

    def _result(self, held: Held) -> Result:
        if self._context.draining.is_set():
            return Result(Outcome.HANDED_BACK, error="the worker shut down before the job began", began=False)
        if held.gone is not None:
            return Result(held.gone.outcome, error="ended before the job began")
        return self._run(held)

    def _run(self, held: Held) -> Result:
        claim, context = held.claim, self._context
        try:
            claim = _rendered(claim)
            runner = self._runners.runner_for(claim.work)
        except Refused as error:
            return Result(Outcome.FAILED, error=error.sentence(), retryable=False)

        def started(process: ProcessRecord) -> None:
            held.process = process
            context.held.note(held, EventType.STARTED, {"pid": process.pid})

        def progressed() -> None:
            held.moved = True

        def noted(type_: EventType, payload: dict[str, Any]) -> None:
            held.moved = True
            context.held.note(held, type_, payload)

        with Control(
            scratch=context.scratch,
            cancel_grace=context.settings.cancel_grace,
            output_limit=context.settings.output_limit,
            on_started=started,
            on_progress=progressed,
            on_event=noted,
        ) as control:
            context.held.attach(held, control)
            try:
                return runner.run(claim, control)
            except Exception as error:
                # A bulkhead: a bug of a runner costs its attempt, not the worker.
                log.exception("the runner failed", task=claim.key, project=claim.project)
                return Result(Outcome.FAILED, error=f"the runner failed: {type(error).__name__}: {error}")

    def _write(self, bundle: Bundle, ends: _Ends, *, go_on: bool) -> list[Claim]:
        """Write these ends and ring for what they released; claims to go on with."""
        context = self._context
        written = self._write_ends(bundle, ends, go_on=go_on and not context.draining.is_set())
        for finish, _ in ends:
            context.held.drop(finish.claim)
        if written is None:
            return []
        finished, claims = written
        known = finished.ended.held | finished.ended.recorded_before
        for finish, _ in ends:
            if finish.claim.task_id not in known:
                log.info("late result refused: the task moved on", task=finish.claim.key, attempt=finish.claim.attempt)
        mine = {claim.task_id for claim in claims}
        context.doorbell.ring(
            bundle.workspace_id,
            bundle.project,
            [item for item in finished.ring if item.id not in mine],
            bundle=lambda kind: context.kinds.bundle(bundle.project_id, kind),
        )
        for wait in finished.retry_in.values():
            self._housekeeper.look_again(bundle.workspace_id, bundle.project_id, after=wait)
        for run_id in finished.ended.maybe_done_runs:
            self._close_if_done(bundle.workspace_id, run_id)
        return claims

    def _close_if_done(self, workspace_id: str, run_id: str) -> None:
        """Close a run that only tasks in flight kept open, if they have ended. Mostly they have not: look first."""
        with self._context.store.read() as tx:
            still_open = tasks.open_states(tx, workspace_id, run_id, limit=1)
        if not still_open:
            self._context.store.transact(lambda tx: close_runs(tx, workspace_id, [run_id]))

    def _write_ends(self, bundle: Bundle, ends: _Ends, *, go_on: bool) -> tuple[Finished, list[Claim]] | None:
        """Write the ends, for as long as their leases live; after that the tasks are somebody else's to end."""
        context = self._context
        window = context.window()
        try:
            return context.store.transact(
                lambda tx: self._end(tx, bundle, ends, window, go_on=go_on), patience=context.terms.ttl
            )
        except DatabaseUnavailable as error:
            log.error("ends could not be written; the jobs will run again", tasks=len(ends), why=error.message)  # noqa: TRY400
            return None
        except CoordinationError as error:
            return self._write_what_can_be(bundle, ends, error)

    def _write_what_can_be(
        self, bundle: Bundle, ends: _Ends, error: CoordinationError
    ) -> tuple[Finished, list[Claim]] | None:
        """A result cannot be stored. That is its job's fault: the others are written, and the task does not hang."""
        if len(ends) > 1:
            for each in ends:
                self._write(bundle, [each], go_on=False)
            return None
        claim = ends[0][0].claim
        refused = Result(Outcome.FAILED, error=f"its result cannot be stored: {error.message}", retryable=False)
        return self._write_ends(bundle, [(decided(claim, refused, now=utc_now()), [])], go_on=False)

    def _end(
        self, tx: Connection, bundle: Bundle, ends: _Ends, window: int, *, go_on: bool
    ) -> tuple[Finished, list[Claim]]:
        context = self._context
        self._write_notes(tx, bundle.workspace_id, ends)
        finished = finish_attempts(
            tx,
            bundle.workspace_id,
            bundle.project_id,
            [finish for finish, _ in ends],
            worker_id=context.worker_id,
            window=window,
            bundle=lambda kind: context.kinds.bundle(bundle.project_id, kind),
        )
        mine = self._to_go_on_with(bundle, finished.ring) if go_on else []
        return finished, self._claim(tx, bundle.workspace_id, mine) if mine else []

    def _to_go_on_with(self, bundle: Bundle, ring: Sequence[Ready]) -> list[str]:
        """The best of what is ready, when its kind is known to be short: as many as would share a message."""
        if not ring:
            return []
        size = self._context.kinds.bundle(bundle.project_id, ring[0].kind)
        if size == 1:
            return []
        return [item.id for item in ring[:size] if item.kind == ring[0].kind]

    def _write_notes(self, tx: Connection, workspace_id: str, ends: _Ends) -> None:
        now = monotonic()
        events.append_aged(
            tx,
            workspace_id,
            [
                {
                    "project_id": finish.claim.project_id,
                    "run_id": finish.claim.run_id,
                    "task_id": finish.claim.task_id,
                    "attempt": finish.claim.attempt,
                    "type": note.type,
                    "actor": f"worker:{self._context.worker_id}",
                    "payload": note.payload,
                    "age": timedelta(seconds=now - note.at),
                }
                for finish, notes in ends
                for note in notes
            ],
        )


def _rendered(claim: Claim) -> Claim:
    """The claim with outputs of earlier tasks filled into its job."""
    if not templates.is_templated(claim.work):
        return claim
    work = templates.render(
        claim.work,
        needs=claim.needs,
        context={
            "input": claim.input,
            "run": {"id": claim.run_id},
            "task": {"key": claim.key, "attempt": claim.attempt},
            "project": {"name": claim.project},
        },
    )
    return replace(claim, work=work)
