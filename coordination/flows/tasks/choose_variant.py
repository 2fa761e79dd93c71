"""Choose the first variant of a task that passes its gates, and cancel the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection

from coordination.domain.plans.plan_expansion import CHOOSE
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import OPEN, TaskState
from coordination.services.attempts.end import cancel_tasks
from coordination.store.queries.tasks import dependencies, events, tasks

WINNER = "winner"
"""The key in ``carried`` of the winning variant: key, id, and why."""


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """Whether the variant won, why, and the (task id, attempt) pairs that this canceled."""

    won: bool
    why: str
    canceled: list[tuple[str, int]] = field(default_factory=list)


def choose_variant(tx: Connection, workspace_id: str, task_id: str, attempt: int) -> VariantChoice:
    """Choose this *attempt* of a variant if its fence is valid and no other variant has won. Idempotent."""
    task = tasks.get(tx, workspace_id, task_id)
    if task is None or task.parent_id is None:
        return VariantChoice(won=True, why="it has no other variants")
    parts = [part.id for part in tasks.parts(tx, workspace_id, task.parent_id)]
    tasks.lock(tx, workspace_id, [task.parent_id, *dependencies.with_dependants(tx, workspace_id, parts)])
    variant, parent = tasks.get(tx, workspace_id, task_id), tasks.get(tx, workspace_id, task.parent_id)
    if variant is None or parent is None or CHOOSE not in parent.options.get("role", {}):
        return VariantChoice(won=True, why="it has no other variants")
    if (variant.state, variant.attempt) != (TaskState.RUNNING, attempt):
        return VariantChoice(won=False, why="it no longer runs its task")
    winner = parent.carried_over.get(WINNER)
    if winner is not None and winner.get("id") != variant.id:
        return VariantChoice(won=False, why=f"{winner.get('key')} was first")
    why = f"{variant.key} was the first of {len(parent.options['role'][CHOOSE])} to pass"
    if winner is None:
        tasks.set_carried(
            tx,
            workspace_id,
            parent.id,
            {**parent.carried_over, WINNER: {"key": variant.key, "id": variant.id, "why": why}},
        )
        payload = {"decision": "winner", "winner": variant.key, "why": why}
        event = NewEvent.of_task(parent, EventType.PROGRESS, actor="variants", payload=payload)
        events.append(tx, workspace_id, [event])
    others = [
        part.id for part in tasks.parts(tx, workspace_id, parent.id) if part.state in OPEN and part.id != variant.id
    ]
    canceled, _ = cancel_tasks(tx, workspace_id, parent.project_id, others, actor="variants", why=why, nowait=True)
    return VariantChoice(True, why, canceled)
