"""Heartbeats and the fence: one thread renews all leases of the process, another stops jobs whose lease runs out.

The fence has a thread of its own because the renewing thread may hang in the outage that the fence protects from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection

from coordination.base.clock import monotonic, utc_now
from coordination.base.errors import DatabaseUnavailable
from coordination.domain.fleet.leases import LeaseTerms
from coordination.domain.jobs.output import StoredChunk
from coordination.domain.money.costs import CostRecord
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import NewEvent
from coordination.domain.tasks.tasks import TaskState
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.store.engine import Store, is_transient
from coordination.store.queries.fleet import workers
from coordination.store.queries.jobs import output
from coordination.store.queries.tasks import attempts, events, tasks
from workers.leases.in_flight import EventOrOutput, InFlightAttempts, PendingEvent, UnwrittenData
from workers.leases.usage_meter import UsageMeter
from workers.runners.base import STOPPED, StopReason

log = structlog.get_logger()

_BATCH = 500
_NOTES_EVERY = 1.0
_PATIENCE = timedelta(seconds=2)  # short, because the same thread renews the leases


class Heartbeat:
    """Renews leases every ``terms.heartbeat``. Stops jobs that are canceled or whose lease is lost."""

    def __init__(self, store: Store, in_flight: InFlightAttempts, row: dict[str, Any], *, terms: LeaseTerms) -> None:
        self._store = store
        self._in_flight = in_flight
        self._row = row
        self._worker_id: str = row["id"]
        self._terms = terms
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._last_beat = monotonic()
        # A transaction whose commit was not confirmed.
        self._unconfirmed: tuple[int, Sequence[UnwrittenData]] | None = None

    def start(self) -> None:
        for name, body in (("coord-heartbeat", self._renew_loop), ("coord-fence", self._fence_loop)):
            thread = threading.Thread(target=body, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End both threads. Leases are no longer renewed."""
        self._ended.set()
        self._in_flight.hurry.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def beat(self) -> None:
        """Renew all leases once, and stop the jobs of those that are canceled or lost."""
        sent = monotonic()
        keys = sorted(self._in_flight.keys())
        renewed: set[tuple[str, int]] = set()
        progressed = self._in_flight.take_progress()
        try:
            with self._store.write() as tx:
                self._renew(tx, keys, renewed)
                if active := sorted(renewed.intersection(progressed)):
                    workers.note_progress(tx, active)
                self._update_worker(tx, sent)  # last: a rescue locks a worker's attempts before its row
        except BaseException:
            self._in_flight.restore_progress(progressed)
            raise
        for key in keys:
            if key in renewed:
                if not self._in_flight.record_renewal(key, sent=sent, ttl=self._terms.ttl):
                    log.warning("the lease was renewed too late: ending the job", task=key[0], attempt=key[1])
                    self._in_flight.stop(key, StopReason.LEASE_LOST)
            elif self._in_flight.stop(key, StopReason.LEASE_LOST):
                log.warning("lease lost", task=key[0], attempt=key[1])
        self._last_beat = sent

    def _renew(self, tx: Connection, keys: Sequence[tuple[str, int]], renewed: set[tuple[str, int]]) -> None:
        """Renew these leases, and add those that still belong to this worker to *renewed*."""
        for start in range(0, len(keys), _BATCH):
            for renewal in workers.renew(tx, self._worker_id, keys[start : start + _BATCH], ttl=self._terms.ttl):
                key = (renewal.task_id, renewal.number)
                if renewal.attempt != renewal.number:
                    continue  # another worker runs the task: the lease is lost
                renewed.add(key)
                if renewal.state != TaskState.RUNNING:
                    # Canceled, and perhaps retried since: the next attempt waits until this one has ended.
                    self._in_flight.stop(key, StopReason.CANCELED)
                elif renewal.stopped is not None:
                    self._in_flight.stop(key, STOPPED[bool(renewal.stopped)])

    def _update_worker(self, tx: Connection, now: float) -> None:
        if not workers.beat(tx, self._worker_id, clock=utc_now()):
            workers.revive(tx, self._row)
            log.warning("this worker was considered dead; it continues", silent_for=round(now - self._last_beat, 1))

    def write_notes(self) -> None:
        """Write new events, output, carried data and process groups of running attempts."""
        if self._unconfirmed is not None and not self._resolve_commit(*self._unconfirmed):
            return
        batch = self._in_flight.collect_unwritten()
        if not batch:
            return
        try:
            self._write_or_drop(batch)
        finally:
            if self._unconfirmed is None:
                self._in_flight.finish_write(batch)

    def _write_or_drop(self, batch: Sequence[UnwrittenData]) -> None:
        try:
            self._write(batch)
        except Exception as error:
            if isinstance(error, DatabaseUnavailable) or is_transient(error):
                raise
            if len(batch) == 1:
                log.exception("the events or output of a job cannot be stored")
                self._in_flight.mark_written(batch)
                return
            for data in batch:  # the store refuses the data of one attempt: write the others without it
                self._write_or_drop([data])

    def _write(self, batch: Sequence[UnwrittenData]) -> None:
        """Write *batch* in one transaction, in the order of locks: output and events, tasks, attempts."""
        number, ends = 0, False
        by_workspace: dict[str, list[tuple[Claim, Sequence[EventOrOutput]]]] = {}
        written = [(data.attempt.claim, data) for data in batch]
        for claim, data in written:
            if data.notes:
                by_workspace.setdefault(claim.workspace_id, []).append((claim, data.notes))
        try:
            with self._store.write() as tx:
                for workspace_id, notes in sorted(by_workspace.items()):
                    write_notes(tx, workspace_id, self._worker_id, notes)
                for claim, data in written:
                    if data.carry is not None:
                        carried = {**claim.carried_over, **data.carry}
                        tasks.set_carried_by_attempt(tx, claim.workspace_id, *data.attempt.fence, carried)
                for claim, data in written:
                    if (process := data.process) is not None:
                        owner, start = (claim.workspace_id, *data.attempt.fence), float(process.start_time)
                        attempts.record_process(tx, *owner, pgid=process.pgid, pg_start=start)
                number, ends = workers.transaction_id(tx) if by_workspace else 0, True
        except Exception:
            if ends and number:
                self._unconfirmed = (number, batch)  # perhaps committed: events must not be written twice
            raise
        self._in_flight.mark_written(batch)

    def _resolve_commit(self, number: int, batch: Sequence[UnwrittenData]) -> bool:
        """Find out whether an unconfirmed commit happened. Return False while the server cannot tell yet."""
        with self._store.read() as tx:
            committed = workers.is_committed(tx, number)
        if committed is None:
            return False
        self._unconfirmed = None
        if committed:
            self._in_flight.mark_written(batch)
        self._in_flight.finish_write(batch)
        return True

    def checkpoint(self, *, all_: bool) -> None:
        """Write the costs of running jobs: those with a budget, or *all_*. Stop jobs whose budget is exhausted."""
        by_workspace: dict[str, list[tuple[Claim, UsageMeter]]] = {}
        for claim, usage_meter in self._in_flight.usage_meters(all_=all_):
            by_workspace.setdefault(claim.workspace_id, []).append((claim, usage_meter))
        for workspace_id, spending in by_workspace.items():
            due = [(claim, usage_meter, records) for claim, usage_meter in spending if (records := usage_meter.due())]
            try:
                self._record_costs(workspace_id, due)
            except DatabaseUnavailable:
                raise
            except Exception:
                if len(due) == 1:
                    raise
                # The store refuses the costs of one job: write the others without them.
                for item in due:
                    self._safely("the costs of one job", partial(self._record_costs, workspace_id, [item]))

    def _record_costs(self, workspace_id: str, due: Sequence[tuple[Claim, UsageMeter, Sequence[CostRecord]]]) -> None:
        all_records = [record for _, _, records in due for record in records]
        if not all_records:
            return
        stops = self._store.transact(lambda tx: checkpoint_costs(tx, workspace_id, all_records), patience=_PATIENCE)
        for claim, usage_meter, records in due:
            key = (claim.task_id, claim.attempt)
            if (shortage := stops.get(key)) is not None and usage_meter.must_stop_for(shortage):
                usage_meter.set_shortage(shortage)  # first: a job that waits for its costs to be written must not go on
                self._in_flight.stop(key, StopReason.BUDGET)
            usage_meter.mark_written(records)

    def _renew_loop(self) -> None:
        next_beat = monotonic()
        every = min(_NOTES_EVERY, self._terms.heartbeat.total_seconds())
        next_round = monotonic() + every
        while not self._ended.is_set():
            hurried = self._in_flight.hurry.wait(max(next_round - monotonic(), 0))
            self._in_flight.hurry.clear()
            if self._ended.is_set():
                return
            if hurried and monotonic() < next_round:
                self._safely("costs", partial(self.checkpoint, all_=False))
                continue
            began = monotonic()
            next_round = began + every
            self._safely("notes", self.write_notes)
            beats = monotonic() >= next_beat
            if beats:
                # Retry soon after a failure: there is time for several retries before a lease expires.
                succeeded = self._safely("heartbeat", self.beat)
                next_beat = began + self._terms.heartbeat.total_seconds() if succeeded else next_round
            self._safely("costs", partial(self.checkpoint, all_=beats))

    def _fence_loop(self) -> None:
        pause = min(1.0, (self._terms.ttl - self._terms.fence_after).total_seconds() / 4)
        while not self._ended.wait(pause):
            for key in self._in_flight.overdue(self._terms.fence_after):
                log.error("cannot renew the lease: stopping the job before another worker may claim it", task=key[0])
                self._in_flight.stop(key, StopReason.LEASE_LOST)

    def _safely(self, what: str, act: Callable[[], None]) -> bool:
        """Call *act* and log its errors, so that the loop continues. Return whether it succeeded."""
        try:
            act()
        except DatabaseUnavailable as error:
            log.warning("a round failed", what=what, why=error.message)
            return False
        except Exception:
            log.exception("a round failed", what=what)
            return False
        return True


def write_notes(
    tx: Connection, workspace_id: str, worker_id: str, notes: Sequence[tuple[Claim, Sequence[EventOrOutput]]]
) -> None:
    """Write events and output of attempts. Attempts that have been ended elsewhere get no more events."""
    now = monotonic()
    printed = [
        (claim.task_id, claim.attempt, chunks)
        for claim, items in notes
        if (chunks := [item for item in items if isinstance(item, StoredChunk)])
    ]
    if printed:
        output.write(tx, workspace_id, printed)
    pending = [(claim, item) for claim, items in notes for item in items if isinstance(item, PendingEvent)]
    if not pending:
        return
    keys = dict.fromkeys((claim.task_id, claim.attempt) for claim, _ in pending)
    live = attempts.unfinished(tx, workspace_id, list(keys))
    actor = f"worker:{worker_id}"
    aged = [
        NewEvent.of_attempt(
            claim, event.type, actor=actor, payload=event.payload, age=timedelta(seconds=now - event.at)
        )
        for claim, event in pending
        if (claim.task_id, claim.attempt) in live
    ]
    events.append_aged(tx, workspace_id, aged)
