"""Claim tasks for a worker: raise the fence, take slots and money, open attempts with a lease, hand over inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping

from coordination.domain.attempts import Claim
from coordination.domain.events import EventType
from coordination.domain.tasks import BlockReason
from coordination.services import budgets
from coordination.services.expectations import expected
from coordination.store.queries import attempts, claims, dependencies, events, projects, ready, slots
from coordination.store.queries.money import note_reserved


def claim_tasks(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    *,
    worker_id: str,
    lease: timedelta,
    limit: int | None = None,
    estimator: budgets.Estimator = expected,
) -> list[Claim]:
    """Those of *ids* that this worker now holds, best first; others may have been faster.

    Tasks of a paused project, and those for which no money is left, become blocked; tasks whose slots are full stay
    queued and wait in SQL again. What *estimator* expects a task to cost is reserved of its budgets.
    """
    claimed = claims.claim_unlimited(tx, workspace_id, ids, worker_id=worker_id, lease=lease, limit=limit)
    if len(claimed) == (len(ids) if limit is None else min(limit, len(ids))):
        return claimed
    # Somebody was faster, or the projects have limits or are held: those are looked at one project at a time.
    mine = {claim.task_id for claim in claimed}
    by_project: dict[str, list[RowMapping]] = {}
    for row in ready.lock_ready(tx, workspace_id, [task_id for task_id in ids if task_id not in mine]):
        by_project.setdefault(row["project_id"], []).append(row)
    for project_id in sorted(by_project):
        claimed += _claim_limited(
            tx,
            workspace_id,
            project_id,
            by_project[project_id],
            worker_id=worker_id,
            lease=lease,
            limit=limit,
            estimator=estimator,
        )
    return claimed


def _claim_limited(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    found: Sequence[RowMapping],
    *,
    worker_id: str,
    lease: timedelta,
    limit: int | None,
    estimator: budgets.Estimator,
) -> list[Claim]:
    if (
        found[0]["project_status"] in claims.HELD_PROJECTS
        # Asked again under a lock: a pause that ends now would not see what is held back after it.
        and projects.lock_status(tx, workspace_id, project_id) in claims.HELD_PROJECTS
    ):
        _hold_back(tx, workspace_id, found)
        return []
    free = slots.lock(tx, workspace_id, project_id)
    chosen = _with_slots(found, free, limit)
    refused = [row["id"] for row in found if row["id"] not in chosen]
    if refused:
        ready.unmark_rung(tx, workspace_id, refused)
    money = budgets.reserve(tx, workspace_id, [dict(row) for row in found if row["id"] in chosen], estimator)
    if money.refused:
        _wait_for_money(tx, workspace_id, [row for row in found if row["id"] in money.refused], money)
        chosen = {task_id: names for task_id, names in chosen.items() if task_id not in money.refused}
    if not chosen:
        return []
    if free:
        slots.take(tx, workspace_id, project_id, Counter(name for names in chosen.values() for name in names))
        taken = _open(tx, workspace_id, project_id, found, chosen, worker_id=worker_id, lease=lease)
    else:
        taken = claims.claim_unlimited(tx, workspace_id, list(chosen), worker_id=worker_id, lease=lease, reserved=True)
    return _with_money(tx, workspace_id, taken, money)


def _open(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    found: Sequence[RowMapping],
    chosen: Mapping[str, tuple[str, ...]],
    *,
    worker_id: str,
    lease: timedelta,
) -> list[Claim]:
    """Claim the chosen ones of *found*, which are locked, with the places that they take."""
    ready.claim(tx, workspace_id, list(chosen))
    outputs = dependencies.outputs_for(tx, workspace_id, list(chosen))
    taken = [_claim(row, chosen[row["id"]], outputs[row["id"]]) for row in found if row["id"] in chosen]
    attempts.insert_many(
        tx,
        [
            {
                "task_id": claim.task_id,
                "number": claim.attempt,
                "workspace_id": workspace_id,
                "project_id": project_id,
                "run_id": claim.run_id,
                "worker_id": worker_id,
                "slots": list(claim.slots) or None,
            }
            for claim in taken
        ],
        lease=lease,
    )
    events.append(
        tx,
        workspace_id,
        [
            {
                "project_id": project_id,
                "run_id": claim.run_id,
                "task_id": claim.task_id,
                "attempt": claim.attempt,
                "type": EventType.CLAIMED,
                "actor": f"worker:{worker_id}",
            }
            for claim in taken
        ],
    )
    return taken


def _with_slots(found: Sequence[RowMapping], free: dict[str, int], limit: int | None) -> dict[str, tuple[str, ...]]:
    """The tasks for which every limit has a place, with the names of the places they take; *free* is used up."""
    chosen: dict[str, tuple[str, ...]] = {}
    for row in found:
        if limit is not None and len(chosen) >= limit:
            break
        wanted = ["project"]
        if row["agent"] is not None:
            wanted.append(f"agent:{row['agent']}")
        if row["concurrency_key"] is not None:
            wanted.append(f"key:{row['concurrency_key']}")
        limited = tuple(name for name in wanted if name in free)
        if all(free[name] > 0 for name in limited):
            for name in limited:
                free[name] -= 1
            chosen[row["id"]] = limited
    return chosen


def _with_money(tx: Connection, workspace_id: str, taken: Sequence[Claim], money: budgets.Chosen) -> list[Claim]:
    """The claims, with what was reserved noted at their attempts, and the models that they are to use."""
    held = {(one.task_id, one.attempt): money.reserved[one.task_id] for one in taken if one.task_id in money.reserved}
    note_reserved(tx, workspace_id, held)
    cheaper = [one for one in taken if one.task_id in money.models]
    events.append(
        tx,
        workspace_id,
        [
            {
                "project_id": one.project_id,
                "run_id": one.run_id,
                "task_id": one.task_id,
                "attempt": one.attempt,
                "type": EventType.DOWNGRADED,
                "payload": {"from": budgets.model_of(one.work), "to": money.models[one.task_id]},
            }
            for one in cheaper
        ],
    )
    return [
        replace(
            one,
            budgeted=one.task_id in money.reserved,
            work=budgets.with_model(one.work, money.models[one.task_id]) if one.task_id in money.models else one.work,
        )
        for one in taken
    ]


def _wait_for_money(tx: Connection, workspace_id: str, found: Sequence[RowMapping], money: budgets.Chosen) -> None:
    ready.hold_back(tx, workspace_id, [row["id"] for row in found], BlockReason.BUDGET)
    events.append(
        tx,
        workspace_id,
        [
            {
                "project_id": row["project_id"],
                "run_id": row["run_id"],
                "task_id": row["id"],
                "type": EventType.BLOCKED,
                "payload": {"reasons": ["budget"], "why": money.refused[row["id"]].sentence()},
            }
            for row in found
        ],
    )


def _hold_back(tx: Connection, workspace_id: str, found: Sequence[RowMapping]) -> None:
    ready.hold_back(tx, workspace_id, [row["id"] for row in found], BlockReason.PAUSED)
    events.append(
        tx,
        workspace_id,
        [
            {
                "project_id": row["project_id"],
                "run_id": row["run_id"],
                "task_id": row["id"],
                "type": EventType.BLOCKED,
                "payload": {"reasons": ["paused"]},
            }
            for row in found
        ],
    )


def _claim(row: RowMapping, held: tuple[str, ...], needs: dict[str, dict[str, Any]]) -> Claim:
    options = row["options"]
    return Claim(
        task_id=row["id"],
        attempt=row["attempt"] + 1,
        workspace_id=row["workspace_id"],
        project_id=row["project_id"],
        project=row["project_name"],
        run_id=row["run_id"],
        session_id=row["session_id"],
        key=row["key"],
        title=row["title"],
        work=row["work"],
        input=row["input"],
        needs=needs,
        agent=row["agent"],
        timeout=row["timeout"],
        stall_timeout=row["stall_timeout"],
        workdir=row["workdir"],
        python_path=tuple(row["python_path"]),
        max_attempts=row["max_attempts"],
        failures=row["failures"],
        deferrals=row["deferrals"],
        backoff=options.get("backoff", {}),
        repeatable=row["repeatable"],
        losses=row["losses"],
        slots=held,
        kind=row["kind"],
        options=options,
        carried=row["carried"] or {},
    )
