"""Statements on attempts: a claim opens them, and their end closes them once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, Text, bindparam, cast, func, insert, select, update

from coordination.base.errors import Refused
from coordination.domain.attempts.attempt_ends import EndedAttempt, build_end_payload
from coordination.domain.tasks.attempts import Attempt, Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import MOVES, BlockReason, DependencyKind, TaskMove, TaskState
from coordination.store.driver import rows as rows_of
from coordination.store.queries.access import principals
from coordination.store.queries.access.principals import name_of
from coordination.store.queries.tasks.ready import ReadyTask
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import MAX_JSON_BYTES, clean_json, clean_text, db_after, db_now, iso, looked_up

a = attempts.c

_PAGE = 200


def insert_many(tx: Connection, rows: Sequence[dict[str, Any]], *, lease: timedelta) -> None:
    """Store open attempts with a lease."""
    tx.execute(
        insert(attempts).values(lease_until=db_after(bindparam("lease"))),
        [{**row, "lease": lease.total_seconds()} for row in rows],
    )


# Forces lookups by key, as in completions.
_LOCK = """
SELECT a.task_id FROM unnest(%(ids)s::uuid[], %(numbers)s::int[]) AS fence (id, number)
JOIN attempts a ON a.task_id = ANY(ARRAY[fence.id]) AND a.number = ANY(ARRAY[fence.number])
WHERE a.workspace_id = %(workspace)s::uuid ORDER BY a.task_id, a.number FOR UPDATE OF a"""
_LOCK_NOW = f"{_LOCK} NOWAIT"


def lock(tx: Connection, workspace_id: str, fences: Collection[tuple[str, int]], *, nowait: bool = False) -> None:
    """Lock these attempts, (task id, number) each. *nowait*: as in ``tasks.lock``."""
    if tx.dialect.name == "sqlite" or not fences:
        return
    ids, numbers = zip(*fences, strict=True)
    values = {"workspace": workspace_id, "ids": list(ids), "numbers": list(numbers)}
    tx.exec_driver_sql(_LOCK_NOW if nowait else _LOCK, values).all()


_CLOSE = (
    update(attempts)
    .where(
        a.workspace_id == bindparam("ws"),
        a.task_id == bindparam("b_task"),
        a.number == bindparam("b_number"),
        a.finished_at.is_(None),
    )
    .values(
        finished_at=db_now(),
        outcome=bindparam("b_outcome"),
        exit_code=bindparam("b_exit_code"),
        error=bindparam("b_error"),
        output=bindparam("b_output"),
        log=bindparam("b_log"),
        began=bindparam("b_began"),
    )
)


def close_many(tx: Connection, workspace_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Close attempts whose fence the caller has checked.

    Each row: task, number, outcome, exit_code, error, output, log, began (False: its job was not started; else None).
    """
    ordered = sorted(rows, key=lambda row: row["task"])  # as heartbeats lock them
    tx.execute(_CLOSE, [{"ws": workspace_id, **{f"b_{name}": value for name, value in row.items()}} for row in ordered])


def close_one(tx: Connection, workspace_id: str, row: dict[str, Any]) -> tuple[bool, list[str]]:
    """Close one attempt. Return whether it was open, and the names of its slots."""
    statement = _CLOSE.returning(a.slots)
    closed = tx.execute(statement, {"ws": workspace_id, **{f"b_{name}": value for name, value in row.items()}}).first()
    return (False, []) if closed is None else (True, list(closed.slots or []))


def take_over(
    tx: Connection, workspace_id: str, task_id: str, number: int, *, former_id: str, worker_id: str, lease: timedelta
) -> bool:
    """Move an open attempt from the worker *former_id* to another, with a new lease. Return whether it existed."""
    where = a.workspace_id == workspace_id, a.task_id == task_id, a.number == number, a.worker_id == former_id
    owner = {"worker_id": worker_id, "lease_until": db_after(lease.total_seconds()), "heartbeat_at": db_now()}
    return tx.execute(update(attempts).where(*where, a.finished_at.is_(None)).values(owner)).rowcount > 0


def outcome_of(tx: Connection, workspace_id: str, task_id: str, number: int) -> tuple[Outcome | None, str] | None:
    """Return the outcome of an attempt (None: it is open) and its worker's id; None if there is no such attempt."""
    row = tx.execute(
        select(a.outcome, a.worker_id).where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
    ).first()
    return None if row is None else (Outcome(row.outcome) if row.outcome else None, row.worker_id)


def get_running(tx: Connection, workspace_id: str, task_id: str, number: int) -> RowMapping | None:
    """Return project_id, run_id, agent and agent_id of a running attempt with a valid fence; None for others."""
    t = tasks.c
    statement = (
        select(a.project_id, a.run_id, name_of(t.agent_id).label("agent"), t.agent_id)
        .join(tasks, (t.id == a.task_id) & (t.workspace_id == a.workspace_id))
        .where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number, a.finished_at.is_(None))
        .where(t.attempt == number, t.state == TaskState.RUNNING)
    )
    return tx.execute(statement).mappings().first()


_OF_ATTEMPT = (a.task_id, a.number, a.worker_id, a.slots, a.pgid, a.pg_start, a.reserved)
_COUNTERS = (tasks.c.failures, tasks.c.losses, tasks.c.deferrals, tasks.c.max_attempts, tasks.c.repeatable)
_OF_TASK = (tasks.c.id, tasks.c.run_id, tasks.c.project_id, tasks.c.key, tasks.c.state, tasks.c.attempt, *_COUNTERS)


def lock_expired(tx: Connection, workspace_id: str, project_id: str) -> list[dict[str, Any]]:
    """Lock and return open attempts of the project with an expired lease (database's clock), with their tasks."""
    where = a.project_id == project_id, a.lease_until < db_now()
    return _lock_with_tasks(tx, workspace_id, _list_tasks(tx, workspace_id, *where), *where)


def lock_of_worker(tx: Connection, workspace_id: str, worker_id: str) -> list[dict[str, Any]]:
    """Lock and return all open attempts of a worker with their tasks, a page at a time."""
    rows: list[dict[str, Any]] = []
    of_worker, after = a.worker_id == worker_id, ""
    while ids := _list_tasks(tx, workspace_id, of_worker, cast(a.task_id, Text) > after):
        rows += _lock_with_tasks(tx, workspace_id, ids, of_worker)
        after = ids[-1]
    return rows


def _list_tasks(tx: Connection, workspace_id: str, *where: Any) -> list[str]:
    """Return the task ids of open attempts, a page of them, without locks."""
    statement = select(a.task_id).where(a.workspace_id == workspace_id, a.finished_at.is_(None), *where)
    # The cast keeps the planner from reading the whole index of the key in its order because of the limit.
    return list(tx.execute(statement.order_by(cast(a.task_id, Text)).limit(_PAGE)).scalars())


def _lock_with_tasks(tx: Connection, workspace_id: str, ids: Sequence[str], *where: Any) -> list[dict[str, Any]]:
    """Lock tasks, then their attempts, and return the joined rows. Skips rows with locks: these are being ended.

    Two statements: with outdated statistics, the planner would read both tables whole for a join.
    """
    if not ids:
        return []
    task_rows = tx.execute(
        select(*_OF_TASK)
        .where(tasks.c.workspace_id == workspace_id, tasks.c.id.in_(ids))
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
    ).mappings()
    by_id = {row["id"]: dict(row) for row in task_rows}
    if not by_id:
        return []
    statement = (
        select(*_OF_ATTEMPT)
        .where(a.workspace_id == workspace_id, a.finished_at.is_(None), *where, a.task_id.in_(list(by_id)))
        .order_by(a.task_id)
        .with_for_update(skip_locked=True)
    )
    return [dict(row) | by_id[row["task_id"]] for row in tx.execute(statement).mappings()]


def unfinished(tx: Connection, workspace_id: str, fences: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return those of the (task id, number) pairs whose attempt is open."""
    is_open = a.task_id.in_([task_id for task_id, _ in fences]), a.outcome.is_(None)
    rows = tx.execute(select(a.task_id, a.number).where(a.workspace_id == workspace_id, *is_open))
    return {(row.task_id, row.number) for row in rows} & set(fences)


def record_process(tx: Connection, workspace_id: str, task_id: str, number: int, *, pgid: int, pg_start: float) -> None:
    """Record the process group that runs an attempt."""
    attempt = update(attempts).where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
    tx.execute(attempt.where(a.finished_at.is_(None)).values(pgid=pgid, pg_start=pg_start))


def record_details(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    number: int,
    details: dict[str, Any],
    *,
    conversation: Mapping[str, Any] | None = None,
) -> None:
    """Store the details of an ended attempt whose fence the caller has checked, and its *conversation*."""
    values: dict[str, Any] = {"details": details} if details else {}
    if conversation is not None:
        values |= {"conversation_id": conversation.get("session"), "turn": conversation.get("turn")}
    attempt = update(attempts).where(a.workspace_id == workspace_id, a.task_id == task_id, a.number == number)
    tx.execute(attempt.values(**values))


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Attempt]:
    """Return all attempts of a task, oldest first."""
    rows = tx.execute(
        select(attempts, workers.c.name.label("worker_name"), workers.c.host)
        .outerjoin(workers, workers.c.id == a.worker_id)
        .where(a.workspace_id == workspace_id, a.task_id == task_id)
        .order_by(a.number)
    )
    return [_attempt(row) for row in rows.mappings()]


def latest(tx: Connection, workspace_id: str, task_id: str) -> Attempt | None:
    """Return the newest attempt of a task, or None."""
    all_attempts = of_task(tx, workspace_id, task_id)
    return all_attempts[-1] if all_attempts else None


def keys_using(tx: Connection, workspace_id: str, project_id: str, slot: str) -> list[str]:
    """Return the keys of the tasks whose open attempts use this slot."""
    rows = tx.execute(
        select(tasks.c.key, a.slots)
        .join(attempts, a.task_id == tasks.c.id)
        .where(a.workspace_id == workspace_id, a.project_id == project_id, a.finished_at.is_(None))
        .where(a.slots.is_not(None))
        .order_by(tasks.c.key)
    )
    return [row.key for row in rows if slot in row.slots]


_NEWEST = (a.task_id == looked_up(tasks.c.id)) & (a.number == looked_up(tasks.c.attempt))


def list_running(tx: Connection, workspace_id: str, run_id: str) -> list[RowMapping]:
    """Return the running attempts of a run: key, title, number, worker, host, started_at, and the database's now."""
    t, w = tasks.c, workers.c
    statement = (
        select(t.key, t.title, a.number, w.name.label("worker"), w.host, a.started_at, db_now().label("now"))
        .join(attempts, _NEWEST)
        .outerjoin(workers, w.id == a.worker_id)
        .where(t.workspace_id == workspace_id, t.run_id == run_id, t.state == TaskState.RUNNING)
        .where(a.finished_at.is_(None))
        .order_by(a.started_at)
    )
    return list(tx.execute(statement).mappings())


def outputs_of_run(tx: Connection, workspace_id: str, run_id: str) -> dict[str, Any]:
    """Return the outputs of the run's completed tasks, by task id."""
    t = tasks.c
    where = t.workspace_id == workspace_id, t.run_id == run_id, t.state == TaskState.COMPLETED
    rows = tx.execute(select(t.id, a.output).join(attempts, _NEWEST).where(*where))
    return {row.id: row.output for row in rows}


def count_open(tx: Connection, workspace_id: str, project_id: str) -> int:
    """Return the number of the project's open attempts."""
    where = a.workspace_id == workspace_id, a.project_id == project_id, a.finished_at.is_(None)
    return tx.execute(select(func.count()).where(*where)).scalar_one()


_OWN_COLUMNS = tuple(name for name in Attempt.__slots__ if name not in {"worker", "outcome"})


def _attempt(row: RowMapping) -> Attempt:
    outcome = Outcome(row["outcome"]) if row["outcome"] else None
    return Attempt(**{name: row[name] for name in _OWN_COLUMNS}, worker=row["worker_name"], outcome=outcome)


# --- completions of many attempts at once: tasks, results, events, and the release of downstream tasks
#
# The statements are written by hand for each database, as claims are: PostgreSQL needs one round trip, SQLite a few
# statements over one JSON document. Rows are locked in the order of their ids, parents and children together, so that
# two completions with the same children never deadlock.


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
            _completion(number, ended, cleaned[id(payloads[number])])
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


def _completion(number: int, ended: EndedAttempt, payload: Any) -> dict[str, Any]:
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
