"""The claim of many ready tasks at once: fence raised, attempts opened with their leases, events written.

Written by hand for each database, because this is the hottest statement of all: PostgreSQL does everything in one trip,
SQLite in four short statements without a trip. Tasks of projects with limits, of held projects, and tasks with budgets
are left alone here: ``flows.claim_tasks`` treats them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.domain.attempts import Claim
from coordination.domain.projects import ProjectStatus
from coordination.domain.tasks import DependencyKind
from coordination.store.queries.budgets import BUDGETED
from coordination.store.types import iso

HELD_PROJECTS = (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)
HELD = ", ".join(f"'{status}'" for status in HELD_PROJECTS)
HOLDING = ", ".join(f"'{kind}'" for kind in DependencyKind if kind.holds_back)

COLUMNS = """
    t.id, t.attempt + 1 AS attempt, t.project_id, p.name AS project, t.run_id, r.session_id, r.python_path,
    t.key, t.title, t.work, t.input, t.agent, t.timeout, t.stall_timeout, t.workdir, t.max_attempts, t.failures,
    t.losses, t.deferrals, t.options, t.repeatable, t.kind, t.carried, t.priority"""

TEXTS = (
    *("t.id", "t.project_id", "t.run_id", "r.session_id"),
    *("r.python_path", "t.work", "t.input", "t.options", "t.carried"),
)
"""Those of COLUMNS, ids and JSON, that are asked for as texts on PostgreSQL, as they are on SQLite."""

# "|| ''" keeps the planner from the indexes on states: with figures from a time when few tasks had a state, it reads
# all that have it now instead of the few rows that are named. So does asking for the outcome: an attempt that has not
# finished has none, and the index on unfinished ones is not for this.
_READY = f"""
    t.state || '' = 'queued' AND p.status NOT IN ({HELD})
    AND NOT EXISTS (SELECT 1 FROM slots s WHERE s.project_id = t.project_id)
    AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.task_id = t.id AND a.outcome IS NULL)"""
_UNLIMITED = f"""{_READY}
    AND NOT {BUDGETED}"""


# What the dependencies produced comes along, so that no second look is needed.
def _postgresql(ready: str) -> str:
    return f"""
WITH ready AS MATERIALIZED (
    SELECT {COLUMNS}
    FROM tasks t JOIN projects p ON p.id = t.project_id JOIN runs r ON r.id = t.run_id
    WHERE t.workspace_id = %(workspace)s::uuid AND t.id = ANY(%(ids)s::uuid[])
        AND (t.not_before IS NULL OR t.not_before <= now()) AND {ready}
    ORDER BY t.priority DESC, t.id
    LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
), claimed AS (
    UPDATE tasks t
    SET state = 'running', attempt = ready.attempt, rung_at = NULL, not_before = NULL, error = NULL, updated_at = now()
    FROM ready WHERE t.id = ready.id
), opened AS (
    INSERT INTO attempts (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at,
        lease_until)
    SELECT id, attempt, %(workspace)s::uuid, project_id, run_id, %(worker)s::uuid, now(), now(),
        now() + make_interval(secs => %(lease)s)
    FROM ready
), told AS (
    INSERT INTO task_events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor, created_at)
    SELECT pg_current_xact_id()::text::bigint, %(workspace)s::uuid, project_id, run_id, id, attempt, 'claimed',
        'worker:' || %(worker)s, now()
    FROM ready
)
SELECT id::text, attempt, project_id::text, project, run_id::text, session_id::text, python_path::text, key, title,
    work::text, input::text, agent, timeout, stall_timeout, workdir, max_attempts, failures, losses, deferrals,
    options::text, repeatable, kind, carried::text, priority,
    (SELECT json_object_agg(n.key, json_build_object('state', n.state, 'output',
            CASE WHEN n.state = 'completed' THEN a.output END))::text
        FROM dependencies d JOIN tasks n ON n.id = d.parent_id
        LEFT JOIN attempts a ON a.task_id = n.id AND a.number = n.attempt
        WHERE d.child_id = ready.id AND d.kind IN ({HOLDING})) AS needs
FROM ready ORDER BY priority DESC, id
"""


def _sqlite_ready(ready: str) -> str:
    return f"""
SELECT {COLUMNS},
    (SELECT json_group_object(n.key, json_object('state', n.state, 'output',
            json(CASE WHEN n.state = 'completed' THEN a.output END)))
        FROM dependencies d JOIN tasks n ON n.id = d.parent_id
        LEFT JOIN attempts a ON a.task_id = n.id AND a.number = n.attempt
        WHERE d.child_id = t.id AND d.kind IN ({HOLDING})) AS needs
FROM tasks t JOIN projects p ON p.id = t.project_id JOIN runs r ON r.id = t.run_id
WHERE t.id IN (SELECT value FROM json_each(:ids)) AND t.workspace_id = :workspace
    AND (t.not_before IS NULL OR t.not_before <= :now) AND {ready}
ORDER BY t.priority DESC, t.id
LIMIT :limit
"""


_POSTGRESQL = {False: _postgresql(_UNLIMITED), True: _postgresql(_READY)}  # by whether budgets were seen to
_SQLITE_READY = {False: _sqlite_ready(_UNLIMITED), True: _sqlite_ready(_READY)}
_SQLITE_CLAIM = """
UPDATE tasks
SET state = 'running', attempt = attempt + 1, rung_at = NULL, not_before = NULL, error = NULL, updated_at = :now
WHERE id IN (SELECT value FROM json_each(:ids))
"""
_SQLITE_OPEN = """
INSERT INTO attempts
    (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at, lease_until)
SELECT id, attempt, workspace_id, project_id, run_id, :worker, :now, :now, :lease_until
FROM tasks WHERE id IN (SELECT value FROM json_each(:ids))
"""
_SQLITE_TELL = """
INSERT INTO task_events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor, created_at)
SELECT 0, t.workspace_id, t.project_id, t.run_id, t.id, t.attempt, 'claimed', 'worker:' || :worker, :now
FROM json_each(:ids) wanted JOIN tasks t ON t.id = wanted.value
"""


def claim_unlimited(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    *,
    worker_id: str,
    lease: timedelta,
    limit: int | None = None,
    reserved: bool = False,
) -> list[Claim]:
    """Claim those of *ids* that are ready and in projects without limits; best first. Others' locks are skipped.

    Those to which a budget applies are left alone too, unless what they need of it is *reserved*.
    """
    if tx.dialect.name == "postgresql":
        found = tx.exec_driver_sql(
            _POSTGRESQL[reserved],
            {
                "workspace": workspace_id,
                "ids": list(ids),
                "worker": worker_id,
                "lease": lease.total_seconds(),
                "limit": limit,
            },
        )
        read = JsonTexts()
        return [claim_of(workspace_id, row, read, needs=row[24]) for row in found.all()]
    now = datetime.now(UTC)
    wanted = {
        "workspace": workspace_id,
        "ids": json.dumps(list(ids)),
        "now": iso(now),
        "limit": -1 if limit is None else limit,
    }
    rows = tx.exec_driver_sql(_SQLITE_READY[reserved], wanted).all()
    if not rows:
        return []
    mine = {"ids": json.dumps([row[0] for row in rows]), "now": iso(now), "worker": worker_id}
    tx.exec_driver_sql(_SQLITE_CLAIM, mine)
    tx.exec_driver_sql(_SQLITE_OPEN, {**mine, "lease_until": iso(now + lease)})
    tx.exec_driver_sql(_SQLITE_TELL, mine)
    read = JsonTexts()
    return [claim_of(workspace_id, row, read, needs=row[24]) for row in rows]


class JsonTexts(dict[str | None, Any]):
    """What the JSON columns of some rows say, by their texts: each text is parsed once, for most tasks say the same.

    So claims share values, and nobody may change them. No text is an empty object.
    """

    def __missing__(self, text: str | None) -> Any:
        value = self[text] = {} if text is None else json.loads(text)
        return value


def claim_of(workspace_id: str, row: Sequence[Any], read: JsonTexts, *, needs: str | None) -> Claim:
    """The claim that a row of COLUMNS is, its JSON as texts."""
    options = read[row[19]]
    return Claim(
        task_id=row[0],
        attempt=row[1],
        workspace_id=workspace_id,
        project_id=row[2],
        project=row[3],
        run_id=row[4],
        session_id=row[5],
        key=row[7],
        title=row[8],
        work=read[row[9]],
        input=read[row[10]],
        needs=read[needs],
        agent=row[11],
        timeout=_duration(row[12]),
        stall_timeout=_duration(row[13]),
        workdir=row[14],
        python_path=tuple(read[row[6]]),
        max_attempts=row[15],
        failures=row[16],
        losses=row[17],
        deferrals=row[18],
        backoff=options.get("backoff", {}),
        repeatable=bool(row[20]),
        kind=row[21],
        options=options,
        carried=read[row[22]] or {},
    )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
