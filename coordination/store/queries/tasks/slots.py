"""Statements on concurrency slots: taken in the claim, given back by the attempt's end, recounted by the healer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, or_, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from coordination.domain.jobs.checkouts import MERGE_KEY, merge_key
from coordination.store.queries.access.principals import agent_ids, names_of
from coordination.store.tables.tasks.attempts import attempts, slots
from coordination.store.tables.tasks.tasks import tasks

s = slots.c
_OF_AGENT = "agent:"

_LOCKED = (
    select(s.name, s.cap, s.used)
    .where(s.workspace_id == bindparam("ws"), s.project_id == bindparam("project"))
    .order_by(s.name)
    .with_for_update()
)


def lock(tx: Connection, workspace_id: str, project_id: str) -> dict[str, int]:
    """Free places by slot name, locked in name order; empty when the project has no limits."""
    rows = tx.execute(_LOCKED, {"ws": workspace_id, "project": project_id})
    return {row.name: row.cap - row.used for row in rows}


_FREE = select(s.name, s.cap, s.used).where(s.workspace_id == bindparam("ws"), s.project_id == bindparam("project"))


def free(tx: Connection, workspace_id: str, project_id: str) -> dict[str, int]:
    """Free places by slot name, as they look now (no lock)."""
    rows = tx.execute(_FREE, {"ws": workspace_id, "project": project_id})
    return {row.name: row.cap - row.used for row in rows}


def without_full(places: Mapping[str, int]) -> list[ColumnElement[bool]]:
    """Conditions on tasks: none of a project's limits on an agent or a key that has no free place applies to them."""
    full = [name for name, number in places.items() if number <= 0]
    agents = [name.removeprefix("agent:") for name in full if name.startswith("agent:")]
    keys = [name.removeprefix("key:") for name in full if name.startswith("key:")]
    columns = ((tasks.c.agent_id, agents), (tasks.c.concurrency_key, keys))
    return [or_(column.is_(None), column.not_in(names)) for column, names in columns if names]


def listed(tx: Connection, workspace_id: str, project_id: str) -> list[dict[str, Any]]:
    """Return name, cap and used of every slot of the project, as people name them."""
    rows = tx.execute(
        select(s.name, s.cap, s.used).where(s.workspace_id == workspace_id, s.project_id == project_id).order_by(s.name)
    ).all()
    ids = [row.name.removeprefix(_OF_AGENT) for row in rows if row.name.startswith(_OF_AGENT)]
    names = {_OF_AGENT + agent_id: _OF_AGENT + name for agent_id, name in names_of(tx, workspace_id, ids).items()}
    found = [{"name": names.get(row.name, row.name), "cap": row.cap, "used": row.used} for row in rows]
    return sorted(found, key=itemgetter("name"))


def stored_name(tx: Connection, workspace_id: str, name: str) -> str:
    """Return the name under which a limit is stored, which names an agent by its id."""
    if not name.startswith(_OF_AGENT):
        return name
    agent = name.removeprefix(_OF_AGENT)
    return _OF_AGENT + agent_ids(tx, workspace_id, [agent])[agent]


_MOVE = (
    update(slots)
    .where(s.workspace_id == bindparam("ws"), s.project_id == bindparam("project"), s.name == bindparam("slot"))
    .values(used=case((s.used + bindparam("n") < 0, 0), else_=s.used + bindparam("n")))
)


def take(tx: Connection, workspace_id: str, project_id: str, counts: Mapping[str, int]) -> None:
    """Use places of locked slots."""
    _move(tx, workspace_id, project_id, counts, 1)


def give_back(tx: Connection, workspace_id: str, project_id: str, held: Sequence[str]) -> None:
    """Give back the places that ended attempts held (a name once per place).

    All slots of the project are locked, as in claims: a claim may follow in the same transaction.
    """
    if held:
        lock(tx, workspace_id, project_id)
        _move(tx, workspace_id, project_id, Counter(held), -1)


def _move(tx: Connection, workspace_id: str, project_id: str, counts: Mapping[str, int], sign: int) -> None:
    rows = [
        {"ws": workspace_id, "project": project_id, "slot": name, "n": sign * counts[name]} for name in sorted(counts)
    ]
    if rows:
        tx.execute(_MOVE, rows)


def set_caps(tx: Connection, workspace_id: str, project_id: str, caps: Mapping[str, int]) -> None:
    """Create slots or change their caps; what is used stays."""
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    stored = {stored_name(tx, workspace_id, name): cap for name, cap in caps.items()}
    for name in sorted(stored):
        statement = make(slots).values(
            workspace_id=workspace_id, project_id=project_id, name=name, cap=stored[name], used=0
        )
        tx.execute(
            statement.on_conflict_do_update(
                index_elements=["project_id", "name"],
                set_={"cap": statement.excluded.cap},
                where=s.workspace_id == workspace_id,
            )
        )


def ensure(tx: Connection, workspace_id: str, project_id: str, caps: Mapping[str, int]) -> None:
    """Create the slots that do not exist yet."""
    make = pg_insert if tx.dialect.name == "postgresql" else sqlite_insert
    stored = {stored_name(tx, workspace_id, name): cap for name, cap in caps.items()}
    for name in sorted(stored):
        tx.execute(
            make(slots)
            .values(workspace_id=workspace_id, project_id=project_id, name=name, cap=stored[name], used=0)
            .on_conflict_do_nothing()
        )


def drop(tx: Connection, workspace_id: str, project_id: str, name: str) -> bool:
    """Remove a limit; return whether there was one."""
    name = stored_name(tx, workspace_id, name)
    return (
        tx.execute(
            delete(slots).where(s.workspace_id == workspace_id, s.project_id == project_id, s.name == name)
        ).rowcount
        > 0
    )


def drop_merge_limits(tx: Connection, workspace_id: str, project_id: str, *, keep: Sequence[str]) -> None:
    """Remove the limits of conflict tasks that nobody holds, but for those of the runs *keep*: each has one of its own.

    The caller has locked all slots of the project. A claim stores one anew where it is missing.
    """
    tx.execute(
        delete(slots).where(
            s.workspace_id == workspace_id,
            s.project_id == project_id,
            s.name.startswith(f"key:{MERGE_KEY}", autoescape=True),
            s.name.not_in([f"key:{merge_key(run_id)}" for run_id in keep]),
            s.used == 0,
        )
    )


def recount(tx: Connection, workspace_id: str, project_id: str) -> list[str]:
    """Set every counter to what open attempts really hold; the names of those that were wrong.

    The healer: nothing should ever need it, and a leak would otherwise stay for ever.
    """
    found = {
        row.name: row.used
        for row in tx.execute(
            select(s.name, s.used)
            .where(s.workspace_id == workspace_id, s.project_id == project_id)
            .order_by(s.name)
            .with_for_update()
        )
    }
    if not found:
        return []
    held: Counter[str] = Counter()
    for names in tx.execute(
        select(attempts.c.slots).where(
            attempts.c.workspace_id == workspace_id,
            attempts.c.project_id == project_id,
            attempts.c.finished_at.is_(None),
            attempts.c.slots.is_not(None),
        )
    ).scalars():
        held.update(names)
    wrong = {name: held[name] for name, used in found.items() if used != held[name]}
    for name, used in sorted(wrong.items()):
        tx.execute(
            update(slots)
            .where(s.workspace_id == workspace_id, s.project_id == project_id, s.name == name)
            .values(used=used)
        )
    return sorted(wrong)
