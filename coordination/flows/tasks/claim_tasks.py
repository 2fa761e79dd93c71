"""Claim tasks for a worker: increment the fence, evaluate the holds, open attempts with a lease, read the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    decisions, remaining = _decide(request, rows)
    uses: dict[str, dict[str, Any]] = {row.id: {} for row in remaining}
    for _, decision in decisions:
        for task_id in uses.keys() & decision.uses.keys():
            uses[task_id].update(decision.uses[task_id])
    if not uses:
        return claimed
    chosen = claims.claim_chosen(tx, workspace_id, uses, worker_id=worker_id, lease=lease)
    return claimed + _record(request, chosen, decisions)


def _decide(
    request: ClaimRequest, rows: Sequence[Candidate]
) -> tuple[list[tuple[Hold, HoldDecision]], Sequence[Candidate]]:
    """Evaluate the holds in order; a task that one of them stops is not passed to the next ones.

    Return the decisions, and the tasks that start.
    """
    decisions = []
    for number, hold in enumerate(AT_CLAIM):
        if concerned := [row for row in rows if row.conditions[number]]:
            decision = hold.decide(request, concerned)
            decisions.append((hold, decision))
            _apply(request, hold, concerned, decision)
            rows = [row for row in rows if row.id not in decision.not_starting]
    return decisions, rows


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


def _record(
    request: ClaimRequest, chosen: Sequence[Claim], decisions: Sequence[tuple[Hold, HoldDecision]]
) -> list[Claim]:
    """Return the claims with the changes by the holds; store their resources and events."""
    result = []
    for claim in chosen:
        changes: dict[str, Any] = {}
        for _, decision in decisions:
            changes.update(decision.changes.get(claim.task_id, {}))
        result.append(replace(claim, **changes) if changes else claim)
    for hold, decision in decisions:
        hold.record(request, result)
        new_events = []
        for claim in result:
            if claim.task_id in decision.events:
                event_type, payload = decision.events[claim.task_id]
                new_events.append(NewEvent.of_attempt(claim, event_type, payload=payload))
        events.append(request.tx, request.workspace_id, new_events)
    return result
