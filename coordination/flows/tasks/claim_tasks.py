"""Claim tasks for a worker: increment the fence, evaluate the holds, open attempts with a lease, read the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.services.forecast.cost_estimates import unpriced_estimator
from coordination.services.holds import AT_CLAIM, CONDITIONS
from coordination.services.holds.base import ClaimRequest, Hold, HoldDecision
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
    estimator: Estimator = unpriced_estimator,
    limited: bool = False,
    wait: bool = True,
) -> list[Claim]:
    """Claim those of *ids* that are still ready, and return the claims, best first.

    Tasks that a hold keeps from starting become blocked, or stay queued to be enqueued again. *estimator* estimates the
    cost of a task. *limited*: holds probably apply to all of them, so skip the fast path without holds. Without *wait*
    (the transaction has locked other rows), tasks are skipped if a hold would have to wait for a lock.
    """
    claimed: list[Claim] = []
    if not limited:
        claimed = claims.claim_free(tx, workspace_id, ids, held_if=CONDITIONS, worker_id=worker_id, lease=lease)
    if len(claimed) == len(ids):
        return claimed
    # The others are claimed by another worker, or a hold may apply.
    claimed_ids = {claim.task_id for claim in claimed}
    rest = [task_id for task_id in ids if task_id not in claimed_ids]
    rows = claims.lock_candidates(tx, workspace_id, rest, held_if=CONDITIONS)
    if not rows:
        return claimed
    request = ClaimRequest(tx, workspace_id, estimator, wait)
    selection = _select(request, rows)
    if not selection.uses:
        return claimed
    return claimed + _claim_selected(request, selection, worker_id=worker_id, lease=lease)


@dataclass(slots=True)
class _Selection:
    """The tasks to claim with the resources that each uses, and the decisions of the holds."""

    uses: dict[str, dict[str, Any]] = field(default_factory=dict)
    decisions: list[tuple[Hold, HoldDecision]] = field(default_factory=list)


def _select(request: ClaimRequest, rows: Sequence[Candidate]) -> _Selection:
    """Evaluate the holds in order; a task that one of them stops is not passed to the next ones."""
    selection, remaining = _Selection(), list(rows)
    for number, hold in enumerate(AT_CLAIM):
        concerned = [row for row in remaining if row.conditions[number]]
        if not concerned:
            continue
        decision = hold.decide(request, concerned)
        selection.decisions.append((hold, decision))
        _apply(request, hold, concerned, decision)
        remaining = [row for row in remaining if row.id not in decision.not_starting]
    selection.uses = {row.id: {} for row in remaining}
    for _, decision in selection.decisions:
        for task_id in selection.uses.keys() & decision.uses.keys():
            selection.uses[task_id].update(decision.uses[task_id])
    return selection


def _apply(request: ClaimRequest, hold: Hold, rows: Sequence[Candidate], decision: HoldDecision) -> None:
    """Store the decision of a hold about tasks that do not start."""
    tx, workspace_id = request.tx, request.workspace_id
    if decision.requeued:
        ready.unmark_enqueued(tx, workspace_id, list(decision.requeued))
    if not decision.blocked:
        return
    projects = {row.id: row.project_id for row in rows}
    subjects = {task_id: hold_reason.subject or projects[task_id] for task_id, hold_reason in decision.blocked.items()}
    for until in {hold_reason.until for hold_reason in decision.blocked.values()}:
        ids = [task_id for task_id, hold_reason in decision.blocked.items() if hold_reason.until == until]
        ready.hold_back(tx, workspace_id, ids, hold.reason, subjects, until=until)
    blocked = []
    for row in rows:
        if (hold_reason := decision.blocked.get(row.id)) is not None:
            payload = {"reasons": hold.reason.names()} | ({} if hold_reason.why is None else {"why": hold_reason.why})
            blocked.append(NewEvent.of_task(row, EventType.BLOCKED, payload=payload))
    events.append(tx, workspace_id, blocked)


def _claim_selected(request: ClaimRequest, selection: _Selection, *, worker_id: str, lease: timedelta) -> list[Claim]:
    """Claim the selected tasks, with the changes by the holds."""
    tx, workspace_id = request.tx, request.workspace_id
    result = []
    for claim in claims.claim_chosen(tx, workspace_id, selection.uses, worker_id=worker_id, lease=lease):
        changes: dict[str, Any] = {}
        for _, decision in selection.decisions:
            changes.update(decision.changes.get(claim.task_id, {}))
        result.append(replace(claim, **changes) if changes else claim)
    for hold, decision in selection.decisions:
        hold.record(request, result)
        events.append(
            tx,
            workspace_id,
            [
                NewEvent.of_attempt(claim, decision.events[claim.task_id][0], payload=decision.events[claim.task_id][1])
                for claim in result
                if claim.task_id in decision.events
            ],
        )
    return result
