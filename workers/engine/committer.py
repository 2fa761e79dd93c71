"""Writes the claims and ends of a worker's threads; concurrent requests share one transaction."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import structlog
from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.domain.tasks.attempts import Claim
from coordination.flows.attempts.finish import DispatchTerms, NextWork, finish, next_work
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.services.attempts.end import EndEffects, close_ended_runs
from coordination.services.tasks import dispatch_window
from coordination.store.queries.tasks.claims import still_enqueued
from coordination.store.queries.tasks.ready import ReadyTask
from workers.context import Context
from workers.engine.batch import WaitingEnd
from workers.leases.heartbeat import write_notes
from workers.leases.in_flight import AttemptLocation

log = structlog.get_logger()

_MOST_PROJECTS = 1000  # whose group commits are kept

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Pending(Generic[Request, Answer]):
    request: Request
    woken: threading.Lock = field(default_factory=threading.Lock)
    done: bool = False
    answer: Answer | None = None
    error: BaseException | None = None


class GroupCommit(Generic[Request, Answer]):
    """Group commit: threads that write at the same time share one transaction.

    The first thread becomes the leader. It carries out its own request with all waiting ones, then passes the lead to a
    thread that arrived meanwhile. A single thread has no overhead: no queue, no second thread.

    *carry_out* takes the waiting requests, at most *most*, and returns one answer for each.
    If it raises, each request of the group is carried out alone, so that only the thread at fault gets the error. An
    error of the types *common* goes to all threads of the group.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Request]], Sequence[Answer]],
        *,
        common: tuple[type[BaseException], ...] = (),
        most: int = 64,
    ) -> None:
        self._carry_out = carry_out
        self._common = common
        self._most = most
        self._lock = threading.Lock()
        self._queue: list[_Pending[Request, Answer]] = []
        self._has_leader = False

    def submit(self, request: Request) -> Answer:
        """Carry out *request*, alone or in a group, and return its answer. Raises what *carry_out* raises."""
        mine: _Pending[Request, Answer] = _Pending(request)
        with self._lock:
            self._queue.append(mine)
            leads, self._has_leader = not self._has_leader, True
            if not leads:
                mine.woken.acquire()
        if not leads:
            mine.woken.acquire()  # until it is done, or this thread has the lead
        if not mine.done:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answer  # type: ignore[return-value]

    def _lead(self, mine: _Pending[Request, Answer]) -> None:
        with self._lock:
            self._queue.remove(mine)
            group = [mine, *self._queue[: self._most - 1]]
            del self._queue[: self._most - 1]
        try:
            self._answer(group)
        finally:
            with self._lock:
                successor = self._queue[0] if self._queue else None
                self._has_leader = successor is not None
            if successor is not None:
                successor.woken.release()
            for waiting in group:
                waiting.done = True
                if waiting is not mine:
                    waiting.woken.release()

    def _answer(self, group: Sequence[_Pending[Request, Answer]]) -> None:
        try:
            answers = self._carry_out([waiting.request for waiting in group])
            for waiting, answer in zip(group, answers, strict=True):
                waiting.answer = answer
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            if len(group) == 1 or isinstance(error, self._common):
                for waiting in group:
                    waiting.error = error
                return
            for waiting in group:
                self._answer([waiting])


@dataclass(frozen=True, slots=True)
class _EndRequest:
    ends: Sequence[WaitingEnd]
    go_on: bool
    refill: bool


@dataclass(slots=True)
class CommitResult:
    """The result for one thread. Only one thread of a shared transaction gets ``effects`` and ``next_work``."""

    claims: list[Claim] = field(default_factory=list)
    sent: float = 0.0  # when the claims were requested: their leases start then
    effects: EndEffects | None = None
    next_work: NextWork | None = None
    refused: set[str] = field(default_factory=set)
    locked: list[str] = field(default_factory=list)  # requested tasks that another transaction had locked


class Committer:
    """Writes for all threads of a worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._claims: GroupCommit[tuple[str, Sequence[str]], CommitResult] = GroupCommit(
            self._claim_together, common=(DatabaseUnavailable,)
        )
        self._limited: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._ends: OrderedDict[AttemptLocation, GroupCommit[_EndRequest, CommitResult]] = OrderedDict()

    def claim(self, workspace_id: str, ids: Sequence[str]) -> CommitResult:
        """Claim those of *ids* that are ready. ``locked`` has those to try again a moment later."""
        return self._claims.submit((workspace_id, ids))

    def end(self, place: AttemptLocation, ends: Sequence[WaitingEnd], *, go_on: bool, refill: bool) -> CommitResult:
        """Write these ends; return claims for the thread to run next, if it would *go_on*.

        *refill*: the project's window has room, because the thread took a message or is about to stop. Retries until
        the leases expire, then raises DatabaseUnavailable. Raises other errors when a result cannot be stored.
        """
        with self._lock:
            group_commit = self._ends.get(place)
            if group_commit is None:
                group_commit = GroupCommit(partial(self._end_together, place), common=(DatabaseUnavailable,))
                self._ends[place] = group_commit
                if len(self._ends) > _MOST_PROJECTS:
                    self._ends.popitem(last=False)  # threads that use it keep their reference
            self._ends.move_to_end(place)
        return group_commit.submit(_EndRequest(ends, go_on, refill))

    def fill(self, place: AttemptLocation, kind: str) -> list[ReadyTask]:
        """Fill the project's window after a commit that did not, mostly with tasks of *kind*; the caller enqueues them.

        If the database is unavailable, the next tick does it.
        """
        context = self._context
        window = context.window()
        batch_size = partial(context.duration_stats.bundle, place.project_id)

        def work(tx: Connection) -> list[ReadyTask]:
            scope = place.workspace_id, place.project_id
            return dispatch_window.fill_window(tx, *scope, window=window, bundle=batch_size, expected=batch_size(kind))

        try:
            return context.store.transact(work, patience=context.terms.ttl)
        except DatabaseUnavailable as error:
            log.warning("a project's window was not filled; the next tick does it", why=error.message)
            return []

    def _claim_together(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[CommitResult]:
        sent = monotonic()
        by_workspace: dict[str, list[str]] = {}
        for workspace_id, ids in requests:
            by_workspace.setdefault(workspace_id, []).extend(ids)

        def work(tx: Connection) -> list[CommitResult]:
            claims: dict[str, Claim] = {}
            for workspace_id, task_ids in sorted(by_workspace.items()):
                claimed = self._claim(tx, workspace_id, list(dict.fromkeys(task_ids)))
                claims |= {claim.task_id: claim for claim in claimed}
            answers = []
            for workspace_id, ids in requests:
                mine = [claim for task_id in ids if (claim := claims.pop(task_id, None)) is not None]
                not_claimed = set(ids).difference(claim.task_id for claim in mine)
                locked = still_enqueued(tx, workspace_id, sorted(not_claimed))
                answers.append(CommitResult(mine, sent, locked=locked))
            return answers

        return self._context.store.transact(work)

    def _claim(self, tx: Connection, workspace_id: str, ids: Sequence[str], *, wait: bool = True) -> list[Claim]:
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
        if claimed:  # the next claims are probably alike
            self._limited[workspace_id] = all(one.budgeted or one.slots for one in claimed)
        return claimed

    def _end_together(self, place: AttemptLocation, requests: Sequence[_EndRequest]) -> list[CommitResult]:
        context = self._context
        window = context.window()  # may read the store
        sent = monotonic()
        effects, work = context.store.transact(
            lambda tx: self._end(tx, place, requests, window), patience=context.terms.ttl
        )
        accepted = effects.moved_tasks | effects.already_recorded
        next_claims = list(work.claims)
        answers = [
            CommitResult(
                next_claims.pop() if request.go_on and next_claims else [],
                sent,
                refused={ended.task_id for ended, _ in request.ends} - accepted,
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
        if noted := [(ended.claim, notes) for ended, notes in ends if notes]:
            write_notes(tx, place.workspace_id, context.worker_id, noted)
        attempts, limit = [ended for ended, _ in ends], context.settings.deferral_limit
        effects = finish(tx, *scope, attempts, actor=f"worker:{context.worker_id}", deferral_limit=limit)
        terms = DispatchTerms(
            window,
            partial(context.duration_stats.bundle, place.project_id),
            claim=lambda ids: self._claim(tx, place.workspace_id, ids, wait=False),
            idle_threads=0 if context.draining.is_set() else sum(request.go_on for request in requests),
            refill=any(request.refill for request in requests),
            fill_later=context.store.dialect != "sqlite",  # SQLite has one writer: another commit would only cost time
        )
        work = next_work(tx, *scope, effects, terms)
        close_ended_runs(tx, place.workspace_id, effects, continuing=work.runs)
        return effects, work
