"""The claim of many ready tasks at once: fence raised, attempts opened with their leases, events written.

Written by hand for each database, because this is the hottest statement of all: PostgreSQL does everything in one trip,
SQLite in four short statements without a trip. Tasks of projects with limits, of held projects, and tasks with budgets
are left alone here: ``flows.claim_tasks`` treats them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.domain.jobs.checkouts import MERGE_KEY
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.tasks import DependencyKind
from coordination.store.driver import rows as rows_of
from coordination.store.queries.money.budgets import BUDGETED
from coordination.store.types import iso

HELD_PROJECTS = (ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED)
HELD = ", ".join(f"'{status}'" for status in HELD_PROJECTS)
HOLDING = ", ".join(f"'{kind}'" for kind in DependencyKind if kind.holds_back)

AGENT = "CASE WHEN t.agent_id IS NOT NULL THEN (SELECT name FROM principals WHERE id = t.agent_id) END"
"""The name of the agent that a task (t) is for."""

COLUMNS = f"""
    t.id, t.attempt + 1 AS attempt, t.project_id, p.name AS project, t.run_id, r.session_id, r.python_path,
    t.key, t.title, t.work, t.input, {AGENT} AS agent, t.timeout, t.stall_timeout, t.workdir, t.max_attempts,
    t.failures, t.losses, t.deferrals, t.options, t.repeatable, t.kind, t.carried, t.priority, t.agent_id,
    t.authority"""

TEXTS = (
    *("t.id", "t.project_id", "t.run_id", "r.session_id"),
    *("r.python_path", "t.work", "t.input", "t.options", "t.carried", "t.agent_id", "t.authority"),
)
"""Those of COLUMNS, ids and JSON, that are asked for as texts on PostgreSQL, as they are on SQLite."""

OWNERS = """
    CROSS JOIN LATERAL (SELECT name, status, stopped FROM projects WHERE id = t.project_id OFFSET 0) AS p
    CROSS JOIN LATERAL (SELECT session_id, python_path FROM runs WHERE id = t.run_id OFFSET 0) AS r"""
"""The project (p) and the run (r) of each task (t) on PostgreSQL, which is kept from reading all of them for a join."""

# "|| ''" keeps the planner from the indexes on states: with figures from a time when few tasks had a state, it reads
# all that have it now instead of the few rows that are named. So does asking for the outcome: an attempt that has not
# finished has none, and the index on unfinished ones is not for this. A plan may be older than most rows, as in
# completions: a query for one value is made by its key, a task at a time, where EXISTS may become a join with an index.
NOT_HELD = "(SELECT 1 FROM attempts a WHERE a.task_id = t.id AND a.outcome IS NULL LIMIT 1) IS NULL"
_DUE = f"""
    t.state || '' = 'queued' AND {NOT_HELD}"""
# Conflict tasks of a run work one at a time, whether that limit is stored yet or not.
_LIMITED = f"""(COALESCE(substr(t.concurrency_key, 1, {len(MERGE_KEY)}), '') = '{MERGE_KEY}'
        OR EXISTS (SELECT 1 FROM slots s WHERE s.project_id = t.project_id))"""
_UNLIMITED = f"""{_DUE} AND p.status NOT IN ({HELD}) AND NOT p.stopped AND NOT {_LIMITED} AND NOT {BUDGETED}"""


# Looked for in the jobs alone that may name one: the others are not parsed for it.
_ACCOUNT = "CASE WHEN substr(kind, 1, 5) IN ('agent', 'chat:') THEN work ->> 'account' END"
_HELD = ", held.value -> 'slots', held.value -> 'reserved'"
_JOIN_HELD = " JOIN json_each(%(held)s::json) AS held ON held.key = ready.id::text"


# What the dependencies produced comes along, so that no second look is needed.
def _postgresql(ready: str, *, held: bool) -> str:
    return f"""
WITH ready AS MATERIALIZED (
    SELECT {COLUMNS}
    FROM tasks t {OWNERS}
    WHERE t.workspace_id = %(workspace)s::uuid AND t.id = ANY(%(ids)s::uuid[])
        AND (t.not_before IS NULL OR t.not_before <= now()) AND {ready}
    ORDER BY t.priority DESC, t.id
    LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
), claimed AS (
    UPDATE tasks t
    SET state = 'running', attempt = ready.attempt, enqueued_at = NULL, not_before = NULL, error = NULL,
        updated_at = now()
    FROM ready WHERE t.id = ANY(ARRAY[ready.id])
), opened AS (
    INSERT INTO attempts (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at,
        lease_until, agent_id, account{", slots, reserved" if held else ""})
    SELECT id, attempt, %(workspace)s::uuid, project_id, run_id, %(worker)s::uuid, now(), now(),
        now() + make_interval(secs => %(lease)s), agent_id, {_ACCOUNT}{_HELD if held else ""}
    FROM ready{_JOIN_HELD if held else ""}
), told AS (
    INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor_id, created_at)
    SELECT pg_current_xact_id()::text::bigint, %(workspace)s::uuid, project_id, run_id, id, attempt, 'claimed',
        %(worker)s::uuid, now()
    FROM ready
)
SELECT id::text, attempt, project_id::text, project, run_id::text, session_id::text, python_path::text, key, title,
    work::text, input::text, agent, timeout, stall_timeout, workdir, max_attempts, failures, losses, deferrals,
    options::text, repeatable, kind, carried::text, priority, agent_id::text, authority::text,
    (SELECT json_object_agg(n.key, json_build_object('state', n.state, 'output', CASE WHEN n.state = 'completed' THEN
            (SELECT a.output FROM attempts a WHERE a.task_id = n.id AND a.number = n.attempt) END))::text
        FROM dependencies d
            CROSS JOIN LATERAL (SELECT id, key, state, attempt FROM tasks WHERE id = d.parent_id OFFSET 0) AS n
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


_POSTGRESQL, _POSTGRESQL_CHOSEN = _postgresql(_UNLIMITED, held=False), _postgresql(_DUE, held=True)
_SQLITE_READY, _SQLITE_CHOSEN = _sqlite_ready(_UNLIMITED), _sqlite_ready(_DUE)
_SQLITE_CLAIM = """
UPDATE tasks
SET state = 'running', attempt = attempt + 1, enqueued_at = NULL, not_before = NULL, error = NULL, updated_at = :now
WHERE id IN (SELECT value FROM json_each(:ids))
"""
_SQLITE_OPEN = f"""
INSERT INTO attempts
    (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at, lease_until, agent_id,
        account)
SELECT id, attempt, workspace_id, project_id, run_id, :worker, :now, :now, :lease_until, agent_id, {_ACCOUNT}
FROM tasks WHERE id IN (SELECT value FROM json_each(:ids))
"""
_SQLITE_OPEN_HELD = f"""
INSERT INTO attempts
    (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at, lease_until,
        agent_id, account, slots, reserved)
SELECT t.id, t.attempt, t.workspace_id, t.project_id, t.run_id, :worker, :now, :now, :lease_until, t.agent_id,
    {_ACCOUNT}, held.value -> '$.slots', held.value -> '$.reserved'
FROM tasks t JOIN json_each(:held) held ON held.key = t.id
"""
_SQLITE_TELL = """
INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor_id, created_at)
SELECT 0, t.workspace_id, t.project_id, t.run_id, t.id, t.attempt, 'claimed', :worker, :now
FROM json_each(:ids) wanted JOIN tasks t ON t.id = wanted.value
"""


def claim_unlimited(
    tx: Connection, workspace_id: str, ids: Sequence[str], *, worker_id: str, lease: timedelta, limit: int | None = None
) -> list[Claim]:
    """Claim those of *ids* that are ready and that nothing limits; best first. Others' locks are skipped."""
    return _claim(tx, workspace_id, ids, worker_id=worker_id, lease=lease, limit=limit, held=None)


def claim_chosen(
    tx: Connection, workspace_id: str, held: Mapping[str, Mapping[str, Any]], *, worker_id: str, lease: timedelta
) -> list[Claim]:
    """Claim ready tasks that this transaction has locked and chosen, whatever limits them; best first.

    *held*: by task, what its attempt holds: ``slots`` and ``reserved`` as they are kept.
    """
    return _claim(tx, workspace_id, list(held), worker_id=worker_id, lease=lease, limit=None, held=held)


def _claim(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    *,
    worker_id: str,
    lease: timedelta,
    limit: int | None,
    held: Mapping[str, Mapping[str, Any]] | None,
) -> list[Claim]:
    given = {} if held is None else {"held": json.dumps(held)}
    if tx.dialect.name == "postgresql":
        values = {
            "workspace": workspace_id,
            "ids": list(ids),
            "worker": worker_id,
            "lease": lease.total_seconds(),
            "limit": limit,
        }
        found = rows_of(tx, _POSTGRESQL if held is None else _POSTGRESQL_CHOSEN, {**values, **given})
        read = JsonTexts()
        return [claim_of(workspace_id, row, read, needs=read[row[26]]) for row in found]
    now = datetime.now(UTC)
    wanted = {
        "workspace": workspace_id,
        "ids": json.dumps(list(ids)),
        "now": iso(now),
        "limit": -1 if limit is None else limit,
    }
    rows = rows_of(tx, _SQLITE_READY if held is None else _SQLITE_CHOSEN, wanted)
    if not rows:
        return []
    mine = {"ids": json.dumps([row[0] for row in rows]), "now": iso(now), "worker": worker_id}
    tx.exec_driver_sql(_SQLITE_CLAIM, mine)
    leased = {**mine, **given, "lease_until": iso(now + lease)}
    tx.exec_driver_sql(_SQLITE_OPEN if held is None else _SQLITE_OPEN_HELD, leased)
    tx.exec_driver_sql(_SQLITE_TELL, mine)
    read = JsonTexts()
    return [claim_of(workspace_id, row, read, needs=read[row[26]]) for row in rows]


@dataclass(frozen=True, slots=True)
class TaskToClaim:
    """A ready task that something limits, locked: what is asked to decide whether it may be claimed.

    ``slots``: its project has limits, or it is a conflict task. ``money``: budgets apply to it.
    """

    id: str
    workspace_id: str
    project_id: str
    run_id: str
    session_id: str | None
    agent_id: str | None
    concurrency_key: str | None
    status: ProjectStatus
    slots: bool
    money: bool
    work: dict[str, Any]
    options: dict[str, Any]
    carried: dict[str, Any] | None

    def row(self) -> dict[str, Any]:
        """As a mapping."""
        return {name: getattr(self, name) for name in self.__slots__}


_WAITING = f"""
SELECT {{id}}, {{project}}, {{run}}, {{session}}, CAST(t.agent_id AS TEXT), t.concurrency_key,
    CASE WHEN p.stopped THEN '{ProjectStatus.ON_HOLD}' ELSE p.status END, {_LIMITED}, {BUDGETED},
    {{work}}, {{options}}, {{carried}}
FROM tasks t {{owners}}
WHERE {{which}} AND {_DUE}
ORDER BY t.priority DESC, t.id"""
_POSTGRESQL_WAITING = (
    _WAITING.format(
        id="t.id::text",
        project="t.project_id::text",
        run="t.run_id::text",
        session="r.session_id::text",
        work="t.work::text",
        options="t.options::text",
        carried="t.carried::text",
        owners=OWNERS,
        which="""t.workspace_id = %(workspace)s::uuid AND t.id = ANY(%(ids)s::uuid[])
    AND (t.not_before IS NULL OR t.not_before <= now())""",
    )
    + " FOR UPDATE OF t SKIP LOCKED"
)
_SQLITE_WAITING = _WAITING.format(
    id="t.id",
    project="t.project_id",
    run="t.run_id",
    session="r.session_id",
    work="t.work",
    options="t.options",
    carried="t.carried",
    owners="JOIN projects p ON p.id = t.project_id JOIN runs r ON r.id = t.run_id",
    which="""t.workspace_id = :workspace AND t.id IN (SELECT value FROM json_each(:ids))
    AND (t.not_before IS NULL OR t.not_before <= :now)""",
)


def lock_waiting(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[TaskToClaim]:
    """Those of *ids* that are queued and due, locked against other claimers, best first. Others' locks are skipped."""
    if tx.dialect.name == "postgresql":
        rows = rows_of(tx, _POSTGRESQL_WAITING, {"workspace": workspace_id, "ids": list(ids)})
    else:
        given = {"workspace": workspace_id, "ids": json.dumps(list(ids)), "now": iso(datetime.now(UTC))}
        rows = rows_of(tx, _SQLITE_WAITING, given)
    read = JsonTexts()
    return [
        TaskToClaim(
            id=row[0],
            workspace_id=workspace_id,
            project_id=row[1],
            run_id=row[2],
            session_id=row[3],
            agent_id=row[4],
            concurrency_key=row[5],
            status=ProjectStatus(row[6]),
            slots=bool(row[7]),
            money=bool(row[8]),
            work=read[row[9]],
            options=read[row[10]],
            carried=read[row[11]],
        )
        for row in rows
    ]


_ENQUEUED = """
SELECT id::text FROM tasks
WHERE id = ANY(%(ids)s::uuid[]) AND workspace_id = %(workspace)s::uuid AND state || '' = 'queued'
    AND enqueued_at IS NOT NULL AND (not_before IS NULL OR not_before <= now())
"""


def still_enqueued(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    """Those of *ids* that a claim left alone although they may be claimed: somebody else has locked their rows.

    Perhaps to claim them, perhaps only for a moment. None on SQLite, where nobody else writes meanwhile.
    """
    if not ids or tx.dialect.name == "sqlite":
        return []
    return list(tx.exec_driver_sql(_ENQUEUED, {"workspace": workspace_id, "ids": list(ids)}).scalars())


class JsonTexts(dict[str | None, Any]):
    """What the JSON columns of some rows say, by their texts: each text is parsed once, for most tasks say the same.

    So claims share values, and nobody may change them. No text is an empty object.
    """

    def __missing__(self, text: str | None) -> Any:
        value = self[text] = {} if text is None else json.loads(text)
        return value


def claim_of(workspace_id: str, row: Sequence[Any], read: JsonTexts, *, needs: dict[str, dict[str, Any]]) -> Claim:
    """The claim that a row of COLUMNS is, its JSON as texts, with what its dependencies produced."""
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
        needs=needs,
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
        agent_id=row[24],
        authority=read[row[25]] or None,
    )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
