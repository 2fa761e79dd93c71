"""Statements on principals that map names to ids and back.

The first reference to a principal stores its row; each connection remembers which rows exist. Workers act under their
own ids and have no row, so that claiming and ending write none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, case, cast, func, literal, select, update

from coordination.base.ids import new_id
from coordination.domain.access.principals import PREFIX_OF_PERSON, WORKER, Principal, PrincipalKind
from coordination.store.driver import insert_into
from coordination.store.engine import SEEN_PRINCIPALS
from coordination.store.tables.access.principals import members, people, principals
from coordination.store.types import Str

p = principals.c

_BATCH = 500


def id_of(tx: Connection, workspace_id: str, actor: str) -> str:
    """Return the id of an actor (``user:ann``, ``task:build``, ``worker:ID``, ``supervisor``).

    Store it if it is new.
    """
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
    """Return the id of an actor, or None without one."""
    return None if actor is None else id_of(tx, workspace_id, actor)


def agent_ids(tx: Connection, workspace_id: str, names: Collection[str]) -> dict[str, str]:
    """Return the ids of these agents, by name. Store those that are new.

    Their ids are not derived from their names, because an agent can be renamed.
    """
    ids_by_name = find_agent_ids(tx, workspace_id, names)
    if missing := sorted(set(names) - ids_by_name.keys()):
        for name in missing:
            _put(tx, workspace_id, new_id(), Principal(PrincipalKind.AGENT, name))
        ids_by_name |= find_agent_ids(tx, workspace_id, missing)
    return ids_by_name


def find_agent_ids(tx: Connection, workspace_id: str, names: Collection[str]) -> dict[str, str]:
    """Return the ids of those of these agents that are stored, by name."""
    return _look_up(tx, _is_agent(workspace_id), names, p.name, p.id)


def names_of(tx: Connection, workspace_id: str, ids: Collection[str]) -> dict[str, str]:
    """Return the names of these principals, by id."""
    return _look_up(tx, p.workspace_id == workspace_id, ids, p.id, p.name)


def _look_up(tx: Connection, where: Any, keys: Collection[str], key: Any, value: Any) -> dict[str, str]:
    """Return the column *value* of those of these principals that exist, by the column *key*."""
    ordered = sorted(set(keys))
    values: dict[str, str] = {}
    for start in range(0, len(ordered), _BATCH):
        rows = tx.execute(select(key, value).where(where, key.in_(ordered[start : start + _BATCH])))
        values |= {row[0]: row[1] for row in rows}
    return values


def rename_agent(tx: Connection, workspace_id: str, agent_id: str, name: str) -> None:
    """Rename an agent."""
    tx.execute(update(principals).where(_is_agent(workspace_id), p.id == agent_id).values(name=name))


def add_owner(tx: Connection, workspace_id: str, actor: str) -> None:
    """Make this person an owner of the workspace."""
    principal_id = id_of(tx, workspace_id, actor)
    key = {"workspace_id": workspace_id, "principal_id": principal_id}
    tx.execute(insert_into(tx, people).values(**key).on_conflict_do_nothing())
    tx.execute(insert_into(tx, members).values(id=new_id(), role="owner", **key).on_conflict_do_nothing())


def _put(tx: Connection, workspace_id: str, principal_id: str, principal: Principal) -> None:
    values = {"id": principal_id, "workspace_id": workspace_id, "kind": principal.kind, "name": principal.name}
    tx.execute(insert_into(tx, principals).values(**values).on_conflict_do_nothing())


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
    stored_text = select(prefix + p.name).where(p.id == column).correlate_except(principals).scalar_subquery()
    return func.coalesce(stored_text, literal(f"{WORKER}:") + cast(column, String), type_=Str)
