"""Change the priority of an open task, and write the event."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.base.errors import NotFound
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import TERMINAL
from coordination.store.queries.tasks import events, tasks


def change_priority(tx: Connection, workspace_id: str, task_id: str, priority: int, *, actor: str) -> bool:
    """Change the priority of a task, and return whether it was open. The same priority changes nothing.

    A queued task is enqueued again at its new place. Its earlier message may still be processed first, so that at most
    a window of tasks runs in the old order.
    """
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    if task.priority == priority or task.state in TERMINAL:
        return task.state not in TERMINAL
    if not tasks.set_priority(tx, workspace_id, task_id, priority):
        return False  # it has ended meanwhile
    change = {"from": task.priority, "to": priority}
    events.append(tx, workspace_id, [NewEvent.of_task(task, EventType.REPRIORITIZED, actor=actor, payload=change)])
    return True
