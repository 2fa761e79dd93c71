"""What a worker's threads write while jobs run: claims and ends, those that come together in one transaction.

And what may run before the next of these writes: the piece of the graph that some claims lead to.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import Connection

from coordination.clock import monotonic
from coordination.domain.attempts import Claim
from coordination.errors import DatabaseUnavailable
from coordination.flows.claim_tasks import claim_tasks
from coordination.flows.finish_attempts import Finish, Finished, finish_attempts
from coordination.flows.record_stale import record_stale
from coordination.services import windows
from coordination.store.queries import lookahead
from coordination.store.queries.claims import still_rung
from coordination.store.queries.completions import LostGround
from coordination.store.queries.lookahead import Ahead
from coordination.store.queries.ready import Ready
from workers.combining import Combiner
from workers.context import Context
from workers.heartbeat import write_notes
from workers.held import Place, Said
from workers.kinds import MOMENT
from workers.piece import Piece

log = structlog.get_logger()

_REMEMBERED = 1000
_FEW = 16  # claims whose followers are looked up in the claims' own transaction
_NEAR = 128  # followers of those at most
_FAR = 2048  # followers of many
_WORTH = 8  # a look was worth it when at least one of so many followers can be run
_SHORT_BUNDLE = 8  # kinds of which so many share a message, or more, may run ahead

Ends = Sequence[tuple[Finish, Sequence[Said]]]


@dataclass(frozen=True, slots=True)
class Ending:
    """Ends to write; *go_on*: whether the thread would go on with short jobs that are ready then.

    *refill*: the project's window has room since this thread took a message, or will, because it goes on no more.
    *also*: a task that was run ahead and is to be claimed now.
    """

    ends: Ends
    go_on: bool
    refill: bool
    also: str | None = None


@dataclass(slots=True)
class Written:
    """What a thread gets back. ``ring`` and ``finished`` come to one of those that wrote together."""

    claims: list[Claim] = field(default_factory=list)
    ahead: list[Ahead] = field(default_factory=list)  # what they lead to
    sent: float = 0.0  # when the claims were asked for: their leases count from there
    finished: Finished | None = None
    refused: set[str] = field(default_factory=set)
    locked: list[str] = field(default_factory=list)  # what was asked for and could not be looked at


class Writing:
    """Claims and ends of this worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._claims: Combiner[tuple[str, Sequence[str]], Written] = Combiner(
            self._claim_together, common=(DatabaseUnavailable,)
        )
        self._limited: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._ends: OrderedDict[Place, Combiner[Ending, Written]] = OrderedDict()

    def claim(self, workspace_id: str, ids: Sequence[str]) -> Written:
        """Claim those of *ids* that are still ready; ``locked`` says which of them may be, a moment later."""
        return self._claims.ask((workspace_id, ids))

    def end(self, place: Place, asked: Ending) -> Written:
        """Write these ends, for as long as their leases live; claims to go on with come along, or that of ``also``.

        Raises DatabaseUnavailable when it took too long, and other errors when a result cannot be stored.
        """
        with self._lock:
            combiner = self._ends.get(place)
            if combiner is None:
                combiner = Combiner(lambda asked: self._end_together(place, asked), common=(DatabaseUnavailable,))
                self._ends[place] = combiner
                if len(self._ends) > _REMEMBERED:
                    self._ends.popitem(last=False)  # a thread that is inside keeps its own
            self._ends.move_to_end(place)
        return combiner.ask(asked)

    def fill(self, place: Place, kind: str) -> list[Ready]:
        """Fill the project's window after a commit that left it, mostly with tasks of *kind*; the caller rings.

        When this cannot, a tick does it.
        """
        context = self._context
        window = context.window()
        bundle = partial(context.kinds.bundle, place.project_id)

        def work(tx: Connection) -> list[Ready]:
            scope = place.workspace_id, place.project_id
            return windows.fill(tx, *scope, window=window, bundle=bundle, expected=bundle(kind))

        try:
            return context.store.transact(work, patience=context.terms.ttl)
        except DatabaseUnavailable as error:
            log.warning("a project's window was not filled; the next tick does it", why=error.message)
            return []

    def _claim_together(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[Written]:
        sent = monotonic()
        by_workspace: dict[str, list[str]] = {}
        for workspace_id, ids in asked:
            by_workspace.setdefault(workspace_id, []).extend(ids)

        def work(tx: Connection) -> list[Written]:
            claims: dict[str, Claim] = {}
            for workspace_id, wanted in by_workspace.items():
                claims |= {
                    claim.task_id: claim for claim in self._claimed(tx, workspace_id, list(dict.fromkeys(wanted)))
                }
            answers = []
            for workspace_id, ids in asked:
                mine = [claim for task_id in ids if (claim := claims.pop(task_id, None)) is not None]
                left = set(ids).difference(claim.task_id for claim in mine)
                locked = still_rung(tx, workspace_id, sorted(left))
                answers.append(Written(mine, self._ahead(tx, workspace_id, mine), sent, locked=locked))
            return answers

        return self._context.store.transact(work)

    def _claimed(self, tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[Claim]:
        context = self._context
        claimed = claim_tasks(
            tx,
            workspace_id,
            ids,
            worker_id=context.worker_id,
            lease=context.terms.ttl,
            estimator=context.prices.estimator,
            limited=self._limited.get(workspace_id, False),
        )
        if claimed:  # the next ones are probably like these
            self._limited[workspace_id] = all(one.budgeted or one.slots for one in claimed)
        return claimed

    def _ahead(self, tx: Connection, workspace_id: str, claims: Sequence[Claim]) -> list[Ahead]:
        """What a few very short tasks lead to."""
        if not 0 < len(claims) <= _FEW or not self._are_short(claims):
            return []
        return lookahead.ahead_of(tx, workspace_id, [claim.task_id for claim in claims], most=_NEAR)

    def _are_short(self, claims: Sequence[Claim]) -> bool:
        return all(self._seconds(claim.project_id, claim.kind) is not None for claim in claims)

    def _seconds(self, project_id: str, kind: str) -> float | None:
        """How long tasks of the kind take; None when they are too long to run before anything is written."""
        kinds = self._context.kinds
        return kinds.mean(project_id, kind) if kinds.bundle(project_id, kind) >= _SHORT_BUNDLE else None

    def piece(self, written: Written) -> Piece | None:
        """What may be run on the heels of these claims, before anything is written.

        Many claims may lead to a large part of the graph, or nowhere: that is looked up here, where nobody waits.
        """
        claims = written.claims
        project_id, kind = claims[0].project_id, claims[0].kind
        kinds = self._context.kinds
        if len(claims) <= _FEW:
            made = self._made(claims, written.ahead)
            if len(made) < _NEAR:
                return made or None
        elif not (self._are_short(claims) and kinds.worth_a_look(project_id, kind)):
            return None
        try:
            with self._context.store.read() as tx:
                ids = [claim.task_id for claim in claims]
                ahead = lookahead.ahead_of(tx, claims[0].workspace_id, ids, most=_FAR)
        except DatabaseUnavailable as error:
            log.debug("not looked ahead", why=error.message)
            return None
        made = self._made(claims, ahead)
        kinds.looked(project_id, kind, found=len(made) * _WORTH > len(ahead))
        return made or None

    def _made(self, claims: Sequence[Claim], ahead: Sequence[Ahead]) -> Piece:
        expected = partial(self._seconds, claims[0].project_id)
        return Piece(claims, ahead, expected=expected, most=MOMENT.total_seconds())

    def _end_together(self, place: Place, asked: Sequence[Ending]) -> list[Written]:
        context = self._context
        window = context.window()  # may look into the store itself
        # While a job is promoted it runs under the leases of what it needed, and nobody looks after it.
        patience = context.terms.fence_after / 4 if any(one.also for one in asked) else context.terms.ttl
        sent = monotonic()
        try:
            finished, answers = context.store.transact(
                lambda tx: self._end(tx, place, asked, window, counts=True), patience=patience
            )
        except LostGround:
            log.warning("what was run ahead does not count: something it needed was not held any more")
            finished, answers = context.store.transact(
                lambda tx: self._end(tx, place, asked, window, counts=False), patience=patience
            )
        known = finished.ended.held | finished.ended.recorded_before
        for one, answer in zip(asked, answers, strict=True):
            answer.sent = sent
            answer.refused = {end.claim.task_id for end, _ in one.ends} - known
        answers[0].finished = finished
        return answers

    def _end(
        self, tx: Connection, place: Place, asked: Sequence[Ending], window: int, *, counts: bool
    ) -> tuple[Finished, list[Written]]:
        """Write all that was asked; without *counts*, nothing of what ran ahead but what it spent."""
        context = self._context
        ends = [end for one in asked for end in one.ends]
        finishes = [finish for finish, _ in ends if counts or finish.ahead is None]
        self._write_notes(tx, place.workspace_id, [(finish, notes) for finish, notes in ends if finish.ahead is None])
        hungry = 0 if context.draining.is_set() else sum(one.go_on for one in asked)
        finished = finish_attempts(
            tx,
            place.workspace_id,
            place.project_id,
            finishes,
            worker_id=context.worker_id,
            window=window,
            bundle=lambda kind: context.kinds.bundle(place.project_id, kind),
            claim=lambda ids: self._claimed(tx, place.workspace_id, ids),
            hungry=hungry,
            refill=any(one.refill for one in asked),
            fill_later=context.store.dialect != "sqlite",  # which has one writer, and a commit more would only cost
        )
        if not counts:
            record_stale(tx, place.workspace_id, [cost for finish, _ in ends if finish.ahead for cost in finish.costs])
        promoted = [one.also for one in asked if one.also]
        claims = {one.task_id: one for one in self._claimed(tx, place.workspace_id, promoted)} if promoted else {}
        shares = list(finished.shares)
        answers = []
        for one in asked:
            if one.also:
                answers.append(Written([claims[one.also]] if one.also in claims else []))
            else:
                mine = shares.pop() if one.go_on and shares else []
                answers.append(Written(mine, self._ahead(tx, place.workspace_id, mine)))
        return finished, answers

    def _write_notes(self, tx: Connection, workspace_id: str, ends: Ends) -> None:
        """Write what these attempts had to say, as far as nobody has ended them."""
        if any(notes for _, notes in ends):
            write_notes(
                tx,
                workspace_id,
                self._context.worker_id,
                [(finish.claim, notes) for finish, notes in ends if notes],
            )
