"""Complete many attempts at once: tasks, results, events, and the release of downstream tasks.

The statements are written by hand for each database, as claims are: PostgreSQL needs one round trip, SQLite a few
statements over one JSON document. Rows are locked in the order of their ids, parents and children together, so that
two completions with the same children never deadlock.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.attempts.attempt_ends import EndedAttempt, build_end_payload
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import MOVES, BlockReason, DependencyKind, TaskMove
from coordination.store.driver import rows as rows_of
from coordination.store.queries.access import principals
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.types import MAX_JSON_BYTES, clean_json, clean_text, iso


@dataclass(frozen=True, slots=True)
class ReleasedTask:
    """A task that a completion made ready."""

    ready: ReadyTask
    run_id: str
    priority: int


class _Row(NamedTuple):
    """A row that the statements return: a completed task (without a run), or one that became ready."""

    id: str
    run_id: str | None
    attempt: int
    key: str
    title: str
    kind: str
    priority: int


((_RUNNING,), _COMPLETED), (_, _QUEUED) = MOVES[TaskMove.COMPLETE], MOVES[TaskMove.UNBLOCK]
_HOLDING = ", ".join(f"'{kind}'" for kind in DependencyKind if kind.holds_back)
_OTHER_REASONS = 0xFFFF & ~int(BlockReason.DEPENDENCIES)
_DEPENDENCIES_ONLY = int(BlockReason.DEPENDENCIES)

# A child's new counter, reasons and state, where "less.n" is the number of edges that were just satisfied. Children
# that have ended are included: a concurrent reopening is waited for, and the child is counted when blocked again.
_LESS = f"""
    pending = CASE WHEN t.pending > less.n THEN t.pending - less.n ELSE 0 END,
    reasons = CASE WHEN t.pending > less.n THEN t.reasons ELSE t.reasons & {_OTHER_REASONS} END,
    state = CASE WHEN t.pending <= less.n AND t.reasons = {_DEPENDENCIES_ONLY} THEN '{_QUEUED}' ELSE t.state END"""

# The fence is valid.
# "|| ''" keeps the planner from the indexes on states, as in claims. A connection keeps a plan that was made while few
# tasks were stored, and such a plan joins whole indexes. So lookups by key are forced: "= ANY(ARRAY[...])" can be
# neither hashed nor merged, and a LATERAL with FOR UPDATE or OFFSET 0 is not rewritten.
_VALID_FENCE = f"t.attempt = ended.n AND t.state || '' = '{_RUNNING}'"
_COMPLETE = f"state = '{_COMPLETED}', reasons = 0"

_POSTGRESQL = f"""
WITH ended AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS x
        (o int, id uuid, n int, output json, code int, error text, log text, payload json)
), wanted AS MATERIALIZED (
    SELECT id FROM ended
    UNION
    SELECT d.child_id FROM ended CROSS JOIN LATERAL (
        SELECT child_id FROM dependencies
        WHERE parent_id = ended.id AND satisfied_at IS NULL AND kind IN ({_HOLDING}) OFFSET 0) AS d
    ORDER BY 1
), locked AS MATERIALIZED (
    SELECT t.id FROM wanted CROSS JOIN LATERAL (SELECT id FROM tasks WHERE id = wanted.id FOR UPDATE) AS t
), done AS (
    UPDATE tasks t SET {_COMPLETE}, finished_at = now(), updated_at = now()
    FROM ended
    WHERE t.id = ANY(ARRAY[ended.id]) AND t.workspace_id = %(workspace)s::uuid AND {_VALID_FENCE}
        AND (SELECT count(*) FROM locked) > 0 -- take all locks first, in order
    RETURNING t.id, t.run_id, ended.o, ended.n, ended.output, ended.code, ended.error, ended.log, ended.payload
), closed AS (
    UPDATE attempts a
    SET finished_at = now(), outcome = '{Outcome.COMPLETED}', exit_code = done.code, error = done.error,
        output = done.output, log = done.log
    FROM done
    WHERE a.task_id = ANY(ARRAY[done.id]) AND a.number = ANY(ARRAY[done.n]) AND a.outcome IS NULL
), satisfied AS (
    UPDATE dependencies d SET satisfied_at = now()
    FROM done WHERE d.parent_id = ANY(ARRAY[done.id]) AND d.kind IN ({_HOLDING}) AND d.satisfied_at IS NULL
    RETURNING d.child_id
), less AS (
    SELECT child_id, count(*)::int AS n FROM satisfied GROUP BY child_id
), freed AS (
    UPDATE tasks t SET {_LESS}, updated_at = now()
    FROM less WHERE t.id = ANY(ARRAY[less.child_id]) AND t.pending > 0
    RETURNING t.id, t.state, t.run_id, t.attempt, t.key, t.title, t.kind, t.priority
), logged AS (
    INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor_id, payload, created_at)
    SELECT pg_current_xact_id()::text::bigint, %(workspace)s::uuid, %(project)s::uuid, run_id, id, n, type, actor,
        payload, now()
    FROM (
        SELECT run_id, id, n, '{EventType.COMPLETED}' AS type, %(actor)s::uuid AS actor, payload, o FROM done
        UNION ALL
        SELECT run_id, id, NULL, '{EventType.UNBLOCKED}', NULL, NULL, NULL FROM freed WHERE state = '{_QUEUED}'
    ) AS lines
    ORDER BY o NULLS LAST
)
SELECT id::text, NULL::text, n, NULL::text, NULL::text, NULL::text, NULL::int FROM done
UNION ALL
SELECT id::text, run_id::text, attempt + 1, key, title, kind, priority FROM freed WHERE state = '{_QUEUED}'
"""

_SQLITE_ENDED = """(
    SELECT value ->> '$.o' AS o, value ->> '$.id' AS id, value ->> '$.n' AS n, value ->> '$.code' AS code,
        value ->> '$.error' AS error, value ->> '$.log' AS log, nullif(value -> '$.output', 'null') AS output,
        value -> '$.payload' AS payload
    FROM json_each(:rows)) AS ended"""
_SQLITE_DONE = f"""
UPDATE tasks AS t SET {_COMPLETE}, finished_at = :now, updated_at = :now
FROM {_SQLITE_ENDED}
WHERE t.id = ended.id AND t.workspace_id = :workspace AND {_VALID_FENCE}
RETURNING id, attempt
"""
_SQLITE_CLOSE = f"""
UPDATE attempts AS a
SET finished_at = :now, outcome = '{Outcome.COMPLETED}', exit_code = ended.code, error = ended.error,
    output = ended.output, log = ended.log
FROM {_SQLITE_ENDED}
WHERE a.task_id = ended.id AND a.number = ended.n AND a.finished_at IS NULL
"""
_SQLITE_LOG_COMPLETED = f"""
INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor_id, payload, created_at)
SELECT 0, t.workspace_id, t.project_id, t.run_id, t.id, ended.n, '{EventType.COMPLETED}', :actor, ended.payload, :now
FROM {_SQLITE_ENDED} JOIN tasks AS t ON t.id = ended.id
ORDER BY ended.o
"""
_SQLITE_SATISFY = f"""
UPDATE dependencies SET satisfied_at = :now
WHERE parent_id IN (SELECT value ->> '$.id' FROM json_each(:rows)) AND kind IN ({_HOLDING}) AND satisfied_at IS NULL
RETURNING child_id
"""
_SQLITE_LESS = f"""
UPDATE tasks AS t SET {_LESS}, updated_at = :now
FROM (SELECT key AS id, value AS n FROM json_each(:less)) AS less
WHERE t.id = less.id AND t.pending > 0
RETURNING id, run_id, attempt + 1, key, title, kind, priority, state
"""
_SQLITE_LOG_UNBLOCKED = f"""
INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, type, created_at)
SELECT 0, t.workspace_id, t.project_id, t.run_id, t.id, '{EventType.UNBLOCKED}', :now
FROM json_each(:ids) AS freed JOIN tasks AS t ON t.id = freed.value
"""


def complete(
    tx: Connection, workspace_id: str, project_id: str, ends: Sequence[EndedAttempt], *, actor: str | None
) -> tuple[set[tuple[str, int]], list[ReleasedTask]]:
    """Complete the tasks of these attempts. Return the valid fences, and the tasks that became ready, best first.

    Raises Refused when an output cannot be stored: then the transaction must not be committed.
    """
    payloads = [build_end_payload(ended) for ended in ends]
    cleaned = {id(payload): clean_json(payload) for payload in {id(each): each for each in payloads}.values()}
    document = json.dumps(
        # Sorted by id, as heartbeats lock attempts; "o" is the original order.
        [
            _row(number, ended, cleaned[id(payloads[number])])
            for number, ended in sorted(enumerate(ends), key=lambda pair: pair[1].task_id)
        ],
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    if len(document) > MAX_JSON_BYTES:
        raise Refused(f"Results of {len(document):,} characters are larger than {MAX_JSON_BYTES:,}")
    actor_id = principals.id_or_none(tx, workspace_id, actor)
    scope = {"workspace": workspace_id, "project": project_id, "actor": actor_id, "rows": document}
    if tx.dialect.name == "postgresql":
        fences, rows = _on_postgresql(tx, scope)
    else:
        fences, rows = _on_sqlite(tx, scope, len(ends))
    freed = [
        ReleasedTask(ReadyTask(row.id, row.attempt, row.key, row.title, row.kind), row.run_id or "", row.priority)
        for row in rows
    ]
    freed.sort(key=lambda task: (-task.priority, task.ready.id))
    return fences, freed


def _row(number: int, ended: EndedAttempt, payload: Any) -> dict[str, Any]:
    """Return the JSON row of one completion. Values of None are omitted, which the statements read as NULL."""
    end = ended.end
    row = {"o": number, "id": ended.task_id, "n": ended.attempt, "payload": payload}
    if end.output is not None:
        row["output"] = clean_json(end.output)
    if end.exit_code is not None:
        row["code"] = end.exit_code
    if end.error is not None:
        row["error"] = clean_text(end.error)
    if end.log is not None:
        row["log"] = clean_text(end.log)
    return row


def _on_postgresql(tx: Connection, scope: dict[str, Any]) -> tuple[set[tuple[str, int]], list[_Row]]:
    fences: set[tuple[str, int]] = set()
    freed: list[_Row] = []
    for row in map(_Row._make, rows_of(tx, _POSTGRESQL, scope)):
        if row.run_id is None:
            fences.add((row.id, row.attempt))
        else:
            freed.append(row)
    return fences, freed


def _on_sqlite(tx: Connection, scope: dict[str, Any], count: int) -> tuple[set[tuple[str, int]], list[_Row]]:
    values = {**scope, "now": iso(datetime.now(UTC))}
    fences = {(task_id, attempt) for task_id, attempt in rows_of(tx, _SQLITE_DONE, values)}
    if not fences:
        return fences, []
    if len(fences) < count:
        values["rows"] = json.dumps([row for row in json.loads(values["rows"]) if (row["id"], row["n"]) in fences])
    tx.exec_driver_sql(_SQLITE_CLOSE, values)
    tx.exec_driver_sql(_SQLITE_LOG_COMPLETED, values)
    less = Counter(child_id for (child_id,) in rows_of(tx, _SQLITE_SATISFY, values))
    if not less:
        return fences, []
    values["less"] = json.dumps(less)
    freed = [_Row(*task) for *task, state in rows_of(tx, _SQLITE_LESS, values) if state == _QUEUED]
    if freed:
        tx.exec_driver_sql(_SQLITE_LOG_UNBLOCKED, {**values, "ids": json.dumps([row.id for row in freed])})
    return fences, freed
