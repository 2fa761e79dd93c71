"""Stop a workspace or a project, and start it again: the row first; the caller then tells whoever runs something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection

from coordination.domain.projects.stops import StartResult, Stop, StoppedAttempt
from coordination.services.holds import pause
from coordination.store.queries.projects import stops as rows

MOST_IN_FLIGHT = 10_000
"""So many attempts a stop remembers; of more, only what still runs is listed by a later look."""


def stop_work(
    tx: Connection, workspace_id: str, project_id: str | None, *, actor: str, reason: str | None, at_once: bool
) -> tuple[Stop, bool]:
    """Let nothing start any more of the project, or of the workspace (None); the stop, and whether it is new.

    One that was there becomes *at_once* when asked for; its author stays. With the commit of this, no claim begins of
    the projects that it holds.
    """
    rows.lock_workspace(tx, workspace_id)
    found = rows.own(tx, workspace_id, project_id)
    new = found is None
    if found is None:
        rows.add(tx, workspace_id, project_id, actor=actor, reason=reason, at_once=at_once)
    elif at_once and not found.at_once:
        rows.note(tx, workspace_id, found.id, at_once=True)
    rows.hold_projects(tx, workspace_id)
    stop = rows.own(tx, workspace_id, project_id)
    assert stop is not None  # noqa: S101 - stored in this transaction, or before
    return stop, new


def look(tx: Connection, workspace_id: str, stop: Stop, *, silent_after: timedelta) -> list[StoppedAttempt]:
    """What ran when the stop began, as it is kept with it, and what runs now.

    *silent_after*: a worker that was not heard of for that long is silent.
    """
    running = rows.running(tx, workspace_id, stop.project_id, silent_after=silent_after)
    missing = set(stop.in_flight or ()).difference(one.key for one in running)
    ended = rows.these(tx, workspace_id, missing, silent_after=silent_after)
    found = [replace(one, of_project=stop.project_id is not None) for one in (*running, *ended)]
    return sorted(found, key=lambda one: (one.started_at, one.task, one.attempt))


def remember(tx: Connection, workspace_id: str, stop: Stop, found: Sequence[StoppedAttempt]) -> Stop:
    """Keep with the stop what was *found* in flight, for whoever looks later; the stop as it is then."""
    keys = tuple(one.key for one in found)
    rows.note(tx, workspace_id, stop.id, in_flight=[list(key) for key in keys[:MOST_IN_FLIGHT]])
    return replace(stop, in_flight=keys)


def start_work(
    tx: Connection, workspace_id: str, project_id: str | None, *, actor: str
) -> tuple[StartResult, list[str]]:
    """End the stop of the project, or of the workspace (None), if there is one; and the projects that may go on.

    A project that another stop holds as well, or that a person has put on hold, stays as it is.
    """
    rows.lock_workspace(tx, workspace_id)
    ended = rows.own(tx, workspace_id, project_id)
    if ended is not None:
        rows.end(tx, workspace_id, ended.id, actor=actor)
    going = rows.release_projects(tx, workspace_id, project_id)
    queued = sum(pause.release(tx, workspace_id, one, actor=actor) for one in going)
    return StartResult(ended, queued, rows.active(tx, workspace_id)), going
