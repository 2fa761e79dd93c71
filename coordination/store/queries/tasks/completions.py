"""The completion of many attempts at once: tasks, evidence, events, and the release of what waited for them.

Written by hand for each database, as claims are: PostgreSQL does everything in one trip, SQLite in a few statements
over one JSON document. Rows are locked in the order of their ids, parents and children together, so that two
completions that meet the same children never wait for each other in a ring.
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
from coordination.domain.attempts.attempt_ends import EndedAttempt, event_payload
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import MOVES, BlockReason, DependencyKind, TaskMove
from coordination.store.driver import rows as rows_of
from coordination.store.queries.access import principals
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.types import MAX_JSON_BYTES, clean_json, clean_text, iso


@dataclass(frozen=True, slots=True)
class ReleasedTask:
    """A task that nothing holds any more."""

    ready: ReadyTask
    run_id: str
    priority: int


class _Row(NamedTuple):
    """What the statements return of a task: one that was completed (without a run), or one that this freed."""

    id: str
    run_id: str | None
    attempt: int
    key: str
    title: str
    kind: str
    priority: int


((_RUNNING,), _COMPLETED), (_, _QUEUED) = MOVES[TaskMove.COMPLETE], MOVES[TaskMove.UNBLOCK]
_HOLDING = ", ".join(f"'{kind}'" for kind in DependencyKind if kind.holds_back)
_OTHERS = 0xFFFF & ~int(BlockReason.DEPENDENCIES)
_ONLY = int(BlockReason.DEPENDENCIES)

# A child's new counter, reasons and state, given how many of its edges ("less.n") were just satisfied. Ended children
# too: one that is being reopened right now is waited for, and counted when it is blocked again.
_LESS = f"""
    pending = CASE WHEN t.pending > less.n THEN t.pending - less.n ELSE 0 END,
    reasons = CASE WHEN t.pending > less.n THEN t.reasons ELSE t.reasons & {_OTHERS} END,
    state = CASE WHEN t.pending <= less.n AND t.reasons = {_ONLY} THEN '{_QUEUED}' ELSE t.state END"""

# A fence that holds.
# "|| ''" keeps the planner from the indexes on states, as in claims. A plan is kept for as long as its connection, also
# one that was made while few tasks were stored: then whole indexes are read to join them, with all that came since. So
# rows are looked up one by one: "= ANY(ARRAY[...])" can be neither hashed nor merged, and a LATERAL with FOR UPDATE or
# OFFSET 0 stays what it is.
_HELD = f"t.attempt = ended.n AND t.state || '' = '{_RUNNING}'"
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
    WHERE t.id = ANY(ARRAY[ended.id]) AND t.workspace_id = %(workspace)s::uuid AND {_HELD}
        AND (SELECT count(*) FROM locked) > 0 -- first all locks, in their order
    RETURNING t.id, t.run_id, ended.o, ended.n, ended.output, ended.code, ended.error, ended.log, ended.payload
), closed AS (
    UPDATE attempts a
    SET finished_at = now(), outcome = '{Outcome.COMPLETED}', exit_code = done.code, error = done.error,
        output = done.output, log = done.log
    FROM done
    WHERE a.task_id = ANY(ARRAY[done.id]) AND a.number = ANY(ARRAY[done.n]) AND a.outcome IS NULL
), met AS (
    UPDATE dependencies d SET satisfied_at = now()
    FROM done WHERE d.parent_id = ANY(ARRAY[done.id]) AND d.kind IN ({_HOLDING}) AND d.satisfied_at IS NULL
    RETURNING d.child_id
), less AS (
    SELECT child_id, count(*)::int AS n FROM met GROUP BY child_id
), freed AS (
    UPDATE tasks t SET {_LESS}, updated_at = now()
    FROM less WHERE t.id = ANY(ARRAY[less.child_id]) AND t.pending > 0
    RETURNING t.id, t.state, t.run_id, t.attempt, t.key, t.title, t.kind, t.priority
), told AS (
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
WHERE t.id = ended.id AND t.workspace_id = :workspace AND {_HELD}
RETURNING id, attempt
"""
_SQLITE_CLOSE = f"""
UPDATE attempts AS a
SET finished_at = :now, outcome = '{Outcome.COMPLETED}', exit_code = ended.code, error = ended.error,
    output = ended.output, log = ended.log
FROM {_SQLITE_ENDED}
WHERE a.task_id = ended.id AND a.number = ended.n AND a.finished_at IS NULL
"""
_SQLITE_TELL = f"""
INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, actor_id, payload, created_at)
SELECT 0, t.workspace_id, t.project_id, t.run_id, t.id, ended.n, '{EventType.COMPLETED}', :actor, ended.payload, :now
FROM {_SQLITE_ENDED} JOIN tasks AS t ON t.id = ended.id
ORDER BY ended.o
"""
_SQLITE_MEET = f"""
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
_SQLITE_SAY = f"""
INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, type, created_at)
SELECT 0, t.workspace_id, t.project_id, t.run_id, t.id, '{EventType.UNBLOCKED}', :now
FROM json_each(:ids) AS freed JOIN tasks AS t ON t.id = freed.value
"""


def complete(
    tx: Connection, workspace_id: str, project_id: str, ends: Sequence[EndedAttempt], *, actor: str | None
) -> tuple[set[tuple[str, int]], list[ReleasedTask]]:
    """Complete the tasks still held by these attempts; return the fences that held, and what that freed, best first.

    Raises Refused when an output cannot be kept: then nothing may be committed.
    """
    payloads = [event_payload(ended) for ended in ends]
    cleaned = {id(payload): clean_json(payload) for payload in {id(each): each for each in payloads}.values()}
    document = json.dumps(
        # By their ids, as heartbeats lock attempts; "o" says in which order they happened.
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
        held, rows = _on_postgresql(tx, scope)
    else:
        held, rows = _on_sqlite(tx, scope, len(ends))
    freed = [
        ReleasedTask(ReadyTask(row.id, row.attempt, row.key, row.title, row.kind), row.run_id or "", row.priority)
        for row in rows
    ]
    freed.sort(key=lambda one: (-one.priority, one.ready.id))
    return held, freed


def _row(number: int, ended: EndedAttempt, payload: Any) -> dict[str, Any]:
    """Return what the statements read of one completion; what it does not say is left out, and NULL there."""
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
    held: set[tuple[str, int]] = set()
    freed: list[_Row] = []
    for row in map(_Row._make, rows_of(tx, _POSTGRESQL, scope)):
        if row.run_id is None:
            held.add((row.id, row.attempt))
        else:
            freed.append(row)
    return held, freed


def _on_sqlite(tx: Connection, scope: dict[str, Any], count: int) -> tuple[set[tuple[str, int]], list[_Row]]:
    values = {**scope, "now": iso(datetime.now(UTC))}
    held = {(task_id, attempt) for task_id, attempt in rows_of(tx, _SQLITE_DONE, values)}
    if not held:
        return held, []
    if len(held) < count:
        values["rows"] = json.dumps([row for row in json.loads(values["rows"]) if (row["id"], row["n"]) in held])
    tx.exec_driver_sql(_SQLITE_CLOSE, values)
    tx.exec_driver_sql(_SQLITE_TELL, values)
    less = Counter(child_id for (child_id,) in rows_of(tx, _SQLITE_MEET, values))
    if not less:
        return held, []
    values["less"] = json.dumps(less)
    freed = [_Row(*task) for *task, state in rows_of(tx, _SQLITE_LESS, values) if state == _QUEUED]
    if freed:
        tx.exec_driver_sql(_SQLITE_SAY, {**values, "ids": json.dumps([row.id for row in freed])})
    return held, freed
