"""Heartbeats and the fence: one thread renews all leases of the process, another ends jobs whose lease runs out.

They are two threads because the renewing one may hang in the very outage that the fence exists for.
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
from workers.leases.in_flight import AttemptNote, InFlightAttempts, Said, UnwrittenUsage
from workers.leases.usage_meter import UsageMeter
from workers.runners.base import STOPPED, StopReason

log = structlog.get_logger()

_BATCH = 500
_NOTES_EVERY = 1.0
_PATIENCE = timedelta(seconds=2)  # with costs that cannot be written now: leases are renewed by the same thread


class Heartbeat:
    """Renews leases every ``terms.heartbeat``; stops jobs that were canceled or taken away; fences when cut off."""

    def __init__(self, store: Store, held: InFlightAttempts, row: dict[str, Any], *, terms: LeaseTerms) -> None:
        self._store = store
        self._held = held
        self._row = row
        self._worker_id: str = row["id"]
        self._terms = terms
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._last_beat = monotonic()
        self._doubtful: tuple[int, UnwrittenUsage] | None = None  # a commit whose answer was lost, and what it was of

    def start(self) -> None:
        """Start both threads."""
        for name, body in (("coord-heartbeat", self._renew_loop), ("coord-fence", self._fence_loop)):
            thread = threading.Thread(target=body, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End both threads; leases are not renewed any more."""
        self._ended.set()
        self._held.hurry.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def beat(self) -> None:
        """Renew everything once, and act on what the store says."""
        sent = monotonic()
        keys = sorted(self._held.keys())
        known: set[tuple[str, int]] = set()
        moved = self._held.take_moved()
        try:
            with self._store.write() as tx:
                self._renew(tx, keys, known)
                if still := sorted(known.intersection(moved)):
                    workers.note_progress(tx, still)
                self._be_alive(tx, sent)  # last: whoever rescues what a dead worker held locks attempts before its row
        except BaseException:
            self._held.moved_still(moved)
            raise
        for key in keys:
            if key in known:
                if not self._held.renewed(key, sent=sent, ttl=self._terms.ttl):
                    log.warning("the lease was renewed too late: ending the job", task=key[0], attempt=key[1])
                    self._held.stop(key, StopReason.LEASE_LOST)
            elif self._held.stop(key, StopReason.LEASE_LOST):
                log.warning("lease lost", task=key[0], attempt=key[1])
        self._last_beat = sent

    def _renew(self, tx: Connection, keys: Sequence[tuple[str, int]], known: set[tuple[str, int]]) -> None:
        """Renew these leases; those that are still ours are *known* then."""
        for start in range(0, len(keys), _BATCH):
            for renewal in workers.renew(tx, self._worker_id, keys[start : start + _BATCH], ttl=self._terms.ttl):
                key = (renewal.task_id, renewal.number)
                if renewal.attempt != renewal.number:
                    continue  # somebody else has the task: as good as taken away
                known.add(key)
                if renewal.state != TaskState.RUNNING:
                    # Canceled, perhaps retried since: the next attempt waits until this one is over.
                    self._held.stop(key, StopReason.CANCELED)
                elif renewal.stopped is not None:
                    self._held.stop(key, STOPPED[bool(renewal.stopped)])

    def _be_alive(self, tx: Connection, now: float) -> None:
        if not workers.beat(tx, self._worker_id, clock=utc_now()):
            workers.revive(tx, self._row)
            log.warning("this worker had been taken for dead; it goes on", silent_for=round(now - self._last_beat, 1))

    def write_notes(self) -> None:
        """Write what running attempts had to say since the last time: events, output, and their process groups."""
        if self._doubtful is not None and not self._settle_doubt(*self._doubtful):
            return
        found = self._held.unwritten()
        if not found:
            return
        try:
            self._write(found)
        except Exception as error:
            if isinstance(error, DatabaseUnavailable) or is_transient(error):
                raise
            # What one job says cannot be stored: the others' words must not wait for it.
            for one in found.apart():
                self._write_or_drop(one)
        finally:
            if self._doubtful is None:
                self._held.landed(found)

    def _write_or_drop(self, one: UnwrittenUsage) -> None:
        try:
            self._write(one)
        except Exception as error:
            if isinstance(error, DatabaseUnavailable) or is_transient(error):
                raise
            log.exception("what a job had to say cannot be stored")
            self._held.wrote(one)

    def _write(self, found: UnwrittenUsage) -> None:
        """Write this in one transaction, in the order of locks: output and events, tasks, attempts."""
        number, ends = 0, False
        try:
            with self._store.write() as tx:
                for workspace_id, said in found.by_workspace():
                    write_notes(tx, workspace_id, self._worker_id, said)
                for claim, more in found.left:
                    carried = {**claim.carried, **more}
                    tasks.carry_on(tx, claim.workspace_id, claim.task_id, claim.attempt, carried)
                for claim, process in found.processes:
                    attempts.note_process(
                        tx,
                        claim.workspace_id,
                        claim.task_id,
                        claim.attempt,
                        pgid=process.pgid,
                        pg_start=float(process.start_time),
                    )
                number, ends = workers.transaction(tx) if found.notes else 0, True
        except Exception:
            if ends and number:
                self._doubtful = (number, found)  # the commit may have happened: events must not be written twice
            raise
        self._held.wrote(found)

    def _settle_doubt(self, number: int, found: UnwrittenUsage) -> bool:
        """Learn whether a commit happened whose answer was lost; False while the server itself does not know."""
        with self._store.read() as tx:
            committed = workers.is_committed(tx, number)
        if committed is None:
            return False
        self._doubtful = None
        if committed:
            self._held.wrote(found)
        self._held.landed(found)
        return True

    def checkpoint(self, *, all_: bool) -> None:
        """Write what running jobs have spent: those with a budget, or *all_*. Who may not spend more is stopped."""
        by_workspace: dict[str, list[tuple[Claim, UsageMeter]]] = {}
        for claim, usage_meter in self._held.usage_meters(all_=all_):
            by_workspace.setdefault(claim.workspace_id, []).append((claim, usage_meter))
        for workspace_id, spending in by_workspace.items():
            due = [(claim, usage_meter, records) for claim, usage_meter in spending if (records := usage_meter.due())]
            try:
                self._pay(workspace_id, due)
            except DatabaseUnavailable:
                raise
            except Exception:
                if len(due) == 1:
                    raise
                # What one job tells cannot be stored: the others' money must not wait for it.
                for one in due:
                    self._safely("the costs of one job", partial(self._pay, workspace_id, [one]))

    def _pay(self, workspace_id: str, due: Sequence[tuple[Claim, UsageMeter, Sequence[CostRecord]]]) -> None:
        every = [one for _, _, records in due for one in records]
        if not every:
            return
        stops = self._store.transact(lambda tx: checkpoint_costs(tx, workspace_id, every), patience=_PATIENCE)
        for claim, usage_meter, records in due:
            key = (claim.task_id, claim.attempt)
            if (lack := stops.get(key)) is not None and usage_meter.ends_by(lack):
                usage_meter.stop(lack)  # first: who waits for what was written must not go on
                self._held.stop(key, StopReason.BUDGET)
            usage_meter.wrote(records)

    def _renew_loop(self) -> None:
        next_beat = monotonic()
        every = min(_NOTES_EVERY, self._terms.heartbeat.total_seconds())
        next_round = monotonic() + every
        while not self._ended.is_set():
            hurried = self._held.hurry.wait(max(next_round - monotonic(), 0))
            self._held.hurry.clear()
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
                # After a failure the next try comes soon: a lease has time for several.
                worked = self._safely("heartbeat", self.beat)
                next_beat = began + self._terms.heartbeat.total_seconds() if worked else next_round
            self._safely("costs", partial(self.checkpoint, all_=beats))

    def _fence_loop(self) -> None:
        pause = min(1.0, (self._terms.ttl - self._terms.fence_after).total_seconds() / 4)
        while not self._ended.wait(pause):
            for key in self._held.overdue(self._terms.fence_after):
                log.error("cannot renew the lease: ending the job before somebody else may claim it", task=key[0])
                self._held.stop(key, StopReason.LEASE_LOST)

    def _safely(self, what: str, act: Callable[[], None]) -> bool:
        """A bulkhead: whatever goes wrong in one round, the next one must come."""
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
    tx: Connection, workspace_id: str, worker_id: str, said: Sequence[tuple[Claim, Sequence[Said]]]
) -> None:
    """Write what attempts had to say; one that somebody has ended (a lost one) adds nothing to the story."""
    now = monotonic()
    printed = [
        (claim.task_id, claim.attempt, chunks)
        for claim, found in said
        if (chunks := [one for one in found if isinstance(one, StoredChunk)])
    ]
    if printed:
        output.write(tx, workspace_id, printed)
    told = [
        (claim, notes) for claim, found in said if (notes := [one for one in found if isinstance(one, AttemptNote)])
    ]
    if not told:
        return
    live = attempts.unfinished(tx, workspace_id, [(claim.task_id, claim.attempt) for claim, _ in told])
    events.append_aged(
        tx,
        workspace_id,
        [
            NewEvent.of_attempt(
                claim,
                note.type,
                actor=f"worker:{worker_id}",
                payload=note.payload,
                age=timedelta(seconds=now - note.at),
            )
            for claim, notes in told
            if (claim.task_id, claim.attempt) in live
            for note in notes
        ],
    )
