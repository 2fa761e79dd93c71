"""Claim tasks for a worker: raise the fence, take slots and money, open attempts with a lease, hand over inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.domain.jobs.checkouts import MERGE_KEY
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.forecast.cost_estimates import expected
from coordination.services.money import budgets
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import claims, events, ready, slots
from coordination.store.queries.tasks.claims import TaskToClaim


def claim_tasks(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    *,
    worker_id: str,
    lease: timedelta,
    limit: int | None = None,
    estimator: budgets.Estimator = expected,
    limited: bool = False,
    wait: bool = True,
) -> list[Claim]:
    """Those of *ids* that this worker now holds, best first; others may have been faster.

    Tasks of a paused project, and those for which no money is left, become blocked; tasks whose slots are full stay
    queued and wait in SQL again. What *estimator* expects a task to cost is reserved of its budgets. *limited*: the
    caller thinks that something limits them all, which is asked first then. Without *wait*, for a transaction that has
    locked more already, those are left whose project is paused, and those whose budgets somebody else has locked.
    """
    claimed: list[Claim] = []
    if not limited:
        claimed = claims.claim_unlimited(tx, workspace_id, ids, worker_id=worker_id, lease=lease, limit=limit)
    if len(claimed) == (len(ids) if limit is None else min(limit, len(ids))):
        return claimed
    # Somebody was faster, or something limits them: those are looked at one project at a time.
    mine = {claim.task_id for claim in claimed}
    by_project: dict[str, list[TaskToClaim]] = {}
    for one in claims.lock_waiting(tx, workspace_id, [task_id for task_id in ids if task_id not in mine]):
        by_project.setdefault(one.project_id, []).append(one)
    # The slots of all projects before any money: all others lock them in this order.
    placed: dict[str, dict[str, tuple[str, ...]]] = {}
    asking: list[TaskToClaim] = []
    for project_id in sorted(by_project):
        room = None if limit is None else limit - len(claimed) - sum(map(len, placed.values()))
        placed[project_id] = _placed(tx, workspace_id, project_id, by_project[project_id], room, wait)
        asking += [one for one in by_project[project_id] if one.money and one.id in placed[project_id]]
    money = _reserved(tx, workspace_id, asking, estimator, wait=wait) if asking else budgets.BudgetChoice()
    without = money.left.union(money.refused)
    chosen = _Chosen({}, money)
    for project_id, found in placed.items():
        taken = {task_id: names for task_id, names in found.items() if task_id not in without}
        slots.take(tx, workspace_id, project_id, Counter(name for names in taken.values() for name in names))
        chosen.slots |= taken
    return claimed + _claimed(tx, workspace_id, chosen, worker_id=worker_id, lease=lease)


@dataclass(slots=True)
class _Chosen:
    """What may be claimed, by task: the slots that it takes; and the money."""

    slots: dict[str, tuple[str, ...]]
    money: budgets.BudgetChoice


def _placed(  # noqa: PLR0917 - called once, in the order of its parameters
    tx: Connection,
    workspace_id: str,
    project_id: str,
    found: Sequence[TaskToClaim],
    room: int | None,
    wait: bool,  # noqa: FBT001 - as above
) -> dict[str, tuple[str, ...]]:
    """Those of a project's locked tasks for which there are slots, which are locked, with their names."""
    if found[0].status in claims.HELD_PROJECTS and not wait:
        return {}
    if (
        found[0].status in claims.HELD_PROJECTS
        # Asked again under a lock: a pause that ends now would not see what is held back after it.
        and projects.lock_status(tx, workspace_id, project_id) in claims.HELD_PROJECTS
    ):
        paused = {one.id: {"reasons": ["paused"]} for one in found}
        _hold_back(tx, workspace_id, found, BlockReason.PAUSED, paused, {one.id: project_id for one in found})
        return {}
    free = slots.lock(tx, workspace_id, project_id) if any(one.slots for one in found) else {}
    if missing := _not_stored(found, free):
        if not wait:  # to store one may have to wait for another transaction
            found = [one for one in found if one.concurrency_key not in missing]
        else:
            slots.ensure(tx, workspace_id, project_id, {f"key:{name}": 1 for name in missing})
            free = slots.lock(tx, workspace_id, project_id)
    taken = _with_slots(found, free, room)
    full = [one.id for one in found if one.id not in taken]
    if full:
        ready.unmark_enqueued(tx, workspace_id, full)
    return taken


def _not_stored(found: Sequence[TaskToClaim], free: Mapping[str, int]) -> set[str]:
    """The keys of conflict tasks whose limit is not stored: a run's first claim stores it, and it goes with the run."""
    keys = {one.concurrency_key for one in found if one.concurrency_key is not None}
    return {key for key in keys if key.startswith(MERGE_KEY) and f"key:{key}" not in free}


def _reserved(
    tx: Connection, workspace_id: str, asking: Sequence[TaskToClaim], estimator: budgets.Estimator, *, wait: bool
) -> budgets.BudgetChoice:
    """The money for these locked tasks; those for which none is left are held back."""
    money = budgets.reserve(tx, workspace_id, [one.row() for one in asking], estimator, wait=wait)
    if money.refused:
        why: dict[str, dict[str, Any]] = {
            task_id: {"reasons": ["budget"], "why": lack.sentence()} for task_id, lack in money.refused.items()
        }
        subjects = {task_id: lack.budget.id for task_id, lack in money.refused.items()}
        _hold_back(tx, workspace_id, [one for one in asking if one.id in why], BlockReason.BUDGET, why, subjects)
    return money


def _claimed(tx: Connection, workspace_id: str, chosen: _Chosen, *, worker_id: str, lease: timedelta) -> list[Claim]:
    money = chosen.money
    held: dict[str, dict[str, Any]] = {}
    for task_id, names in chosen.slots.items():
        reserved = money.reserved.get(task_id)
        held[task_id] = {"slots": list(names)} if names else {}
        if reserved is not None:
            held[task_id]["reserved"] = reserved.to_json()
    if not held:
        return []
    taken = claims.claim_chosen(tx, workspace_id, held, worker_id=worker_id, lease=lease)
    _tell_downgrades(tx, workspace_id, taken, money)
    return [_holding(one, chosen) if held[one.task_id] else one for one in taken]


def _holding(claim: Claim, chosen: _Chosen) -> Claim:
    model = chosen.money.models.get(claim.task_id)
    return replace(
        claim,
        slots=chosen.slots[claim.task_id],
        budgeted=claim.task_id in chosen.money.reserved,
        work=claim.work if model is None else budgets.with_model(claim.work, model),
    )


def _with_slots(found: Sequence[TaskToClaim], free: dict[str, int], limit: int | None) -> dict[str, tuple[str, ...]]:
    """The tasks for which every limit has a place, with the names of the places they take; *free* is used up."""
    chosen: dict[str, tuple[str, ...]] = {}
    for row in found:
        if limit is not None and len(chosen) >= limit:
            break
        wanted = ["project"]
        if row.agent_id is not None:
            wanted.append(f"agent:{row.agent_id}")
        if row.concurrency_key is not None:
            wanted.append(f"key:{row.concurrency_key}")
        limited = tuple(name for name in wanted if name in free)
        if all(free[name] > 0 for name in limited):
            for name in limited:
                free[name] -= 1
            chosen[row.id] = limited
    return chosen


def _tell_downgrades(tx: Connection, workspace_id: str, taken: Sequence[Claim], money: budgets.BudgetChoice) -> None:
    events.append(
        tx,
        workspace_id,
        [
            NewEvent.of_attempt(
                one,
                EventType.DOWNGRADED,
                payload={"from": budgets.model_of(one.work), "to": money.models[one.task_id]},
            )
            for one in taken
            if one.task_id in money.models
        ],
    )


def _hold_back(  # noqa: PLR0917 - called twice, in the order of its parameters
    tx: Connection,
    workspace_id: str,
    found: Sequence[TaskToClaim],
    reason: BlockReason,
    why: Mapping[str, Mapping[str, Any]],
    subjects: Mapping[str, str],
) -> None:
    ready.hold_back(tx, workspace_id, [one.id for one in found], reason, subjects)
    events.append(tx, workspace_id, [NewEvent.of_task(one, EventType.BLOCKED, payload=why[one.id]) for one in found])
