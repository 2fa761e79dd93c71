"""Reopen tasks that ended without success, and what was canceled only because of them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.store.queries import dependencies, tasks


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
