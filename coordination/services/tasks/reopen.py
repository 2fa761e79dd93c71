"""Reopen tasks that ended without success, and what was canceled only because of them; what they released waits again.

Whoever calls has locked all of these tasks: what comes back, what it had released, and what these hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.store.queries.tasks import dependencies, force_state, tasks


def reopen_with_dependants(tx: Connection, workspace_id: str, task_id: str) -> list[str]:
    """Queue a failed or canceled task again, or block it behind its dependencies; the ids of all that came back."""
    return _reopen(tx, workspace_id, [task_id])


def reopen_dependants(tx: Connection, workspace_id: str, task_id: str) -> list[str]:
    """Bring back only what was canceled because this task had ended without success: it waits for the task again."""
    return _reopen(tx, workspace_id, _canceled_because_of(tx, workspace_id, [task_id]))


def _reopen(tx: Connection, workspace_id: str, wave: Sequence[str]) -> list[str]:
    reopened: list[str] = []
    while wave:
        # The caller has locked them, but for those that were canceled just now.
        tasks.lock(tx, workspace_id, wave, nowait=True)
        moved = [
            each
            for each in wave
            if tasks.reopen(tx, workspace_id, each, pending=dependencies.open_count(tx, workspace_id, each))
        ]
        reopened += moved
        wave = _canceled_because_of(tx, workspace_id, moved)
    return reopened


def _canceled_because_of(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    waiting = dependencies.waiting_children(tx, workspace_id, ids) if ids else {}
    return tasks.canceled_by_dependency(tx, workspace_id, sorted(waiting)) if waiting else []


def with_released(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    """What to lock before *ids* are done again: these, what waits for them, and what they have released."""
    released = force_state.released_by(tx, workspace_id, dependencies.with_dependants(tx, workspace_id, ids))
    return dependencies.with_dependants(tx, workspace_id, [*ids, *released])


def take_releases_back(tx: Connection, workspace_id: str, task_id: str) -> None:
    """Let what a task has released wait for it again; what has begun by then is noted to be outdated."""
    released = force_state.dependants_not_begun(tx, workspace_id, task_id)
    tasks.lock(tx, workspace_id, released, nowait=True)  # locked, but for those that were released just now
    force_state.take_release_back(tx, workspace_id, task_id, released)
    force_state.note_outdated(tx, workspace_id, task_id)
