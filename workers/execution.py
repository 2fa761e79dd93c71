"""Works off what a doorbell named: claim, run, finish, ring for what that released. No transaction is open while a job runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog

from coordination.clock import monotonic, utc_now
from coordination.domain import templates
from coordination.domain.attempts import Claim, Outcome, Result
from coordination.domain.events import EventType
from coordination.errors import CoordinationError, DatabaseUnavailable, Refused
from coordination.flows.claim_tasks import claim_tasks
from coordination.flows.close_runs import close_runs
from coordination.flows.finish_attempts import Finish, Finished, decided, finish_attempts
from coordination.store.queries import events, ready
from workers.context import Context
from workers.held import Held, Note
from workers.housekeeping import Housekeeper
from workers.runners.base import Control, ProcessRecord
from workers.runners.registry import Runners

log = structlog.get_logger()


class Execution:
    """Runs claimed tasks in the calling thread; one instance serves all threads of the process."""

    def __init__(self, context: Context, runners: Runners, housekeeper: Housekeeper) -> None:
        self._context = context
        self._runners = runners
        self._housekeeper = housekeeper

    def work_off(self, workspace_id: str, ids: Sequence[str]) -> None:
        """Claim those of *ids* that are still ready and run them one after the other."""
        context = self._context
        if context.draining.is_set():
            self._leave_for_others(workspace_id, ids)
            return
        sent = monotonic()
        claims = context.store.transact(
            lambda tx: claim_tasks(
                tx, workspace_id, ids, worker_id=context.worker_id, lease=context.terms.ttl
            )
        )
        held = [context.held.add(claim, sent=sent) for claim in claims]
        for each in held:
            self._work(each)

    def _work(self, held: Held) -> None:
        claim = held.claim
        try:
            if self._context.draining.is_set():
                result = Result(Outcome.HANDED_BACK, error="the worker shut down before the job began")
            elif held.gone is not None:
                result = Result(held.gone.outcome, error="ended before the job began")
            else:
                result = self._run(held)
            self._finish(claim, result)
        finally:
            self._context.held.drop(claim)

    def _run(self, held: Held) -> Result:
        claim, context = held.claim, self._context
        try:
            ready_claim = _rendered(claim)
            runner = self._runners.runner_for(ready_claim.work)
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
            scratch=context.scratch / f"{claim.task_id}.{claim.attempt}",
            cancel_grace=context.settings.cancel_grace,
            output_limit=context.settings.output_limit,
            on_started=started,
            on_progress=progressed,
            on_event=noted,
        ) as control:
            context.held.attach(held, control)
            try:
                return runner.run(ready_claim, control)
            except Exception as error:
                # A bulkhead: a bug of a runner costs its attempt, not the worker.
                log.exception("the runner failed", task=claim.key, project=claim.project)
                return Result(Outcome.FAILED, error=f"the runner failed: {type(error).__name__}: {error}")

    def _finish(self, claim: Claim, result: Result) -> None:
        context = self._context
        finish = decided(claim, result, now=utc_now())
        notes = context.held.ending(claim)
        window = context.window()
        finished = self._write_end(finish, notes, window)
        if finished is None:
            return
        if claim.task_id not in finished.ended.held | finished.ended.recorded_before:
            log.info("late result refused: the task moved on", task=claim.key, attempt=claim.attempt)
        context.doorbell.ring(claim.workspace_id, claim.project, finished.ring)
        for wait in finished.retry_in.values():
            self._housekeeper.look_again(claim.workspace_id, claim.project_id, after=wait)
        if finished.ended.maybe_done_runs:
            context.store.transact(
                lambda tx: close_runs(tx, claim.workspace_id, finished.ended.maybe_done_runs)
            )

    def _write_end(self, finish: Finish, notes: Sequence[Note], window: int) -> Finished | None:
        """Write the end, for as long as the lease lives; after that the task is somebody else's to end."""
        claim, context = finish.claim, self._context
        try:
            return context.store.transact(
                lambda tx: self._end(tx, finish, notes, window), patience=context.terms.ttl
            )
        except DatabaseUnavailable as error:
            log.error("the end of a job could not be written; it will run again", task=claim.key, why=error.message)  # noqa: TRY400
            return None
        except CoordinationError as error:
            # The result itself cannot be stored. That is the job's fault, and must not leave the task running.
            refused = decided(
                claim, Result(Outcome.FAILED, error=f"its result cannot be stored: {error.message}"), now=utc_now()
            )
            return context.store.transact(
                lambda tx: self._end(tx, refused, notes, window), patience=context.terms.ttl
            )

    def _end(self, tx: Any, finish: Finish, notes: Sequence[Note], window: int) -> Finished:
        claim = finish.claim
        now = monotonic()
        events.append_aged(
            tx,
            claim.workspace_id,
            [
                {
                    "project_id": claim.project_id,
                    "run_id": claim.run_id,
                    "task_id": claim.task_id,
                    "attempt": claim.attempt,
                    "type": note.type,
                    "actor": f"worker:{self._context.worker_id}",
                    "payload": note.payload,
                    "age": timedelta(seconds=now - note.at),
                }
                for note in notes
            ],
        )
        return finish_attempts(
            tx,
            claim.workspace_id,
            claim.project_id,
            [finish],
            worker_id=self._context.worker_id,
            window=window,
        )

    def _leave_for_others(self, workspace_id: str, ids: Sequence[str]) -> None:
        """A message that reached a draining worker is rung again at once by whoever looks next."""
        with self._context.store.write() as tx:
            ready.unmark_rung(tx, workspace_id, list(ids))


def _rendered(claim: Claim) -> Claim:
    """The claim with outputs of earlier tasks filled into its job."""
    from dataclasses import replace

    work = templates.render(
        claim.work,
        needs=claim.needs,
        context={
            "input": claim.input,
            "run": {"id": claim.run_id},
            "task": {"key": claim.key, "id": claim.task_id, "attempt": claim.attempt},
            "project": {"name": claim.project},
        },
    )
    return replace(claim, work=work)


