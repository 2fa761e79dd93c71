"""Statements for an operator who sets a task's state by force: beside the moves of the task machine, and only here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, or_, select, update

from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, TaskRecord, TaskState
from coordination.store.queries.tasks import events
from coordination.store.queries.tasks.attempt_counters import FRESH
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.queries.tasks.tasks import BATCH
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

t, d, a = tasks.c, dependencies.c, attempts.c

_RAN = (TaskState.RUNNING, TaskState.COMPLETED)

_FRESH: dict[str, Any] = {
    "reasons": NO_REASON,
    "pending": 0,
    "enqueued_at": None,
    "not_before": None,
    "cancel_cause": None,
    "error": None,
    "finished_at": None,
    "updated_at": db_now(),
}


_RELEASED = (
    select(d.child_id)
    .distinct()
    .where(
        d.workspace_id == bindparam("ws"),
        d.parent_id.in_(bindparam("parents", expanding=True)),
        d.kind.in_(HOLDING),
        d.satisfied_at.is_not(None),
    )
    .order_by(d.child_id)
)


def _as_seen(workspace_id: str, task: TaskRecord) -> Any:
    return update(tasks).where(
        t.workspace_id == workspace_id, t.id == task.id, t.state == task.state, t.attempt == task.attempt
    )


def seize(tx: Connection, workspace_id: str, task: TaskRecord) -> int | None:
    """Hold a task as a claim would, whatever its state: the number of the attempt, above every earlier one's.

    None when it is no longer as *task* says.
    """
    statement = (
        _as_seen(workspace_id, task)
        .values(**_FRESH, state=TaskState.RUNNING, attempt=t.attempt + 1)
        .returning(t.attempt)
    )
    return tx.execute(statement).scalar_one_or_none()


def queue(tx: Connection, workspace_id: str, task: TaskRecord) -> bool:
    """Queue a task, whatever its state, with fresh counts; whether it still was as *task* says."""
    statement = _as_seen(workspace_id, task).values(**_FRESH, **FRESH, state=TaskState.QUEUED).returning(t.id)
    return tx.execute(statement).first() is not None


def waive_needs(tx: Connection, workspace_id: str, child_id: str) -> int:
    """Mark everything that a task still waits for as satisfied; how many edges there were."""
    return tx.execute(
        update(dependencies)
        .where(
            d.workspace_id == workspace_id,
            d.child_id == child_id,
            d.kind.in_(HOLDING),
            d.satisfied_at.is_(None),
        )
        .values(satisfied_at=db_now())
    ).rowcount


def released_by(tx: Connection, workspace_id: str, parents: Collection[str]) -> list[str]:
    """Tasks that *parents* have released, whatever has become of them, in id order."""
    return list(tx.execute(_RELEASED, {"ws": workspace_id, "parents": list(parents)}).scalars()) if parents else []


def dependants_not_begun(tx: Connection, workspace_id: str, parent_id: str) -> list[str]:
    """Tasks that this one has released and that neither run nor have completed, in id order."""
    statement = _RELEASED.join(tasks, t.id == d.child_id).where(t.state.not_in(_RAN))
    return list(tx.execute(statement, {"ws": workspace_id, "parents": [parent_id]}).scalars())


def note_outdated(tx: Connection, workspace_id: str, parent_id: str) -> None:
    """Note which attempts run or have completed with what this task, which is locked with them, has made so far."""
    begun = select(t.attempt).where(t.id == d.child_id, t.state.in_(_RAN))
    tx.execute(
        update(dependencies)
        .where(
            d.workspace_id == workspace_id,
            d.parent_id == parent_id,
            d.kind.in_(HOLDING),
            d.satisfied_at.is_not(None),
            begun.exists(),
        )
        .values(outdated_attempt=begun.scalar_subquery())
    )


def take_release_back(tx: Connection, workspace_id: str, parent_id: str, children: Sequence[str]) -> list[str]:
    """Let these locked children wait for *parent_id* again, those that have not begun meanwhile; their ids.

    A child that has ended without success only gets its edge back: it waits should it ever be retried.
    """
    found: list[str] = []
    for start in range(0, len(children), BATCH):
        batch = list(children[start : start + BATCH])
        taken = list(
            tx.execute(
                update(dependencies)
                .where(
                    d.workspace_id == workspace_id,
                    d.parent_id == parent_id,
                    d.child_id.in_(batch),
                    d.kind.in_(HOLDING),
                    d.satisfied_at.is_not(None),
                    d.child_id.in_(select(t.id).where(t.id.in_(batch), t.state.not_in(_RAN))),
                )
                .values(satisfied_at=None)
                .returning(d.child_id)
            ).scalars()
        )
        queued = select(t.id, t.run_id, t.project_id).where(t.id.in_(taken), t.state == TaskState.QUEUED)
        blocked = tx.execute(queued.order_by(t.id)).all()
        open_ = or_(t.state == TaskState.QUEUED, t.state == TaskState.BLOCKED)
        tx.execute(
            update(tasks)
            .where(and_(t.workspace_id == workspace_id, t.id.in_(taken), open_))
            .values(
                state=TaskState.BLOCKED,
                reasons=case(
                    (t.reasons.op("&")(int(BlockReason.DEPENDENCIES)) != 0, t.reasons),
                    else_=t.reasons + int(BlockReason.DEPENDENCIES),
                ),
                pending=t.pending + 1,
                enqueued_at=None,
                updated_at=db_now(),
            )
        )
        events.append(tx, workspace_id, [_waits_again(row) for row in blocked])
        found += taken
    return found


def _waits_again(row: Any) -> NewEvent:
    return NewEvent.of_task(row, EventType.BLOCKED, payload={"why": "what it needs is done again"})


def open_attempts(tx: Connection, workspace_id: str, task_id: str) -> list[int]:
    """The numbers of a task's attempts whose end nobody has written: what may still run."""
    return list(
        tx.execute(
            select(a.number)
            .where(a.workspace_id == workspace_id, a.task_id == task_id, a.finished_at.is_(None))
            .order_by(a.number)
        ).scalars()
    )
