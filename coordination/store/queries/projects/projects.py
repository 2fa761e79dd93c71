"""Statements on workspaces, projects and their aliases."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, bindparam, cast, func, insert, or_, select, update

from coordination.base.ids import new_id
from coordination.domain.projects.projects import Project, ProjectStatus
from coordination.store.driver import insert_into
from coordination.store.tables.projects.projects import project_aliases, projects, workspaces
from coordination.store.tables.projects.retention import SUMS, chores
from coordination.store.types import Str, db_now

p = projects.c


def find_workspace(tx: Connection, name: str) -> str | None:
    """Return the id of the workspace of that name, or None."""
    return tx.execute(select(workspaces.c.id).where(workspaces.c.name == name)).scalar()


def get_or_create_workspace(tx: Connection, name: str) -> str:
    """Return the id of the workspace of that name. Create it if there is none."""
    statement = insert_into(tx, workspaces).values(id=new_id(), name=name)
    statement = statement.on_conflict_do_nothing(index_elements=["name"])
    new_id_ = tx.execute(statement.returning(workspaces.c.id)).scalar()
    if new_id_ is not None:  # without costs, the totals are complete
        tx.execute(insert(chores).values(workspace_id=new_id_, name=SUMS, done_at=db_now()))
    workspace_id: str = tx.execute(select(workspaces.c.id).where(workspaces.c.name == name)).scalar_one()
    return workspace_id


def workspace_ids(tx: Connection) -> list[str]:
    """Return the ids of all workspaces in this database."""
    return list(tx.execute(select(workspaces.c.id).order_by(workspaces.c.id)).scalars())


def find_by_identity(tx: Connection, workspace_id: str, identity: str) -> Project | None:
    """Return the project with this identity or alias, or None."""
    is_named = or_(p.identity == identity, p.id.in_(_has_alias(workspace_id, identity)))
    # A project's own identity takes precedence over an alias.
    own_first = (p.identity == identity).desc()
    statement = select(projects).where(p.workspace_id == workspace_id, is_named).order_by(own_first).limit(1)
    row = tx.execute(statement).mappings().first()
    return None if row is None else project_of(row)


def _has_alias(workspace_id: str, alias: str) -> Select[str]:
    """Return the statement for the ids of the projects with this alias."""
    where = project_aliases.c.workspace_id == workspace_id, project_aliases.c.identity == alias
    return select(project_aliases.c.project_id).where(*where)


def get_or_create(tx: Connection, workspace_id: str, row: dict[str, Any]) -> Project:
    """Store a project unless its identity exists. Return the project with the identity."""
    statement = insert_into(tx, projects).on_conflict_do_nothing(index_elements=["workspace_id", "identity"])
    stored = tx.execute(statement.returning(projects), {"workspace_id": workspace_id, **row}).mappings().first()
    if stored is None:
        existing = select(projects).where(p.workspace_id == workspace_id, p.identity == row["identity"])
        stored = tx.execute(existing).mappings().one()
    return project_of(stored)


def get(tx: Connection, workspace_id: str, project_id: str) -> Project | None:
    """Return one project, or None."""
    row = tx.execute(select(projects).where(p.workspace_id == workspace_id, p.id == project_id)).mappings().first()
    return None if row is None else project_of(row)


def get_many(tx: Connection, workspace_id: str, project_ids: Collection[str], *, lock: bool = False) -> list[Project]:
    """Return several projects; with *lock*, unchanged until this transaction ends."""
    statement = select(projects).where(p.workspace_id == workspace_id, p.id.in_(project_ids)).order_by(p.id)
    rows = tx.execute(statement.with_for_update(read=True) if lock else statement)
    return [project_of(row) for row in rows.mappings()]


_NAMES = select(p.id, p.name).where(p.workspace_id == bindparam("ws"), p.id.in_(bindparam("ids", expanding=True)))


def names_of(tx: Connection, workspace_id: str, project_ids: Collection[str]) -> dict[str, str]:
    """Return the names of these projects, by id."""
    rows = tx.execute(_NAMES, {"ws": workspace_id, "ids": list(project_ids)})
    return {row.id: row.name for row in rows}


def list_projects(tx: Connection, workspace_id: str) -> list[Project]:
    """Return up to a thousand of the workspace's projects, sorted by name."""
    rows = tx.execute(select(projects).where(p.workspace_id == workspace_id).order_by(p.name, p.id).limit(1000))
    return [project_of(row) for row in rows.mappings()]


def find_by_name(tx: Connection, workspace_id: str, name: str) -> list[Project]:
    """Return up to two projects with this name, identity, alias or id."""
    has_id = or_(cast(p.id, Str) == name, p.id.in_(_has_alias(workspace_id, name)))
    is_named = or_(p.name == name, p.identity == name, has_id)
    statement = select(projects).where(p.workspace_id == workspace_id, is_named).order_by(p.id).limit(2)
    return [project_of(row) for row in tx.execute(statement).mappings()]


def change(tx: Connection, workspace_id: str, project_id: str, **values: Any) -> bool:
    """Set columns of a project. Return whether it exists."""
    statement = update(projects).where(p.workspace_id == workspace_id, p.id == project_id)
    return tx.execute(statement.values(**values)).rowcount > 0


def lock_status(tx: Connection, workspace_id: str, project_id: str) -> ProjectStatus | None:
    """Lock and return the status that decides whether the project's tasks may be claimed; None without a project.

    The status does not change until this transaction ends.
    """
    row = tx.execute(
        select(p.status, p.stopped).where(p.workspace_id == workspace_id, p.id == project_id).with_for_update(read=True)
    ).first()
    if row is None:
        return None
    return ProjectStatus.ON_HOLD if row.stopped else ProjectStatus(row.status)


def change_status(
    tx: Connection, workspace_id: str, project_id: str, *, sources: frozenset[ProjectStatus], target: ProjectStatus
) -> bool:
    """Change the status if it is one of *sources*, and return whether it was. Archiving clears the stopped mark."""
    values: dict[str, Any] = {"status": target}
    if target is ProjectStatus.ACTIVE:
        values |= {"started_at": func.coalesce(p.started_at, db_now()), "completed_at": None}
    elif target is ProjectStatus.COMPLETED:
        values["completed_at"] = db_now()
    elif target is ProjectStatus.ARCHIVED:
        values["stopped"] = False
    statement = update(projects).where(p.workspace_id == workspace_id, p.id == project_id, p.status.in_(sources))
    return tx.execute(statement.values(**values)).rowcount > 0


def add_alias(tx: Connection, workspace_id: str, project_id: str, identity: str) -> None:
    """Make *identity* an alias of the project; an existing alias moves to this project."""
    statement = insert_into(tx, project_aliases).values(
        workspace_id=workspace_id, identity=identity, project_id=project_id
    )
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=["workspace_id", "identity"], set_={"project_id": statement.excluded.project_id}
        )
    )


def aliases(tx: Connection, workspace_id: str, project_id: str) -> list[str]:
    """Return the project's other identities."""
    return list(
        tx.execute(
            select(project_aliases.c.identity)
            .where(project_aliases.c.workspace_id == workspace_id, project_aliases.c.project_id == project_id)
            .order_by(project_aliases.c.created_at, project_aliases.c.identity)
        ).scalars()
    )


def project_of(row: RowMapping) -> Project:
    """Return the domain record of a row."""
    return Project(**{name: row[name] for name in Project.__slots__} | {"status": ProjectStatus(row["status"])})
