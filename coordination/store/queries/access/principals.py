"""Statements on principals: their ids from what they are called, and back.

A principal's row is written once, by whoever refers to it first; each connection remembers which it has seen. Workers
act under their own ids and have no row, so that a claim or an end writes none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, case, cast, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.base.ids import new_id
from coordination.domain.access.principals import PREFIX_OF_PERSON, WORKER, Principal, PrincipalKind
from coordination.store.engine import SEEN_PRINCIPALS
from coordination.store.tables.access.principals import members, people, principals
from coordination.store.types import Str

p = principals.c

_BATCH = 500


def id_of(tx: Connection, workspace_id: str, actor: str) -> str:
    """Return the id of whoever acts (``user:ann``, ``task:build``, ``worker:ID``, ``supervisor``), stored if new."""
    if actor.startswith(f"{WORKER}:"):
        return actor.removeprefix(f"{WORKER}:")
    principal = Principal.parse(actor)
    principal_id = principal.id_in(workspace_id)
    seen: set[str] = tx.info.setdefault(SEEN_PRINCIPALS, set())
    if principal_id not in seen:
        _put(tx, workspace_id, principal_id, principal)
        seen.add(principal_id)
    return principal_id


def id_or_none(tx: Connection, workspace_id: str, actor: str | None) -> str | None:
    """Return the id of whoever acts, or None when nobody is named."""
    return None if actor is None else id_of(tx, workspace_id, actor)


def agent_ids(tx: Connection, workspace_id: str, names: Collection[str]) -> dict[str, str]:
    """Return the ids of the agents of these names; those that nobody has named before are stored.

    Their ids are not made of their names, because an agent can be renamed.
    """
    found = known_agents(tx, workspace_id, names)
    if missing := sorted(set(names) - found.keys()):
        for name in missing:
            _put(tx, workspace_id, new_id(), Principal(PrincipalKind.AGENT, name))
        found |= known_agents(tx, workspace_id, missing)
    return found


def known_agents(tx: Connection, workspace_id: str, names: Collection[str]) -> dict[str, str]:
    """Return the ids of those of these agents that somebody has named before."""
    wanted = sorted(set(names))
    found: dict[str, str] = {}
    for start in range(0, len(wanted), _BATCH):
        among = p.name.in_(wanted[start : start + _BATCH])
        rows = tx.execute(select(p.name, p.id).where(_is_agent(workspace_id), among))
        found |= {row.name: row.id for row in rows}
    return found


def names_of(tx: Connection, workspace_id: str, ids: Collection[str]) -> dict[str, str]:
    """Return the names of these principals, by id."""
    wanted = sorted(set(ids))
    found: dict[str, str] = {}
    for start in range(0, len(wanted), _BATCH):
        rows = tx.execute(
            select(p.id, p.name).where(p.workspace_id == workspace_id, p.id.in_(wanted[start : start + _BATCH]))
        )
        found |= {row.id: row.name for row in rows}
    return found


def rename_agent(tx: Connection, workspace_id: str, agent_id: str, name: str) -> None:
    """Give an agent another name."""
    tx.execute(update(principals).where(_is_agent(workspace_id), p.id == agent_id).values(name=name))


def add_owner(tx: Connection, workspace_id: str, actor: str) -> None:
    """Make the person who acts an owner of the workspace."""
    principal_id = id_of(tx, workspace_id, actor)
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    whose = {"workspace_id": workspace_id, "principal_id": principal_id}
    tx.execute(make(people).values(**whose).on_conflict_do_nothing())
    tx.execute(make(members).values(id=new_id(), role="owner", **whose).on_conflict_do_nothing())


def _put(tx: Connection, workspace_id: str, principal_id: str, principal: Principal) -> None:
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    values = {"id": principal_id, "workspace_id": workspace_id, "kind": principal.kind, "name": principal.name}
    tx.execute(make(principals).values(**values).on_conflict_do_nothing())


def _is_agent(workspace_id: str) -> Any:
    return (p.workspace_id == workspace_id) & (p.kind == PrincipalKind.AGENT)


def name_of(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return an expression for the name of the principal whose id is in *column*."""
    return select(p.name).where(p.id == column).correlate_except(principals).scalar_subquery()


def text_of(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return an expression for the text that names the principal whose id is in *column*, such as ``user:ann``."""
    prefix = case(
        (p.kind == PrincipalKind.SYSTEM, literal("")),
        (p.kind == PrincipalKind.PERSON, literal(f"{PREFIX_OF_PERSON}:")),
        else_=p.kind + ":",
    )
    known = select(prefix + p.name).where(p.id == column).correlate_except(principals).scalar_subquery()
    return func.coalesce(known, literal(f"{WORKER}:") + cast(column, String), type_=Str)
