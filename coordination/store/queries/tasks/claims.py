"""Claim many ready tasks at once: increment the fence, open attempts with their leases, write events.

The statements are written by hand for each database, because they are the hottest: PostgreSQL needs one round trip,
SQLite four short statements. ``claim_free`` skips tasks to which a hold may apply, by the conditions that the caller
passes; ``flows.tasks.claim_tasks`` handles these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection

from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.tasks import DependencyKind
from coordination.store.driver import rows as rows_of
from coordination.store.queries.predicates import ASKS_A_MODEL, CLAIMABLE, CLAIMED, QUEUED
from coordination.store.types import iso

HOLDING = ", ".join(f"'{kind}'" for kind in DependencyKind if kind.holds_back)


class _Ready(NamedTuple):
    """A row of a claim: columns of the task, except in ``_COLUMNS``; JSON as text; ``needs``: upstream outputs."""

    id: str
    attempt: int
    project_id: str
    project: str
    run_id: str
    session_id: str | None
    python_path: str
    key: str
    title: str
    work: str
    input: str
    agent: str | None
    timeout: float | None
    stall_timeout: float | None
    workdir: str | None
    max_attempts: int
    failures: int
    losses: int
    deferrals: int
    options: str
    repeatable: bool
    kind: str
    carried: str | None
    priority: int
    agent_id: str | None
    authority: str | None
    needs: str


_CANDIDATE_NAMES = (
    *("id", "project_id", "run_id", "session_id", "agent_id", "concurrency_key"),
    *("work", "options", "carried"),
)
_COLUMNS = {
    "attempt": "t.attempt + 1",
    "project": "p.name",
    "session_id": "r.session_id",
    "python_path": "r.python_path",
    "agent": "CASE WHEN t.agent_id IS NOT NULL THEN (SELECT name FROM principals WHERE id = t.agent_id) END",
}
_IDS = {"id", "project_id", "run_id", "session_id", "agent_id"}
_TEXTS = _IDS | {"python_path", "work", "input", "options", "carried", "authority"}
"""Ids and JSON, which PostgreSQL has to cast to text, as SQLite stores them."""

_READY = ", ".join(f"{_COLUMNS.get(name, f't.{name}')} AS {name}" for name in _Ready._fields if name != "needs")
_READY_TEXTS = ", ".join(f"{name}::text" if name in _TEXTS else name for name in _Ready._fields if name != "needs")
_CANDIDATE = ", ".join(_COLUMNS.get(name, f"t.{name}") for name in _CANDIDATE_NAMES)
_CANDIDATE_TEXTS = ", ".join(
    _COLUMNS.get(name, f"t.{name}") + ("::text" if name in _TEXTS else "") for name in _CANDIDATE_NAMES
)

# The project and the run of each task. OFFSET 0 keeps PostgreSQL from reading all of them for a join.
_POSTGRESQL_OWNERS = """
    CROSS JOIN LATERAL (SELECT name, status, stopped, settings, model_restrictions
        FROM projects WHERE id = t.project_id OFFSET 0) AS p
    CROSS JOIN LATERAL (SELECT session_id, python_path FROM runs WHERE id = t.run_id OFFSET 0) AS r"""
_POSTGRESQL_IDS = """t.workspace_id = %(workspace)s::uuid AND t.id = ANY(%(ids)s::uuid[])
        AND (t.not_before IS NULL OR t.not_before <= now())"""
_SQLITE_OWNERS = "JOIN projects p ON p.id = t.project_id JOIN runs r ON r.id = t.run_id"
_SQLITE_IDS = """t.id IN (SELECT value FROM json_each(:ids)) AND t.workspace_id = :workspace
    AND (t.not_before IS NULL OR t.not_before <= :now)"""

# The JSON of other jobs is not parsed.
_ACCOUNT = f"CASE WHEN {ASKS_A_MODEL} THEN t.work ->> 'account' END"
_USES = ", used.value -> 'slots', used.value -> 'reserved'"
_JOIN_USES = " JOIN json_each(%(uses)s::json) AS used ON used.key = t.id::text"


# The outputs of the dependencies are in the same statement, which saves a second one.
def _postgresql(condition: str, *, uses: bool) -> str:
    return f"""
WITH ready AS MATERIALIZED (
    SELECT {_READY}
    FROM tasks t {_POSTGRESQL_OWNERS}
    WHERE {_POSTGRESQL_IDS} AND {condition}
    ORDER BY t.priority DESC, t.id
    LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
), claimed AS (
    UPDATE tasks t
    SET state = '{CLAIMED}', attempt = ready.attempt, enqueued_at = NULL, not_before = NULL, error = NULL,
        updated_at = now()
    FROM ready WHERE t.id = ANY(ARRAY[ready.id])
), opened AS (
    INSERT INTO attempts (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at,
        lease_until, agent_id, account{", slots, reserved" if uses else ""})
    SELECT id, attempt, %(workspace)s::uuid, project_id, run_id, %(worker)s::uuid, now(), now(),
        now() + make_interval(secs => %(lease)s), agent_id, {_ACCOUNT}{_USES if uses else ""}
    FROM ready AS t{_JOIN_USES if uses else ""}
), logged AS (
    INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor_id, created_at)
    SELECT pg_current_xact_id()::text::bigint, %(workspace)s::uuid, project_id, run_id, id, attempt, 'claimed',
        %(worker)s::uuid, now()
    FROM ready
)
SELECT {_READY_TEXTS},
    (SELECT json_object_agg(n.key, json_build_object('state', n.state, 'output', CASE WHEN n.state = 'completed' THEN
            (SELECT a.output FROM attempts a WHERE a.task_id = n.id AND a.number = n.attempt) END))::text
        FROM dependencies d
            CROSS JOIN LATERAL (SELECT id, key, state, attempt FROM tasks WHERE id = d.parent_id OFFSET 0) AS n
        WHERE d.child_id = ready.id AND d.kind IN ({HOLDING})) AS needs
FROM ready ORDER BY priority DESC, id
"""


def _sqlite(condition: str) -> str:
    return f"""
SELECT {_READY},
    (SELECT json_group_object(n.key, json_object('state', n.state, 'output',
            json(CASE WHEN n.state = 'completed' THEN a.output END)))
        FROM dependencies d JOIN tasks n ON n.id = d.parent_id
        LEFT JOIN attempts a ON a.task_id = n.id AND a.number = n.attempt
        WHERE d.child_id = t.id AND d.kind IN ({HOLDING})) AS needs
FROM tasks t {_SQLITE_OWNERS}
WHERE {_SQLITE_IDS} AND {condition}
ORDER BY t.priority DESC, t.id
LIMIT :limit
"""


@cache
def _free(dialect: str, conditions: tuple[str, ...]) -> str:
    """Return the statement that claims the tasks to which none of *conditions* applies."""
    condition = " AND ".join([CLAIMABLE, *(f"NOT {each}" for each in conditions)])
    return _postgresql(condition, uses=False) if dialect == "postgresql" else _sqlite(condition)


@cache
def _candidates(dialect: str, conditions: tuple[str, ...]) -> str:
    """Return the statement that locks ready tasks, with a column for each of *conditions*."""
    more = "".join(f", {each}" for each in conditions)
    if dialect == "postgresql":
        return f"""SELECT {_CANDIDATE_TEXTS}{more} FROM tasks t {_POSTGRESQL_OWNERS}
WHERE {_POSTGRESQL_IDS} AND {CLAIMABLE} ORDER BY t.priority DESC, t.id FOR UPDATE OF t SKIP LOCKED"""
    return f"""SELECT {_CANDIDATE}{more} FROM tasks t {_SQLITE_OWNERS}
WHERE {_SQLITE_IDS} AND {CLAIMABLE} ORDER BY t.priority DESC, t.id"""


_POSTGRESQL_CHOSEN, _SQLITE_CHOSEN = _postgresql(CLAIMABLE, uses=True), _sqlite(CLAIMABLE)
_SQLITE_CLAIM = f"""
UPDATE tasks
SET state = '{CLAIMED}', attempt = attempt + 1, enqueued_at = NULL, not_before = NULL, error = NULL, updated_at = :now
WHERE id IN (SELECT value FROM json_each(:ids))
"""
_SQLITE_OPEN = f"""
INSERT INTO attempts
    (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at, lease_until, agent_id,
        account)
SELECT id, attempt, workspace_id, project_id, run_id, :worker, :now, :now, :lease_until, agent_id, {_ACCOUNT}
FROM tasks t WHERE id IN (SELECT value FROM json_each(:ids))
"""
_SQLITE_OPEN_WITH_USES = f"""
INSERT INTO attempts
    (task_id, number, workspace_id, project_id, run_id, worker_id, started_at, heartbeat_at, lease_until,
        agent_id, account, slots, reserved)
SELECT t.id, t.attempt, t.workspace_id, t.project_id, t.run_id, :worker, :now, :now, :lease_until, t.agent_id,
    {_ACCOUNT}, used.value -> '$.slots', used.value -> '$.reserved'
FROM tasks t JOIN json_each(:uses) used ON used.key = t.id
"""
_SQLITE_LOG = """
INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor_id, created_at)
SELECT 0, t.workspace_id, t.project_id, t.run_id, t.id, t.attempt, 'claimed', :worker, :now
FROM json_each(:ids) claimed JOIN tasks t ON t.id = claimed.value
"""


def claim_free(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    *,
    held_if: tuple[str, ...],
    worker_id: str,
    lease: timedelta,
    limit: int | None = None,
) -> list[Claim]:
    """Claim those of *ids* that are ready and to which no condition of *held_if* applies; best first.

    Rows that other transactions have locked are skipped.
    """
    statement = _free(tx.dialect.name, held_if)
    return _claim(tx, workspace_id, ids, statement, worker_id=worker_id, lease=lease, limit=limit, uses=None)


def claim_chosen(
    tx: Connection, workspace_id: str, uses: Mapping[str, Mapping[str, Any]], *, worker_id: str, lease: timedelta
) -> list[Claim]:
    """Claim ready tasks that this transaction has locked; best first.

    *uses*: by task id, the stored values of ``slots`` and ``reserved`` of its attempt.
    """
    statement = _POSTGRESQL_CHOSEN if tx.dialect.name == "postgresql" else _SQLITE_CHOSEN
    return _claim(tx, workspace_id, list(uses), statement, worker_id=worker_id, lease=lease, limit=None, uses=uses)


def _claim(
    tx: Connection,
    workspace_id: str,
    ids: Sequence[str],
    statement: str,
    *,
    worker_id: str,
    lease: timedelta,
    limit: int | None,
    uses: Mapping[str, Mapping[str, Any]] | None,
) -> list[Claim]:
    uses_json = {} if uses is None else {"uses": json.dumps(uses)}
    if tx.dialect.name == "postgresql":
        values = {"workspace": workspace_id, "ids": list(ids), "worker": worker_id, "limit": limit}
        rows = rows_of(tx, statement, {**values, "lease": lease.total_seconds(), **uses_json})
        return _claims(workspace_id, rows)
    now = datetime.now(UTC)
    values = {"workspace": workspace_id, "ids": json.dumps(list(ids)), "now": iso(now)}
    rows = rows_of(tx, statement, {**values, "limit": -1 if limit is None else limit})
    if not rows:
        return []
    claimed = {"ids": json.dumps([row[0] for row in rows]), "now": iso(now), "worker": worker_id}
    tx.exec_driver_sql(_SQLITE_CLAIM, claimed)
    leased = {**claimed, **uses_json, "lease_until": iso(now + lease)}
    tx.exec_driver_sql(_SQLITE_OPEN if uses is None else _SQLITE_OPEN_WITH_USES, leased)
    tx.exec_driver_sql(_SQLITE_LOG, claimed)
    return _claims(workspace_id, rows)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A locked ready task, to which holds may apply. ``conditions``: whether each of the conditions applies to it."""

    id: str
    workspace_id: str
    project_id: str
    run_id: str
    session_id: str | None
    agent_id: str | None
    concurrency_key: str | None
    work: dict[str, Any]
    options: dict[str, Any]
    carried: dict[str, Any] | None
    conditions: tuple[bool, ...]

    def row(self) -> dict[str, Any]:
        """Return the fields as a mapping."""
        return {name: getattr(self, name) for name in self.__slots__}


def lock_candidates(
    tx: Connection, workspace_id: str, ids: Sequence[str], *, held_if: tuple[str, ...]
) -> list[Candidate]:
    """Lock those of *ids* that are queued and due, best first. Skips rows that other transactions have locked."""
    statement = _candidates(tx.dialect.name, held_if)
    if tx.dialect.name == "postgresql":
        rows = rows_of(tx, statement, {"workspace": workspace_id, "ids": list(ids)})
    else:
        now = iso(datetime.now(UTC))
        rows = rows_of(tx, statement, {"workspace": workspace_id, "ids": json.dumps(list(ids)), "now": now})
    width, parsed = len(_CANDIDATE_NAMES), JsonCache()
    candidates = []
    for row in rows:
        values = dict(zip(_CANDIDATE_NAMES, row[:width], strict=True))
        values |= {name: parsed[values[name]] for name in ("work", "options", "carried")}
        conditions = tuple(map(bool, row[width:]))
        candidates.append(Candidate(**values, workspace_id=workspace_id, conditions=conditions))
    return candidates


_ENQUEUED = f"""
SELECT id::text FROM tasks
WHERE id = ANY(%(ids)s::uuid[]) AND workspace_id = %(workspace)s::uuid AND state || '' = '{QUEUED}'
    AND enqueued_at IS NOT NULL AND (not_before IS NULL OR not_before <= now())
"""


def still_enqueued(tx: Connection, workspace_id: str, ids: Sequence[str]) -> list[str]:
    """Return those of *ids* that could be claimed, but that another transaction has locked, perhaps only briefly.

    Empty on SQLite, where no one else writes meanwhile.
    """
    if not ids or tx.dialect.name == "sqlite":
        return []
    return list(tx.exec_driver_sql(_ENQUEUED, {"workspace": workspace_id, "ids": list(ids)}).scalars())


class JsonCache(dict[str | None, Any]):
    """Parsed JSON values by their text, because many tasks have equal texts. None is an empty object.

    Claims share these values, so that they must not be changed.
    """

    def __missing__(self, text: str | None) -> Any:
        value = self[text] = {} if text is None else json.loads(text)
        return value


def _claims(workspace_id: str, rows: Sequence[Sequence[Any]]) -> list[Claim]:
    """Return the claims of these rows."""
    parsed = JsonCache()
    return [_claim_of(workspace_id, _Ready._make(row), parsed) for row in rows]


def _claim_of(workspace_id: str, row: _Ready, parsed: JsonCache) -> Claim:
    options = parsed[row.options]
    return Claim(
        task_id=row.id,
        attempt=row.attempt,
        workspace_id=workspace_id,
        project_id=row.project_id,
        project=row.project,
        run_id=row.run_id,
        session_id=row.session_id,
        key=row.key,
        title=row.title,
        work=parsed[row.work],
        input=parsed[row.input],
        needs=parsed[row.needs],
        agent=row.agent,
        timeout=_duration(row.timeout),
        stall_timeout=_duration(row.stall_timeout),
        workdir=row.workdir,
        python_path=tuple(parsed[row.python_path]),
        max_attempts=row.max_attempts,
        failures=row.failures,
        losses=row.losses,
        deferrals=row.deferrals,
        backoff=options.get("backoff", {}),
        repeatable=bool(row.repeatable),
        kind=row.kind,
        options=options,
        carried_over=parsed[row.carried] or {},
        agent_id=row.agent_id,
        authority=parsed[row.authority] or None,
    )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
