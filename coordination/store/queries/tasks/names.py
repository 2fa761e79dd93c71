"""Resolve names of runs and tasks, and find their shortest names. Names contain no wildcards."""

from __future__ import annotations

from sqlalchemy import Connection, Text, and_, cast, or_, select

from coordination.base.ids import id_part
from coordination.domain.tasks.tasks import TaskRecord
from coordination.store.queries.tasks.tasks import SELECT_TASKS, task_of
from coordination.store.tables.projects.projects import projects
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks

r, t = runs.c, tasks.c


_MOST = 3  # runs or tasks that one name may mean


def find_runs(tx: Connection, workspace_id: str, name: str, *, project_id: str | None = None) -> list[str]:
    """Return the ids of the runs that *name* may mean, within the project if it is given.

    That is the newest run with that name or id (an id of any project), else the runs whose ids begin or end with it.
    """
    where, part = [r.workspace_id == workspace_id], id_part(name)
    has_name = r.name == name if project_id is None else and_(r.name == name, r.project_id == project_id)
    exact = has_name if part is None else or_(has_name, cast(r.id, Text) == part)
    newest = tx.execute(select(r.id).where(*where, exact).order_by(r.id.desc()).limit(1)).scalar()
    if newest is not None or part is None:
        return [] if newest is None else [newest]
    like = or_(cast(r.id, Text).like(part + "%"), cast(r.id, Text).like("%" + part))
    if project_id is not None:
        where.append(r.project_id == project_id)
    return list(tx.execute(select(r.id).where(*where, like).order_by(r.id.desc()).limit(_MOST)).scalars())


def find_tasks(
    tx: Connection, workspace_id: str, name: str, *, run_id: str | None = None, project_id: str | None = None
) -> list[TaskRecord]:
    """Return the tasks that *name* may mean, within the run and the project if they are given.

    That is the task of the newest run with that key or id (an id of any project), else the tasks whose ids begin or
    end with it.
    """
    where, part = [t.workspace_id == workspace_id], id_part(name)
    if run_id is not None:
        where.append(t.run_id == run_id)
    has_key = t.key == name if project_id is None else and_(t.key == name, t.project_id == project_id)
    exact = has_key if part is None else or_(has_key, cast(t.id, Text) == part)
    statement = SELECT_TASKS.where(*where, exact).order_by(t.run_id.desc(), t.id.desc()).limit(1)
    rows = tx.execute(statement).mappings().all()
    if not rows and part is not None:
        like = or_(cast(t.id, Text).like(part + "%"), cast(t.id, Text).like("%" + part))
        if project_id is not None:
            where.append(t.project_id == project_id)
        rows = tx.execute(SELECT_TASKS.where(*where, like).order_by(t.id.desc()).limit(_MOST)).mappings().all()
    return [task_of(row) for row in rows]


def projects_with_task(tx: Connection, workspace_id: str, key: str) -> list[str]:
    """Return ids of up to six projects that have a task with this key."""
    where = (t.workspace_id == workspace_id, t.key == key)
    return list(tx.execute(select(t.project_id).where(*where).distinct().limit(6)).scalars())


def projects_with_run(tx: Connection, workspace_id: str, name: str) -> list[str]:
    """Return ids of up to six projects that have a run with this name."""
    where = (r.workspace_id == workspace_id, r.name == name)
    return list(tx.execute(select(r.project_id).where(*where).distinct().limit(6)).scalars())


def task_name(
    tx: Connection, workspace_id: str, task_id: str, *, key: str, run_id: str, project_id: str, here: str | None
) -> str:
    """Return the key of a task if commands in the project *here* (None: in no project) resolve it, else its id."""
    if not _is_default_project(tx, workspace_id, project_id, here):
        return task_id
    newer = (
        select(t.id)
        .join(runs, r.id == t.run_id)
        .where(r.workspace_id == workspace_id, r.project_id == project_id, r.id > run_id, t.key == key)
    )
    return task_id if key.startswith("-") or tx.execute(newer.limit(1)).first() is not None else key


def run_name(tx: Connection, workspace_id: str, run_id: str, *, name: str, project_id: str, here: str | None) -> str:
    """Return the name of a run if commands in the project *here* (None: in no project) resolve it, else its id."""
    if not name or name.startswith("-") or not _is_default_project(tx, workspace_id, project_id, here):
        return run_id
    newer = select(r.id).where(
        r.workspace_id == workspace_id, r.project_id == project_id, r.name == name, r.id > run_id
    )
    return run_id if tx.execute(newer.limit(1)).first() is not None else name


def _is_default_project(tx: Connection, workspace_id: str, project_id: str, here: str | None) -> bool:
    if here is not None:
        return here == project_id
    some_projects = tx.execute(select(projects.c.id).where(projects.c.workspace_id == workspace_id).limit(2)).scalars()
    return list(some_projects) == [project_id]
