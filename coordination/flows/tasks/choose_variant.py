"""The first variant of a task that passes its gates wins; the others are canceled."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection

from coordination.domain.plans.plan_expansion import CHOOSE
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import OPEN, TaskState
from coordination.services.attempts.end import cancel_tasks
from coordination.store.queries.tasks import dependencies, events, tasks

WINNER = "winner"
"""Where the task carries which of its variants won: key, id, and why."""


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """Whether the variant won, why, and the (task id, attempt) pairs that were canceled by it."""

    won: bool
    why: str
    canceled: list[tuple[str, int]] = field(default_factory=list)


def choose_variant(tx: Connection, workspace_id: str, task_id: str, attempt: int) -> VariantChoice:
    """Let this *attempt* of a variant win, if it still holds its task and no other has won.

    Asked twice, it wins once.
    """
    seen = tasks.get(tx, workspace_id, task_id)
    if seen is None or seen.parent_id is None:
        return VariantChoice(won=True, why="it has no others beside it")
    parts = [part.id for part in tasks.parts(tx, workspace_id, seen.parent_id)]
    tasks.lock(tx, workspace_id, [seen.parent_id, *dependencies.with_dependants(tx, workspace_id, parts)])
    mine, whole = tasks.get(tx, workspace_id, task_id), tasks.get(tx, workspace_id, seen.parent_id)
    if mine is None or whole is None or CHOOSE not in whole.options.get("role", {}):
        return VariantChoice(won=True, why="it has no others beside it")
    if (mine.state, mine.attempt) != (TaskState.RUNNING, attempt):
        return VariantChoice(won=False, why="it does not hold its task any more")
    before = whole.carried.get(WINNER)
    if before is not None and before.get("id") != mine.id:
        return VariantChoice(won=False, why=f"{before.get('key')} was first")
    why = f"{mine.key} was the first of {len(whole.options['role'][CHOOSE])} to pass"
    if before is None:
        tasks.carry(tx, workspace_id, whole.id, {**whole.carried, WINNER: {"key": mine.key, "id": mine.id, "why": why}})
        payload = {"decision": "winner", "winner": mine.key, "why": why}
        event = NewEvent.of_task(whole, EventType.PROGRESS, actor="variants", payload=payload)
        events.append(tx, workspace_id, [event])
    others = [part.id for part in tasks.parts(tx, workspace_id, whole.id) if part.state in OPEN and part.id != mine.id]
    canceled, _ = cancel_tasks(tx, workspace_id, whole.project_id, others, actor="variants", why=why, late=True)
    return VariantChoice(True, why, canceled)
