"""Statements that force a task's state, outside of the moves of the state machine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, or_, select, update

from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, TaskRecord, TaskState
from coordination.store.queries.tasks import events
from coordination.store.queries.tasks.dependencies import HOLDING
from coordination.store.queries.tasks.tasks import BATCH, RESET_COUNTERS
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

t, d, a = tasks.c, dependencies.c, attempts.c

_STARTED = (TaskState.RUNNING, TaskState.COMPLETED)

_CLEARED: dict[str, Any] = {
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


def _update_unchanged(workspace_id: str, task: TaskRecord) -> Any:
    return update(tasks).where(
        t.workspace_id == workspace_id, t.id == task.id, t.state == task.state, t.attempt == task.attempt
    )


def seize(tx: Connection, workspace_id: str, task: TaskRecord) -> int | None:
    """Claim a task in any state, and return the new attempt number. None: it has changed since *task* was read."""
    seized = {**_CLEARED, "state": TaskState.RUNNING, "attempt": t.attempt + 1}
    return tx.execute(_update_unchanged(workspace_id, task).values(**seized).returning(t.attempt)).scalar_one_or_none()


def queue(tx: Connection, workspace_id: str, task: TaskRecord) -> bool:
    """Queue a task in any state and reset its counters. Return False if it has changed since *task* was read."""
    queued = {**_CLEARED, **RESET_COUNTERS, "state": TaskState.QUEUED}
    return tx.execute(_update_unchanged(workspace_id, task).values(**queued).returning(t.id)).first() is not None


def waive_dependencies(tx: Connection, workspace_id: str, child_id: str) -> int:
    """Mark all open edges of a task as satisfied. Return their number."""
    where = d.workspace_id == workspace_id, d.child_id == child_id, d.kind.in_(HOLDING), d.satisfied_at.is_(None)
    return tx.execute(update(dependencies).where(*where).values(satisfied_at=db_now())).rowcount


def released_by(tx: Connection, workspace_id: str, parents: Collection[str]) -> list[str]:
    """Return the tasks that *parents* have released, in any state, in id order."""
    return list(tx.execute(_RELEASED, {"ws": workspace_id, "parents": list(parents)}).scalars()) if parents else []


def dependants_not_started(tx: Connection, workspace_id: str, parent_id: str) -> list[str]:
    """Return the tasks that this one has released and that neither run nor have completed, in id order."""
    statement = _RELEASED.join(tasks, t.id == d.child_id).where(t.state.not_in(_STARTED))
    return list(tx.execute(statement, {"ws": workspace_id, "parents": [parent_id]}).scalars())


def mark_outdated(tx: Connection, workspace_id: str, parent_id: str) -> None:
    """Mark the running or completed attempts that used this task's result as outdated. All are locked."""
    started = select(t.attempt).where(t.id == d.child_id, t.state.in_(_STARTED))
    tx.execute(
        update(dependencies)
        .where(
            d.workspace_id == workspace_id,
            d.parent_id == parent_id,
            d.kind.in_(HOLDING),
            d.satisfied_at.is_not(None),
            started.exists(),
        )
        .values(outdated_attempt=started.scalar_subquery())
    )


def revoke_release(tx: Connection, workspace_id: str, parent_id: str, children: Sequence[str]) -> list[str]:
    """Make these locked children wait for *parent_id* again, unless they have started. Return their ids.

    For a child that has ended without success, only the edge is reopened, for a later retry.
    """
    result: list[str] = []
    for start in range(0, len(children), BATCH):
        batch = list(children[start : start + BATCH])
        reopened = list(
            tx.execute(
                update(dependencies)
                .where(
                    d.workspace_id == workspace_id,
                    d.parent_id == parent_id,
                    d.child_id.in_(batch),
                    d.kind.in_(HOLDING),
                    d.satisfied_at.is_not(None),
                    d.child_id.in_(select(t.id).where(t.id.in_(batch), t.state.not_in(_STARTED))),
                )
                .values(satisfied_at=None)
                .returning(d.child_id)
            ).scalars()
        )
        queued = select(t.id, t.run_id, t.project_id).where(t.id.in_(reopened), t.state == TaskState.QUEUED)
        newly_blocked = tx.execute(queued.order_by(t.id)).all()
        open_ = or_(t.state == TaskState.QUEUED, t.state == TaskState.BLOCKED)
        tx.execute(
            update(tasks)
            .where(and_(t.workspace_id == workspace_id, t.id.in_(reopened), open_))
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
        events.append(tx, workspace_id, [_blocked_event(row) for row in newly_blocked])
        result += reopened
    return result


def _blocked_event(row: Any) -> NewEvent:
    return NewEvent.of_task(row, EventType.BLOCKED, payload={"why": "a task that it needs runs again"})


def open_attempts(tx: Connection, workspace_id: str, task_id: str) -> list[int]:
    """Return the numbers of a task's open attempts."""
    where = a.workspace_id == workspace_id, a.task_id == task_id, a.finished_at.is_(None)
    return list(tx.execute(select(a.number).where(*where).order_by(a.number)).scalars())
