"""Reopen tasks that ended without success, with the tasks that were canceled because of them.

The caller has locked the tasks in ``with_released_tasks``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.tasks import TaskRecord
from coordination.store.queries.tasks import dependencies, events, force_state, tasks


def write_retried(tx: Connection, task: TaskRecord, reopened: Sequence[str], *, actor: str, by: str) -> None:
    """Write the events of tasks of the run of *task* that were reopened *by* a person or by force."""
    subject, payload = (EventType.RETRIED, task.project_id, task.run_id), {"by": by}
    new = [NewEvent(*subject, id_, actor=actor, payload=payload) for id_ in reopened]
    events.append(tx, task.workspace_id, new)


def reopen_with_dependants(tx: Connection, workspace_id: str, wave: Sequence[str]) -> list[str]:
    """Queue or block ended tasks again, with their canceled dependants. Return all reopened ids."""
    reopened: list[str] = []
    while wave:
        # Already locked, except those that were canceled just now.
        tasks.lock(tx, workspace_id, wave, nowait=True)
        moved = [
            each
            for each in wave
            if tasks.reopen(tx, workspace_id, each, pending=dependencies.count_open(tx, workspace_id, each))
        ]
        reopened += moved
        wave = canceled_because_of(tx, workspace_id, moved)
    return reopened


def canceled_because_of(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    """Return the tasks that were canceled because one of these ended without success."""
    waiting = dependencies.waiting_children(tx, workspace_id, ids) if ids else {}
    return tasks.canceled_by_dependency(tx, workspace_id, sorted(waiting)) if waiting else []


def with_released_tasks(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    """Return the tasks to lock before *ids* run again: these, their dependants, and the tasks that they released."""
    released = force_state.released_by(tx, workspace_id, dependencies.with_dependants(tx, workspace_id, ids))
    return dependencies.with_dependants(tx, workspace_id, [*ids, *released])


def revoke_releases(tx: Connection, workspace_id: str, task_id: str) -> None:
    """Make the tasks that a task released wait for it again; mark those that have started as outdated."""
    released = force_state.dependants_not_started(tx, workspace_id, task_id)
    tasks.lock(tx, workspace_id, released, nowait=True)  # already locked, except those released just now
    force_state.revoke_release(tx, workspace_id, task_id, released)
    force_state.mark_outdated(tx, workspace_id, task_id)
