"""What a worker's threads write while jobs run: claims and ends, those that come together in one transaction."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import Claim
from coordination.flows.attempts.dispatch import DispatchTerms, NextWork, next_work
from coordination.flows.attempts.finish import finish
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.services.attempts.end import close_ended_runs
from coordination.services.attempts.end_effects import EndEffects
from coordination.services.tasks import dispatch_window
from coordination.store.queries.tasks.claims import still_enqueued
from coordination.store.queries.tasks.ready import ReadyTask
from workers.context import Context
from workers.engine.group_commit import GroupCommit
from workers.leases.heartbeat import write_notes
from workers.leases.in_flight import AttemptLocation, EventOrOutput

log = structlog.get_logger()

_REMEMBERED = 1000

Ends = Sequence[tuple[EndedAttempt, Sequence[EventOrOutput]]]


@dataclass(frozen=True, slots=True)
class _EndRequest:
    ends: Ends
    go_on: bool
    refill: bool


@dataclass(slots=True)
class CommitResult:
    """What a thread gets back. ``effects`` and ``next_work`` come to one of those that wrote together."""

    claims: list[Claim] = field(default_factory=list)
    sent: float = 0.0  # when the claims were asked for: their leases count from there
    effects: EndEffects | None = None
    next_work: NextWork | None = None
    refused: set[str] = field(default_factory=set)
    locked: list[str] = field(default_factory=list)  # what was asked for and could not be looked at


class Committer:
    """Claims and ends of this worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._claims: GroupCommit[tuple[str, Sequence[str]], CommitResult] = GroupCommit(
            self._claim_together, common=(DatabaseUnavailable,)
        )
        self._limited: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._ends: OrderedDict[AttemptLocation, GroupCommit[_EndRequest, CommitResult]] = OrderedDict()

    def claim(self, workspace_id: str, ids: Sequence[str]) -> CommitResult:
        """Claim those of *ids* that are still ready; ``locked`` says which of them may be, a moment later."""
        return self._claims.ask((workspace_id, ids))

    def end(self, place: AttemptLocation, ends: Ends, *, go_on: bool, refill: bool) -> CommitResult:
        """Write these ends, for as long as their leases live; return claims to go on with, if the thread would *go_on*.

        *refill*: the project's window has room since this thread took a message, or will, because it goes on no more.
        Raises DatabaseUnavailable when it took too long, and other errors when a result cannot be stored.
        """
        with self._lock:
            combiner = self._ends.get(place)
            if combiner is None:
                combiner = GroupCommit(partial(self._end_together, place), common=(DatabaseUnavailable,))
                self._ends[place] = combiner
                if len(self._ends) > _REMEMBERED:
                    self._ends.popitem(last=False)  # a thread that is inside keeps its own
            self._ends.move_to_end(place)
        return combiner.ask(_EndRequest(ends, go_on, refill))

    def fill(self, place: AttemptLocation, kind: str) -> list[ReadyTask]:
        """Fill the project's window after a commit that left it, mostly with tasks of *kind*; the caller rings.

        When this cannot, a tick does it.
        """
        context = self._context
        window = context.window()
        bundle = partial(context.kinds.bundle, place.project_id)

        def work(tx: Connection) -> list[ReadyTask]:
            scope = place.workspace_id, place.project_id
            return dispatch_window.fill_window(tx, *scope, window=window, bundle=bundle, expected=bundle(kind))

        try:
            return context.store.transact(work, patience=context.terms.ttl)
        except DatabaseUnavailable as error:
            log.warning("a project's window was not filled; the next tick does it", why=error.message)
            return []

    def _claim_together(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[CommitResult]:
        sent = monotonic()
        by_workspace: dict[str, list[str]] = {}
        for workspace_id, ids in asked:
            by_workspace.setdefault(workspace_id, []).extend(ids)

        def work(tx: Connection) -> list[CommitResult]:
            claims: dict[str, Claim] = {}
            for workspace_id, wanted in sorted(by_workspace.items()):
                claims |= {
                    claim.task_id: claim for claim in self._claimed(tx, workspace_id, list(dict.fromkeys(wanted)))
                }
            answers = []
            for workspace_id, ids in asked:
                mine = [claim for task_id in ids if (claim := claims.pop(task_id, None)) is not None]
                left = set(ids).difference(claim.task_id for claim in mine)
                locked = still_enqueued(tx, workspace_id, sorted(left))
                answers.append(CommitResult(mine, sent, locked=locked))
            return answers

        return self._context.store.transact(work)

    def _claimed(self, tx: Connection, workspace_id: str, ids: Sequence[str], *, wait: bool = True) -> list[Claim]:
        context = self._context
        claimed = claim_tasks(
            tx,
            workspace_id,
            ids,
            worker_id=context.worker_id,
            lease=context.terms.ttl,
            estimator=context.prices.estimator,
            limited=self._limited.get(workspace_id, False),
            wait=wait,
        )
        if claimed:  # the next ones are probably like these
            self._limited[workspace_id] = all(one.budgeted or one.slots for one in claimed)
        return claimed

    def _end_together(self, place: AttemptLocation, requests: Sequence[_EndRequest]) -> list[CommitResult]:
        context = self._context
        window = context.window()  # may look into the store itself
        sent = monotonic()
        effects, work = context.store.transact(
            lambda tx: self._end(tx, place, requests, window), patience=context.terms.ttl
        )
        known = effects.moved_tasks | effects.already_recorded
        shares = list(work.claims)
        answers = [
            CommitResult(
                shares.pop() if request.go_on and shares else [],
                sent,
                refused={ended.task_id for ended, _ in request.ends} - known,
            )
            for request in requests
        ]
        answers[0].effects, answers[0].next_work = effects, work
        return answers

    def _end(
        self, tx: Connection, place: AttemptLocation, requests: Sequence[_EndRequest], window: int
    ) -> tuple[EndEffects, NextWork]:
        context = self._context
        scope = place.workspace_id, place.project_id
        ends = [end for request in requests for end in request.ends]
        self._write_notes(tx, place.workspace_id, ends)
        effects = finish(
            tx,
            *scope,
            [ended for ended, _ in ends],
            actor=f"worker:{context.worker_id}",
            deferral_limit=context.settings.deferral_limit,
        )
        terms = DispatchTerms(
            window,
            partial(context.kinds.bundle, place.project_id),
            claim=lambda ids: self._claimed(tx, place.workspace_id, ids, wait=False),
            idle_threads=0 if context.draining.is_set() else sum(request.go_on for request in requests),
            refill=any(request.refill for request in requests),
            fill_later=context.store.dialect != "sqlite",  # which has one writer, and a commit more would only cost
        )
        work = next_work(tx, *scope, effects, terms)
        close_ended_runs(tx, place.workspace_id, effects, continuing=work.runs)
        return effects, work

    def _write_notes(self, tx: Connection, workspace_id: str, ends: Ends) -> None:
        """Write the notes of these attempts, as far as nobody has ended them."""
        if any(notes for _, notes in ends):
            write_notes(
                tx,
                workspace_id,
                self._context.worker_id,
                [(ended.claim, notes) for ended, notes in ends if notes],
            )
