"""Statements on what a machine lends to attempts: taken while an attempt is open, free again when it has ended.

Those with a host and no workspace are above workspaces: a port that one of them uses is used for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, delete, exists, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.store.tables.fleet.host_leases import host_leases
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.types import db_now

h, a = host_leases.c, attempts.c

_OPEN = exists().where(a.task_id == h.task_id, a.number == h.attempt, a.finished_at.is_(None))


class LeaseKind(StrEnum):
    """What a machine lends."""

    PORT = "port"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class HostLease:
    """One thing lent. ``origin``: the URL of which a database is a copy, as the plan has it."""

    kind: LeaseKind
    name: str
    origin: str | None


def add(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    attempt: int,
    *,
    host: str,
    kind: LeaseKind,
    name: str,
    origin: str | None = None,
) -> bool:
    """Lend it to the attempt; False when somebody else has it."""
    into = sqlite_insert if tx.dialect.name == "sqlite" else pg_insert
    row = {
        "host": host,
        "kind": kind,
        "name": name,
        "workspace_id": workspace_id,
        "task_id": task_id,
        "attempt": attempt,
        "origin": origin,
        "created_at": db_now(),
    }
    added = into(host_leases).values(**row).on_conflict_do_nothing().returning(h.name)
    return tx.execute(added).first() is not None


def of_attempt(tx: Connection, workspace_id: str, task_id: str, attempt: int) -> list[HostLease]:
    """What the attempt was lent and still has, ports in their order."""
    rows = tx.execute(
        select(h.kind, h.name, h.origin)
        .where(h.workspace_id == workspace_id, h.task_id == task_id, h.attempt == attempt, _OPEN)
        .order_by(h.kind, h.name)
    )
    found = [HostLease(LeaseKind(row.kind), row.name, row.origin) for row in rows]
    return sorted(found, key=lambda lease: (lease.kind, len(lease.name), lease.name))


def give_back(tx: Connection, workspace_id: str, task_id: str, attempt: int, *, kind: LeaseKind, name: str) -> bool:
    """End one lease of an attempt before the attempt does; whether it was there."""
    mine = (h.workspace_id == workspace_id, h.task_id == task_id, h.attempt == attempt)
    return tx.execute(delete(host_leases).where(*mine, h.kind == kind, h.name == name)).rowcount > 0


def names_on(tx: Connection, host: str, kind: LeaseKind) -> set[str]:
    """All that is lent on a machine."""
    return set(tx.execute(select(h.name).where(h.host == host, h.kind == kind)).scalars())


def drop_ended(tx: Connection, host: str, kind: LeaseKind) -> int:
    """Delete the leases on a machine whose attempts have ended, however they did; how many."""
    return len(_delete(tx, host, kind, ~_OPEN))


def ended_on(tx: Connection, host: str, kind: LeaseKind) -> list[HostLease]:
    """The leases on a machine whose attempts have ended."""
    rows = tx.execute(
        select(h.kind, h.name, h.origin).where(h.host == host, h.kind == kind, ~_OPEN).order_by(h.created_at, h.name)
    )
    return [HostLease(LeaseKind(row.kind), row.name, row.origin) for row in rows]


def forget(tx: Connection, host: str, kind: LeaseKind, names: Sequence[str]) -> None:
    """Delete these leases on a machine: what they lent is gone."""
    _delete(tx, host, kind, h.name.in_(names))


def _delete(tx: Connection, host: str, kind: LeaseKind, which: ColumnElement[bool]) -> list[str]:
    """Delete leases in one order, so that no two workers wait for each other; another one's are left to it."""
    mine = (h.host == host, h.kind == kind)
    locked = select(h.name).where(*mine, which).order_by(h.name).with_for_update(skip_locked=True)
    names = list(tx.execute(locked).scalars())
    if names:
        tx.execute(delete(host_leases).where(*mine, h.name.in_(names)))
    return names
