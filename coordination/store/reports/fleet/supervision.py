"""The state that a supervisor stores with each heartbeat, and its status as commands and the API show it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.fleet.supervisor_status import StatusThresholds, SupervisorStatus, status_of
from coordination.domain.tasks.tasks import TaskState
from coordination.store.queries.access.principals import name_of
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.projects import projects
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import looked_up

t = tasks.c
_NEXT_WAVE = 10

_RUNS_AT_ONCE = 500
_OPEN_RUNS = select(runs.c.id).where(
    runs.c.workspace_id == bindparam("ws"), runs.c.project_id == bindparam("project"), runs.c.finished_at.is_(None)
)
_COUNTS = (
    select(t.state, func.count())
    .where(t.workspace_id == bindparam("ws"), t.run_id.in_(bindparam("runs", expanding=True)))
    .group_by(t.state)
)


def _counts(tx: Connection, workspace_id: str, project_id: str) -> Counter[str]:
    """Count the tasks of open runs by state, so that a tick's cost does not depend on the project's history.

    Two statements instead of a join, whose plan would depend on statistics that may be old.
    """
    open_runs = list(tx.execute(_OPEN_RUNS, {"ws": workspace_id, "project": project_id}).scalars())
    counts: Counter[str] = Counter()
    for start in range(0, len(open_runs), _RUNS_AT_ONCE):
        batch = open_runs[start : start + _RUNS_AT_ONCE]
        for state, number in tx.execute(_COUNTS, {"ws": workspace_id, "runs": batch}):
            counts[state] += number
    return counts


def state_json(tx: Connection, workspace_id: str, project_id: str) -> dict[str, Any]:
    """Return the state of open work: tasksTotal, tasksCompleted, tasksInProgress, tasksTodo, activeAgents, nextWave."""
    counts = _counts(tx, workspace_id, project_id)
    wave = tx.execute(
        select(t.key)
        .where(t.workspace_id == workspace_id, t.project_id == project_id, t.state == TaskState.QUEUED)
        .order_by(t.priority.desc(), t.id)
        .limit(_NEXT_WAVE)
    ).scalars()
    return _state(counts, active=len(_active(tx, workspace_id, project_id)), wave=list(wave))


def _state(counts: Counter[str], *, active: int, wave: list[str]) -> dict[str, Any]:
    return {
        "tasksTotal": sum(counts.values()),
        "tasksCompleted": counts[TaskState.COMPLETED],
        "tasksInProgress": counts[TaskState.RUNNING],
        "tasksTodo": counts[TaskState.QUEUED] + counts[TaskState.BLOCKED],
        "tasksFailed": counts[TaskState.FAILED],
        "tasksCanceled": counts[TaskState.CANCELED],
        "activeAgents": active,
        "nextWave": wave,
    }


NO_WORK = _state(Counter(), active=0, wave=[])
"""The stored state of a project without open work."""


def orchestrator(tx: Connection, workspace_id: str, project_id: str, *, thresholds: StatusThresholds) -> dict[str, Any]:
    """Return the project's supervisor as JSON: status from the heartbeat's age, agents and counts.

    ``timeSinceLastPoll`` is in milliseconds; times are ISO 8601 in UTC.
    """
    supervisor = supervisors.get(tx, workspace_id, project_id)
    project = projects.get(tx, workspace_id, project_id)
    settings = SupervisorSettings() if project is None else SupervisorSettings.of(project.settings)
    age = None if supervisor is None or supervisor.ended_at is not None else supervisor.age
    status = status_of(age, thresholds)
    is_completed = t.workspace_id == workspace_id, t.project_id == project_id, t.state == TaskState.COMPLETED
    completed = tx.execute(select(func.count()).where(*is_completed)).scalar_one()
    return {
        "status": status.value,
        "isRunning": status is SupervisorStatus.RUNNING,
        "isHealthy": status is SupervisorStatus.RUNNING and not (supervisor and supervisor.error),
        "lastPoll": supervisor.heartbeat_at.isoformat() if supervisor else None,
        "timeSinceLastPoll": round(supervisor.age.total_seconds() * 1000) if supervisor else None,
        "sessionKey": supervisor.session_key if supervisor else None,
        "activeAgents": _active(tx, workspace_id, project_id),
        "completedCount": completed,
        "state": supervisor.state if supervisor else {},
        "strategy": settings.strategy,
        "model": settings.model,
        "expiresAt": supervisor.expires_at.isoformat() if supervisor else None,
        "endedAt": supervisor.ended_at.isoformat() if supervisor and supervisor.ended_at else None,
        "error": supervisor.error if supervisor else None,
        "failingSince": supervisor.failing_since.isoformat() if supervisor and supervisor.failing_since else None,
    }


def _active(tx: Connection, workspace_id: str, project_id: str) -> list[dict[str, Any]]:
    a, agent = attempts.c, name_of(t.agent_id).label("agent")
    rows = tx.execute(
        select(t.key, t.title, agent, a.started_at, a.number, workers.c.name)
        .join(attempts, t.id == looked_up(a.task_id))
        .outerjoin(workers, workers.c.id == a.worker_id)
        .where(a.workspace_id == workspace_id, a.project_id == project_id, a.finished_at.is_(None))
        .where(t.state == TaskState.RUNNING)
        .order_by(a.started_at)
    )
    return [
        {
            "agentId": row.agent or row.name,
            "taskId": row.key,
            "taskTitle": row.title,
            "spawnedAt": row.started_at.isoformat(),
            "sessionKey": f"{row.name}:{row.key}:{row.number}",
        }
        for row in rows
    ]
