"""Statements on host resources leased to attempts: free when the attempt has ended.

Queries by host span workspaces, because all workspaces share its ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, delete, exists, select

from coordination.store.driver import insert_into
from coordination.store.tables.fleet.host_leases import host_leases
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.types import db_now

h, a = host_leases.c, attempts.c

_OPEN = exists().where(a.task_id == h.task_id, a.number == h.attempt, a.finished_at.is_(None))


class LeaseKind(StrEnum):
    """The kinds of host resources."""

    PORT = "port"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class HostLease:
    """One leased resource. ``origin``: the URL, as in the plan, of the database that this one is a copy of."""

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
    """Lease a resource to the attempt. Return False when another one has it."""
    resource = {"host": host, "kind": kind, "name": name, "origin": origin, "created_at": db_now()}
    owner = {"workspace_id": workspace_id, "task_id": task_id, "attempt": attempt}
    statement = insert_into(tx, host_leases).values(**resource, **owner).on_conflict_do_nothing()
    return tx.execute(statement.returning(h.name)).first() is not None


def of_attempt(tx: Connection, workspace_id: str, task_id: str, attempt: int) -> list[HostLease]:
    """Return what the running attempt has leased, with ports in numerical order."""
    rows = tx.execute(
        select(h.kind, h.name, h.origin)
        .where(h.workspace_id == workspace_id, h.task_id == task_id, h.attempt == attempt, _OPEN)
        .order_by(h.kind, h.name)
    )
    leases = [HostLease(LeaseKind(row.kind), row.name, row.origin) for row in rows]
    return sorted(leases, key=lambda lease: (lease.kind, len(lease.name), lease.name))


def names_on(tx: Connection, host: str, kind: LeaseKind) -> set[str]:
    """Return the names of all leased resources of a kind on a host."""
    return set(tx.execute(select(h.name).where(h.host == host, h.kind == kind)).scalars())


def delete_ended(tx: Connection, host: str, kind: LeaseKind) -> int:
    """Delete the leases on a host whose attempts have ended, and return how many."""
    return len(_delete(tx, host, kind, ~_OPEN))


def list_ended(tx: Connection, host: str, kind: LeaseKind) -> list[HostLease]:
    """Return the leases on a host whose attempts have ended."""
    rows = tx.execute(
        select(h.kind, h.name, h.origin).where(h.host == host, h.kind == kind, ~_OPEN).order_by(h.created_at, h.name)
    )
    return [HostLease(LeaseKind(row.kind), row.name, row.origin) for row in rows]


def delete_named(tx: Connection, host: str, kind: LeaseKind, names: Sequence[str]) -> None:
    """Delete these leases on a host."""
    _delete(tx, host, kind, h.name.in_(names))


def _delete(tx: Connection, host: str, kind: LeaseKind, which: ColumnElement[bool]) -> list[str]:
    """Delete leases in a fixed order, so that no two workers wait for each other. Skip rows locked by another one."""
    on_host = (h.host == host, h.kind == kind)
    locked = select(h.name).where(*on_host, which).order_by(h.name).with_for_update(skip_locked=True)
    names = list(tx.execute(locked).scalars())
    if names:
        tx.execute(delete(host_leases).where(*on_host, h.name.in_(names)))
    return names
