"""Claim tasks for a worker: raise the fence, ask the holds, open attempts with a lease, hand over inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.services.forecast.cost_estimates import expected
from coordination.services.holds import AT_CLAIM, CONDITIONS
from coordination.services.holds.base import ClaimRequest, Decision, Hold
from coordination.services.money.budgets import Estimator
from coordination.store.queries.tasks import claims, events, ready
from coordination.store.queries.tasks.claims import Candidate


def claim_tasks(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    *,
    worker_id: str,
    lease: timedelta,
    limit: int | None = None,
    estimator: Estimator = expected,
    limited: bool = False,
    wait: bool = True,
) -> list[Claim]:
    """Those of *ids* that this worker now holds, best first; others may have been faster.

    Tasks that a hold keeps from starting become blocked, or stay queued and wait in SQL again. *estimator* says what a
    task is expected to cost. *limited*: the caller thinks that holds have to be asked about all of them, which is done
    first then. Without *wait*, for a transaction that has locked more already, those are left of which a hold cannot
    decide without waiting for somebody else's lock.
    """
    claimed: list[Claim] = []
    if not limited:
        claimed = claims.claim_free(
            tx, workspace_id, ids, held_if=CONDITIONS, worker_id=worker_id, lease=lease, limit=limit
        )
    if len(claimed) == (len(ids) if limit is None else min(limit, len(ids))):
        return claimed
    # Somebody was faster, or something may hold them.
    mine = {claim.task_id for claim in claimed}
    rest = [task_id for task_id in ids if task_id not in mine]
    rows = claims.lock_candidates(tx, workspace_id, rest, held_if=CONDITIONS)
    if not rows:
        return claimed
    request = ClaimRequest(tx, workspace_id, estimator, wait)
    chosen = _chosen(request, rows, None if limit is None else limit - len(claimed))
    if not chosen.uses:
        return claimed
    return claimed + _claimed(request, chosen, worker_id=worker_id, lease=lease)


@dataclass(slots=True)
class _Chosen:
    """The tasks that may be claimed, with what each uses up; and what the holds that were asked have said."""

    uses: dict[str, dict[str, Any]] = field(default_factory=dict)
    decisions: list[tuple[Hold, Decision]] = field(default_factory=list)


def _chosen(request: ClaimRequest, rows: Sequence[Candidate], limit: int | None) -> _Chosen:
    """Ask one hold after the other; what one of them keeps from starting the next ones are not asked about."""
    chosen, left = _Chosen(), list(rows)
    for number, hold in enumerate(AT_CLAIM):
        if hold.uses_up:
            left = _cut(request, left, limit)
        concerned = [row for row in left if row.conditions[number]]
        if not concerned:
            continue
        decision = hold.decide(request, concerned)
        chosen.decisions.append((hold, decision))
        _keep_back(request, hold, concerned, decision)
        left = [row for row in left if row.id not in decision.stopped]
    left = _cut(request, left, limit)
    chosen.uses = {row.id: {} for row in left}
    for _, decision in chosen.decisions:
        for task_id in chosen.uses.keys() & decision.uses.keys():
            chosen.uses[task_id].update(decision.uses[task_id])
    return chosen


def _cut(request: ClaimRequest, rows: list[Candidate], limit: int | None) -> list[Candidate]:
    """The best of *rows*, as many as are wanted; the others wait in SQL again."""
    if limit is None or len(rows) <= limit:
        return rows
    ready.unmark_enqueued(request.tx, request.workspace_id, [row.id for row in rows[limit:]])
    return rows[:limit]


def _keep_back(request: ClaimRequest, hold: Hold, rows: Sequence[Candidate], decision: Decision) -> None:
    """Write what a hold has decided about tasks that do not start."""
    tx, workspace_id = request.tx, request.workspace_id
    if decision.requeued:
        ready.unmark_enqueued(tx, workspace_id, list(decision.requeued))
    if not decision.held:
        return
    projects = {row.id: row.project_id for row in rows}
    subjects = {task_id: held.subject or projects[task_id] for task_id, held in decision.held.items()}
    for until in {held.until for held in decision.held.values()}:
        ids = [task_id for task_id, held in decision.held.items() if held.until == until]
        ready.hold_back(tx, workspace_id, ids, hold.reason, subjects, until=until)
    blocked = []
    for row in rows:
        if (held := decision.held.get(row.id)) is not None:
            payload = {"reasons": hold.reason.names()} | ({} if held.why is None else {"why": held.why})
            blocked.append(NewEvent.of_task(row, EventType.BLOCKED, payload=payload))
    events.append(tx, workspace_id, blocked)


def _claimed(request: ClaimRequest, chosen: _Chosen, *, worker_id: str, lease: timedelta) -> list[Claim]:
    """Claim what was chosen, as the holds have changed it."""
    tx, workspace_id = request.tx, request.workspace_id
    found = []
    for claim in claims.claim_chosen(tx, workspace_id, chosen.uses, worker_id=worker_id, lease=lease):
        changes: dict[str, Any] = {}
        for _, decision in chosen.decisions:
            changes.update(decision.changes.get(claim.task_id, {}))
        found.append(replace(claim, **changes) if changes else claim)
    for hold, decision in chosen.decisions:
        hold.record(request, found)
        events.append(
            tx,
            workspace_id,
            [
                NewEvent.of_attempt(claim, decision.events[claim.task_id][0], payload=decision.events[claim.task_id][1])
                for claim in found
                if claim.task_id in decision.events
            ],
        )
    return found
