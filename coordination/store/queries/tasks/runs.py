"""Statements on runs and sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, exists, func, insert, select, update

from coordination.base.errors import NotFound
from coordination.domain.money.sessions import Session, SessionTarget
from coordination.domain.plans.plan_expansion import KIND_OF_CHOICE, VARIANTS
from coordination.domain.tasks.tasks import OPEN, RunRecord, TaskState, derive_state
from coordination.store.queries.access.principals import agent_ids, find_agent_ids, id_of, name_of
from coordination.store.queries.money import costs as ledger
from coordination.store.tables.projects.projects import projects
from coordination.store.tables.projects.retention import removals
from coordination.store.tables.tasks.runs import runs, sessions
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

r = runs.c

_BATCH = 500


def insert_run(tx: Connection, workspace_id: str, row: dict[str, Any]) -> None:
    """Store a run. ``creator`` in the row is a name."""
    creator = id_of(tx, workspace_id, row.pop("creator"))
    tx.execute(insert(runs).values(workspace_id=workspace_id, created_by=creator, **row))


def metadata_of(tx: Connection, workspace_id: str, run_id: str) -> dict[str, Any]:
    """Return the metadata of a run, from its submission and from the system; empty if there is no such run."""
    metadata = tx.execute(select(r.metadata).where(r.workspace_id == workspace_id, r.id == run_id)).scalar()
    return dict(metadata or {})


def add_metadata(tx: Connection, workspace_id: str, run_id: str, values: dict[str, Any]) -> None:
    """Add values to the metadata of the run."""
    current = metadata_of(tx, workspace_id, run_id)
    if current | values != current:
        is_run = r.workspace_id == workspace_id, r.id == run_id
        # Without waiting: runs are locked last, and the caller may lock other rows later.
        tx.execute(select(r.id).where(*is_run).with_for_update(nowait=True, key_share=True))
        tx.execute(update(runs).where(*is_run).values(metadata=current | values))


_OF_THEM = (r.workspace_id == bindparam("ws"), r.id.in_(bindparam("runs", expanding=True)), r.finished_at.is_(None))
_CANDIDATES = select(r.id).where(*_OF_THEM).order_by(r.id).with_for_update(key_share=True)
_CLOSE = (
    update(runs)
    .where(*_OF_THEM, ~exists(select(tasks.c.id).where(tasks.c.run_id == r.id, tasks.c.state.in_(OPEN))))
    .values(finished_at=db_now())
    .returning(r.id, r.project_id, r.session_id)
)


def close_if_done(tx: Connection, workspace_id: str, run_ids: Sequence[str]) -> list[RowMapping]:
    """Close the runs that have no open task. Return (id, project_id, session_id); exactly one caller gets each run."""
    if not run_ids:
        return []
    # A transaction that reopens a run has locked its row: open tasks are counted only after its commit.
    unfinished = list(tx.execute(_CANDIDATES, {"ws": workspace_id, "runs": run_ids}).scalars())
    return list(tx.execute(_CLOSE, {"ws": workspace_id, "runs": unfinished}).mappings()) if unfinished else []


def list_unfinished(tx: Connection, workspace_id: str, project_id: str) -> list[str]:
    """Return the ids of the project's runs that are not closed."""
    where = r.workspace_id == workspace_id, r.project_id == project_id, r.finished_at.is_(None)
    return list(tx.execute(select(r.id).where(*where)).scalars())


def reopen(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Reopen a run because a task was retried. Return whether it was closed.

    Locks the row in any case: a concurrent close must see the retried task. Raises NotFound for a run that retention
    is deleting.
    """
    tx.execute(select(r.id).where(r.workspace_id == workspace_id, r.id == run_id).with_for_update(key_share=True))
    removal = removals.c.workspace_id == workspace_id, removals.c.run_id == run_id
    if tx.execute(select(removals.c.run_id).where(*removal)).first() is not None:
        raise NotFound(f"The run {run_id} is old and is being deleted", hint="Submit its plan again")
    is_closed = r.workspace_id == workspace_id, r.id == run_id, r.finished_at.is_not(None)
    return tx.execute(update(runs).where(*is_closed).values(finished_at=None)).rowcount > 0


def count_by_state(tx: Connection, workspace_id: str, run_id: str) -> dict[TaskState, int]:
    """Return the number of the run's tasks by state."""
    rows = tx.execute(
        select(tasks.c.state, func.count())
        .where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
        .group_by(tasks.c.state)
    )
    return {TaskState(state): number for state, number in rows}


def waiting_on_failure(tx: Connection, workspace_id: str, run_id: str) -> int:
    """Return how many blocked tasks of the run wait, also indirectly, for one that ended without success."""
    child = tasks.alias("child")
    parent = tasks.alias("parent")
    dead = (
        select(child.c.id)
        .join(dependencies, dependencies.c.child_id == child.c.id)
        .join(parent, parent.c.id == dependencies.c.parent_id)
        .where(
            child.c.workspace_id == workspace_id,
            child.c.run_id == run_id,
            child.c.state == TaskState.BLOCKED,
            dependencies.c.satisfied_at.is_(None),
            parent.c.state.in_((TaskState.FAILED, TaskState.CANCELED)),
        )
        .cte("dead", recursive=True)
    )
    further = tasks.alias("further")
    edge = dependencies.alias("edge")
    dead = dead.union(
        select(further.c.id)
        .join(edge, edge.c.child_id == further.c.id)
        .join(dead, dead.c.id == edge.c.parent_id)
        .where(further.c.state == TaskState.BLOCKED, edge.c.satisfied_at.is_(None))
    )
    return tx.execute(select(func.count(func.distinct(dead.c.id)))).scalar_one()


def lost_variants(tx: Connection, workspace_id: str, run_id: str) -> dict[TaskState, int]:
    """Return the number of variants, by state, that lost against another: the run does not count them as failures."""
    t = tasks.c
    where = t.workspace_id == workspace_id, t.run_id == run_id, t.state.in_((TaskState.FAILED, TaskState.CANCELED))
    variants = select(t.parent_id, t.state, func.count().label("number")).where(*where, t.parent_id.is_not(None))
    ended = tx.execute(variants.group_by(t.parent_id, t.state)).all()
    # Two statements: with one, the planner may read every task to find these few parents.
    parent_ids = sorted({row.parent_id for row in ended})
    completed: set[str] = set()
    for start in range(0, len(parent_ids), _BATCH):
        is_named = t.workspace_id == workspace_id, t.id.in_(parent_ids[start : start + _BATCH])
        chosen = select(t.id).where(*is_named, t.state == TaskState.COMPLETED, t.kind == KIND_OF_CHOICE)
        completed |= set(tx.execute(chosen).scalars())
    lost: Counter[TaskState] = Counter()
    for row in ended:
        if row.parent_id in completed:
            lost[TaskState(row.state)] += row.number
    return dict(lost)


_RUNS = select(runs, projects.c.name.label("project")).join(projects, projects.c.id == r.project_id)


def get(tx: Connection, workspace_id: str, run_id: str) -> RunRecord | None:
    """Return a run with its state, counts and costs, or None."""
    row = tx.execute(_RUNS.where(r.workspace_id == workspace_id, r.id == run_id)).mappings().first()
    return None if row is None else _run(tx, row)


def heading(tx: Connection, workspace_id: str, run_id: str) -> dict[str, Any]:
    """Return ``id``, ``name`` and ``project`` (its name) of a run; empty if there is no such run."""
    rows = tx.execute(
        select(r.id, r.name, projects.c.name.label("project"))
        .join(projects, projects.c.id == r.project_id)
        .where(r.workspace_id == workspace_id, r.id == run_id)
    ).mappings()
    return {name: value for row in rows for name, value in row.items()}


def list_runs(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, limit: int = 50, open_only: bool = False
) -> list[RunRecord]:
    """Return the newest runs."""
    where = [r.workspace_id == workspace_id]
    if project_id is not None:
        where.append(r.project_id == project_id)
    if open_only:  # uses the index of open runs: a scan in the order of ids would read every closed run
        unfinished = tx.execute(select(r.id).where(*where, r.finished_at.is_(None))).scalars()
        where.append(r.id.in_(sorted(unfinished, reverse=True)[:limit]))
    rows = tx.execute(_RUNS.where(*where).order_by(r.id.desc()).limit(limit)).mappings()
    return [_run(tx, row) for row in rows.all()]


_DERIVED = {"state", "counts", "cost_usd", "unpriced_calls", "branch"}
_OWN_COLUMNS = tuple(name for name in RunRecord.__slots__ if name not in _DERIVED)


def _run(tx: Connection, row: RowMapping) -> RunRecord:
    numbers = count_by_state(tx, row["workspace_id"], row["id"])
    waiting = 0
    if numbers.get(TaskState.BLOCKED) and not (numbers.get(TaskState.QUEUED) or numbers.get(TaskState.RUNNING)):
        waiting = waiting_on_failure(tx, row["workspace_id"], row["id"])
    lost: dict[TaskState, int] = {}
    if row["metadata"].get(VARIANTS) and (numbers.get(TaskState.FAILED) or numbers.get(TaskState.CANCELED)):
        lost = lost_variants(tx, row["workspace_id"], row["id"])
    count_for = {state: number - lost.get(state, 0) for state, number in numbers.items()}
    cost, _calls, unpriced = ledger.total(tx, row["workspace_id"], run_id=row["id"])
    return RunRecord(
        **{name: row[name] for name in _OWN_COLUMNS},
        state=derive_state(count_for, waiting_on_failure=waiting),
        counts=numbers,
        cost_usd=cost,
        unpriced_calls=unpriced,
        branch=row["metadata"].get("branch"),
    )


def insert_session(tx: Connection, workspace_id: str, row: dict[str, Any]) -> None:
    """Store a session. ``agent`` in the row is a name."""
    agent = row.pop("agent", None)
    agent_id = None if agent is None else agent_ids(tx, workspace_id, [agent])[agent]
    tx.execute(insert(sessions).values(workspace_id=workspace_id, agent_id=agent_id, **row))


_SESSIONS = select(sessions, name_of(sessions.c.agent_id).label("agent"))


def get_main_session(tx: Connection, workspace_id: str, project_id: str, agent: str | None) -> Session | None:
    """Return the project's main session (of that agent), or None."""
    agent_id = None if agent is None else find_agent_ids(tx, workspace_id, [agent]).get(agent)
    if agent is not None and agent_id is None:
        return None
    statement = _SESSIONS.where(
        sessions.c.workspace_id == workspace_id,
        sessions.c.project_id == project_id,
        sessions.c.target == SessionTarget.MAIN,
        sessions.c.agent_id == agent_id if agent_id is not None else sessions.c.agent_id.is_(None),
    )
    row = tx.execute(statement.order_by(sessions.c.id).limit(1)).mappings().first()
    return None if row is None else session_of(row)


def get_session(tx: Connection, workspace_id: str, session_id: str) -> Session | None:
    """Return a session, or None."""
    where = sessions.c.workspace_id == workspace_id, sessions.c.id == session_id
    row = tx.execute(_SESSIONS.where(*where)).mappings().first()
    return None if row is None else session_of(row)


def list_sessions(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, limit: int = 100
) -> list[Session]:
    """Return the sessions, the most recently active first."""
    where = [sessions.c.workspace_id == workspace_id]
    if project_id is not None:
        where.append(sessions.c.project_id == project_id)
    rows = tx.execute(_SESSIONS.where(*where).order_by(sessions.c.last_activity_at.desc()).limit(limit))
    return [session_of(row) for row in rows.mappings()]


def touch_sessions(tx: Connection, workspace_id: str, session_ids: Sequence[str]) -> None:
    """Set the last activity of sessions to now. Skips locked ones, which another transaction is updating."""
    chosen = select(sessions.c.id).where(sessions.c.workspace_id == workspace_id, sessions.c.id.in_(session_ids))
    free = list(tx.execute(chosen.with_for_update(skip_locked=True, key_share=True)).scalars())
    if free:
        tx.execute(update(sessions).where(sessions.c.id.in_(free)).values(last_activity_at=db_now()))


def session_of(row: RowMapping) -> Session:
    """Return the session of a row."""
    return Session(**{name: row[name] for name in Session.__slots__} | {"target": SessionTarget(row["target"])})
