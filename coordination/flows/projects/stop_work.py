"""Stop a workspace or a project, and start it again. The caller notifies workers after the commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection

from coordination.domain.projects.stops import StartResult, Stop, StoppedAttempt
from coordination.services.holds import pause
from coordination.store.queries.projects import stops as rows

MOST_IN_FLIGHT = 10_000
"""The most attempts that a stop stores; of further ones, only those that still run are listed later."""


def stop_work(
    tx: Connection, workspace_id: str, project_id: str | None, *, actor: str, reason: str | None, at_once: bool
) -> tuple[Stop, bool]:
    """Stop the project, or the workspace (None). Return the stop and whether it is new.

    An existing stop keeps its author, and becomes *at_once* if requested. Once this is committed, no claim of the
    projects that it covers begins.
    """
    rows.lock_workspace(tx, workspace_id)
    existing = rows.find(tx, workspace_id, project_id)
    new = existing is None
    if existing is None:
        rows.add(tx, workspace_id, project_id, actor=actor, reason=reason, at_once=at_once)
    elif at_once and not existing.at_once:
        rows.set_columns(tx, workspace_id, existing.id, at_once=True)
    rows.mark_projects(tx, workspace_id)
    stop = rows.find(tx, workspace_id, project_id)
    assert stop is not None  # noqa: S101 - stored in this transaction, or before
    return stop, new


def list_attempts(tx: Connection, workspace_id: str, stop: Stop, *, silent_after: timedelta) -> list[StoppedAttempt]:
    """Return the attempts that ran when the stop began, as far as stored with it, and those that run now.

    *silent_after*: the age of a worker's heartbeat at which it counts as silent.
    """
    running = rows.list_open_attempts(tx, workspace_id, stop.project_id, silent_after=silent_after)
    missing = set(stop.in_flight or ()).difference(attempt.key for attempt in running)
    ended = rows.get_attempts(tx, workspace_id, missing, silent_after=silent_after)
    attempts = [replace(each, of_project=stop.project_id is not None) for each in (*running, *ended)]
    return sorted(attempts, key=lambda each: (each.started_at, each.task, each.attempt))


def record_in_flight(tx: Connection, workspace_id: str, stop: Stop, in_flight: Sequence[StoppedAttempt]) -> Stop:
    """Store the attempts *in_flight* with the stop, and return the changed stop."""
    keys = tuple(attempt.key for attempt in in_flight)
    rows.set_columns(tx, workspace_id, stop.id, in_flight=[list(key) for key in keys[:MOST_IN_FLIGHT]])
    return replace(stop, in_flight=keys)


def start_work(
    tx: Connection, workspace_id: str, project_id: str | None, *, actor: str
) -> tuple[StartResult, list[str]]:
    """End the stop of the project, or of the workspace (None). Return the result and the projects that may continue.

    Projects that another stop covers, or that are paused, stay so.
    """
    rows.lock_workspace(tx, workspace_id)
    ended = rows.find(tx, workspace_id, project_id)
    if ended is not None:
        rows.end(tx, workspace_id, ended.id, actor=actor)
    resumed = rows.unmark_projects(tx, workspace_id, project_id)
    queued = sum(pause.lift_pause(tx, workspace_id, resumed_id, actor=actor) for resumed_id in resumed)
    return StartResult(ended, queued, rows.list_active(tx, workspace_id)), resumed
