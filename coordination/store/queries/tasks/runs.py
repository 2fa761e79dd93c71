"""Statements on runs and sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, exists, func, insert, select, update

from coordination.base.errors import NotFound
from coordination.domain.money.sessions import Session, SessionTarget
from coordination.domain.plans.plan_expansion import KIND_OF_CHOICE, VARIANTS
from coordination.domain.tasks.runs import RunRecord, state_of
from coordination.domain.tasks.tasks import OPEN, TaskState
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
    """Store a run. Its ``creator`` is named by text."""
    creator = id_of(tx, workspace_id, row.pop("creator"))
    tx.execute(insert(runs).values(workspace_id=workspace_id, created_by=creator, **row))


def metadata_of(tx: Connection, workspace_id: str, run_id: str) -> dict[str, Any]:
    """What was said of the run when it was submitted, and what the system keeps there; empty for no run."""
    found = tx.execute(select(r.metadata).where(r.workspace_id == workspace_id, r.id == run_id)).scalar()
    return dict(found or {})


def note(tx: Connection, workspace_id: str, run_id: str, what: dict[str, Any]) -> None:
    """Add this to what the system keeps with the run."""
    known = metadata_of(tx, workspace_id, run_id)
    if known | what != known:
        mine = r.workspace_id == workspace_id, r.id == run_id
        # Not waited for: runs are locked last, and this comes before.
        tx.execute(select(r.id).where(*mine).with_for_update(nowait=True, key_share=True))
        tx.execute(update(runs).where(*mine).values(metadata=known | what))


_OF_THEM = (r.workspace_id == bindparam("ws"), r.id.in_(bindparam("runs", expanding=True)), r.finished_at.is_(None))
_CANDIDATES = select(r.id).where(*_OF_THEM).order_by(r.id).with_for_update(key_share=True)
_CLOSE = (
    update(runs)
    .where(*_OF_THEM, ~exists(select(tasks.c.id).where(tasks.c.run_id == r.id, tasks.c.state.in_(OPEN))))
    .values(finished_at=db_now())
    .returning(r.id, r.project_id, r.session_id)
)


def close_if_done(tx: Connection, workspace_id: str, run_ids: Sequence[str]) -> list[RowMapping]:
    """Write the end of those runs that have no open task; exactly one caller gets each (id, project id)."""
    if not run_ids:
        return []
    # Whoever reopens a run has its row until the commit: the open tasks are looked for only when nobody has.
    unended = list(tx.execute(_CANDIDATES, {"ws": workspace_id, "runs": run_ids}).scalars())
    return list(tx.execute(_CLOSE, {"ws": workspace_id, "runs": unended}).mappings()) if unended else []


def unfinished(tx: Connection, workspace_id: str, project_id: str) -> list[str]:
    """The project's runs whose end has not been written."""
    return list(
        tx.execute(
            select(r.id).where(r.workspace_id == workspace_id, r.project_id == project_id, r.finished_at.is_(None))
        ).scalars()
    )


def reopen(tx: Connection, workspace_id: str, run_id: str) -> bool:
    """Take the end back, because a task was retried; whether it had one.

    The row is locked even when it has none: an end that is being written now must see the retried task. Raises
    NotFound for a run that retention is deleting.
    """
    tx.execute(select(r.id).where(r.workspace_id == workspace_id, r.id == run_id).with_for_update(key_share=True))
    if (
        tx.execute(
            select(removals.c.run_id).where(removals.c.workspace_id == workspace_id, removals.c.run_id == run_id)
        ).first()
        is not None
    ):
        raise NotFound(f"The run {run_id} is old and is being deleted", hint="Submit its plan again")
    return (
        tx.execute(
            update(runs)
            .where(r.workspace_id == workspace_id, r.id == run_id, r.finished_at.is_not(None))
            .values(finished_at=None)
        ).rowcount
        > 0
    )


def counts(tx: Connection, workspace_id: str, run_id: str) -> dict[TaskState, int]:
    """How many of the run's tasks are in each state."""
    rows = tx.execute(
        select(tasks.c.state, func.count())
        .where(tasks.c.workspace_id == workspace_id, tasks.c.run_id == run_id)
        .group_by(tasks.c.state)
    )
    return {TaskState(state): number for state, number in rows}


def waiting_on_failure(tx: Connection, workspace_id: str, run_id: str) -> int:
    """How many blocked tasks of the run wait, directly or through others, for one that ended without success."""
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
    """How many variants ended without success of tasks that completed by another one, by state: no loss to the run."""
    ended = tx.execute(
        select(tasks.c.parent_id, tasks.c.state, func.count().label("number"))
        .where(
            tasks.c.workspace_id == workspace_id,
            tasks.c.run_id == run_id,
            tasks.c.state.in_((TaskState.FAILED, TaskState.CANCELED)),
            tasks.c.parent_id.is_not(None),
        )
        .group_by(tasks.c.parent_id, tasks.c.state)
    ).all()
    # In two steps: asked in one, a planner may read every task there is to find the few that these belong to. And
    # only runs that have variants are asked at all.
    of = sorted({row.parent_id for row in ended})
    completed: set[str] = set()
    for start in range(0, len(of), _BATCH):
        completed |= set(
            tx.execute(
                select(tasks.c.id).where(
                    tasks.c.workspace_id == workspace_id,
                    tasks.c.id.in_(of[start : start + _BATCH]),
                    tasks.c.state == TaskState.COMPLETED,
                    tasks.c.kind == KIND_OF_CHOICE,
                )
            ).scalars()
        )
    lost: Counter[TaskState] = Counter()
    for row in ended:
        if row.parent_id in completed:
            lost[TaskState(row.state)] += row.number
    return dict(lost)


def get(tx: Connection, workspace_id: str, run_id: str) -> RunRecord | None:
    """One run with what follows from its tasks and its costs, or None."""
    row = (
        tx.execute(
            select(runs, projects.c.name.label("project"))
            .join(projects, projects.c.id == r.project_id)
            .where(r.workspace_id == workspace_id, r.id == run_id)
        )
        .mappings()
        .first()
    )
    return None if row is None else _run(tx, row)


def heading(tx: Connection, workspace_id: str, run_id: str) -> dict[str, Any]:
    """``id``, ``name`` and ``project`` (its name) of a run; empty for none."""
    found = tx.execute(
        select(r.id, r.name, projects.c.name.label("project"))
        .join(projects, projects.c.id == r.project_id)
        .where(r.workspace_id == workspace_id, r.id == run_id)
    ).mappings()
    return {name: value for row in found for name, value in row.items()}


def listed(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, limit: int = 50, open_only: bool = False
) -> list[RunRecord]:
    """The newest runs."""
    where = [r.workspace_id == workspace_id]
    if project_id is not None:
        where.append(r.project_id == project_id)
    if open_only:  # found by the index of the open ones: in the order of ids, every ended run would be looked at
        unended = tx.execute(select(r.id).where(*where, r.finished_at.is_(None))).scalars()
        where.append(r.id.in_(sorted(unended, reverse=True)[:limit]))
    rows = tx.execute(
        select(runs, projects.c.name.label("project"))
        .join(projects, projects.c.id == r.project_id)
        .where(*where)
        .order_by(r.id.desc())
        .limit(limit)
    ).mappings()
    return [_run(tx, row) for row in rows.all()]


def _run(tx: Connection, row: RowMapping) -> RunRecord:
    numbers = counts(tx, row["workspace_id"], row["id"])
    waiting = 0
    if numbers.get(TaskState.BLOCKED) and not (numbers.get(TaskState.QUEUED) or numbers.get(TaskState.RUNNING)):
        waiting = waiting_on_failure(tx, row["workspace_id"], row["id"])
    lost: dict[TaskState, int] = {}
    if row["metadata"].get(VARIANTS) and (numbers.get(TaskState.FAILED) or numbers.get(TaskState.CANCELED)):
        lost = lost_variants(tx, row["workspace_id"], row["id"])
    count_for = {state: number - lost.get(state, 0) for state, number in numbers.items()}
    cost, _calls, unpriced = ledger.total(tx, row["workspace_id"], run_id=row["id"])
    return RunRecord(
        id=row["id"],
        workspace_id=row["workspace_id"],
        project_id=row["project_id"],
        project=row["project"],
        session_id=row["session_id"],
        name=row["name"],
        state=state_of(count_for, waiting_on_failure=waiting),
        counts=numbers,
        cost_usd=cost,
        unpriced_calls=unpriced,
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        predicted=row["predicted"],
        branch=row["metadata"].get("branch"),
    )


def insert_session(tx: Connection, workspace_id: str, row: dict[str, Any]) -> None:
    """Store a session. Its ``agent`` is named by text."""
    agent = row.pop("agent", None)
    agent_id = None if agent is None else agent_ids(tx, workspace_id, [agent])[agent]
    tx.execute(insert(sessions).values(workspace_id=workspace_id, agent_id=agent_id, **row))


_SESSIONS = select(sessions, name_of(sessions.c.agent_id).label("agent"))


def main_session(tx: Connection, workspace_id: str, project_id: str, agent: str | None) -> Session | None:
    """The project's ongoing session (of that agent), or None."""
    agent_id = None if agent is None else find_agent_ids(tx, workspace_id, [agent]).get(agent)
    if agent is not None and agent_id is None:
        return None
    row = (
        tx.execute(
            _SESSIONS.where(
                sessions.c.workspace_id == workspace_id,
                sessions.c.project_id == project_id,
                sessions.c.target == SessionTarget.MAIN,
                sessions.c.agent_id == agent_id if agent_id is not None else sessions.c.agent_id.is_(None),
            )
            .order_by(sessions.c.id)
            .limit(1)
        )
        .mappings()
        .first()
    )
    return None if row is None else session_of(row)


def get_session(tx: Connection, workspace_id: str, session_id: str) -> Session | None:
    """One session, or None."""
    row = (
        tx.execute(_SESSIONS.where(sessions.c.workspace_id == workspace_id, sessions.c.id == session_id))
        .mappings()
        .first()
    )
    return None if row is None else session_of(row)


def list_sessions(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, limit: int = 100
) -> list[Session]:
    """The sessions, the most recently active first."""
    where = [sessions.c.workspace_id == workspace_id]
    if project_id is not None:
        where.append(sessions.c.project_id == project_id)
    rows = tx.execute(_SESSIONS.where(*where).order_by(sessions.c.last_activity_at.desc()).limit(limit))
    return [session_of(row) for row in rows.mappings()]


def touch_session(tx: Connection, workspace_id: str, session_ids: Sequence[str]) -> None:
    """Note that these sessions were active now; one that somebody else has locked is being noted by that."""
    mine = select(sessions.c.id).where(sessions.c.workspace_id == workspace_id, sessions.c.id.in_(session_ids))
    free = list(tx.execute(mine.with_for_update(skip_locked=True, key_share=True)).scalars())
    if free:
        tx.execute(update(sessions).where(sessions.c.id.in_(free)).values(last_activity_at=db_now()))


def session_of(row: RowMapping) -> Session:
    """The domain's record of a row."""
    return Session(
        id=row["id"],
        workspace_id=row["workspace_id"],
        project_id=row["project_id"],
        agent=row["agent"],
        purpose=row["purpose"],
        target=SessionTarget(row["target"]),
        created_at=row["created_at"],
        last_activity_at=row["last_activity_at"],
    )
