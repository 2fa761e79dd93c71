"""Statements on concurrency slots: a claim takes them, the attempt's end gives them back, a tick recounts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, or_, select, update

from coordination.domain.jobs.checkouts import MERGE_KEY, merge_key
from coordination.store.driver import insert_into
from coordination.store.queries.access.principals import agent_ids, names_of
from coordination.store.tables.tasks.attempts import attempts, slots
from coordination.store.tables.tasks.tasks import tasks

s = slots.c
_OF_AGENT = "agent:"

_OF_PROJECT = select(s.name, s.cap, s.used).where(
    s.workspace_id == bindparam("ws"), s.project_id == bindparam("project")
)
_LOCKED = _OF_PROJECT.order_by(s.name).with_for_update()


def lock(tx: Connection, workspace_id: str, project_id: str) -> dict[str, int]:
    """Lock all slots of the project in name order. Return the free places by name; empty without limits."""
    rows = tx.execute(_LOCKED, {"ws": workspace_id, "project": project_id})
    return {row.name: row.cap - row.used for row in rows}


def count_free(tx: Connection, workspace_id: str, project_id: str) -> dict[str, int]:
    """Return the free places by slot name, without a lock."""
    rows = tx.execute(_OF_PROJECT, {"ws": workspace_id, "project": project_id})
    return {row.name: row.cap - row.used for row in rows}


def exclude_full(places: Mapping[str, int]) -> list[ColumnElement[bool]]:
    """Return conditions on tasks that exclude those whose agent or key has no free place."""
    full = [name for name, number in places.items() if number <= 0]
    agents = [name.removeprefix(_OF_AGENT) for name in full if name.startswith(_OF_AGENT)]
    keys = [name.removeprefix("key:") for name in full if name.startswith("key:")]
    columns = ((tasks.c.agent_id, agents), (tasks.c.concurrency_key, keys))
    return [or_(column.is_(None), column.not_in(names)) for column, names in columns if names]


def list_slots(tx: Connection, workspace_id: str, project_id: str) -> list[dict[str, Any]]:
    """Return name (with agents by name), cap and used of every slot of the project."""
    rows = tx.execute(_OF_PROJECT, {"ws": workspace_id, "project": project_id}).all()
    ids = [row.name.removeprefix(_OF_AGENT) for row in rows if row.name.startswith(_OF_AGENT)]
    names = {_OF_AGENT + agent_id: _OF_AGENT + name for agent_id, name in names_of(tx, workspace_id, ids).items()}
    result = [{"name": names.get(row.name, row.name), "cap": row.cap, "used": row.used} for row in rows]
    return sorted(result, key=itemgetter("name"))


def stored_name(tx: Connection, workspace_id: str, name: str) -> str:
    """Return the stored name of a limit, which has an agent's id instead of its name."""
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
    """Take places of locked slots."""
    _move(tx, workspace_id, project_id, counts, 1)


def give_back(tx: Connection, workspace_id: str, project_id: str, names: Sequence[str]) -> None:
    """Give back the places of ended attempts (a name once per place).

    Locks all slots of the project, as claims do: a claim may follow in the same transaction.
    """
    if names:
        lock(tx, workspace_id, project_id)
        _move(tx, workspace_id, project_id, Counter(names), -1)


def _move(tx: Connection, workspace_id: str, project_id: str, counts: Mapping[str, int], sign: int) -> None:
    rows = [
        {"ws": workspace_id, "project": project_id, "slot": name, "n": sign * counts[name]} for name in sorted(counts)
    ]
    if rows:
        tx.execute(_MOVE, rows)


def set_caps(tx: Connection, workspace_id: str, project_id: str, caps: Mapping[str, int]) -> None:
    """Create slots or change their caps; used places stay."""
    is_ours = s.workspace_id == workspace_id
    for new in _inserts(tx, workspace_id, project_id, caps):
        change = {"index_elements": ["project_id", "name"], "set_": {"cap": new.excluded.cap}, "where": is_ours}
        tx.execute(new.on_conflict_do_update(**change))


def ensure(tx: Connection, workspace_id: str, project_id: str, caps: Mapping[str, int]) -> None:
    """Create the slots that do not exist yet."""
    for new in _inserts(tx, workspace_id, project_id, caps):
        tx.execute(new.on_conflict_do_nothing())


def _inserts(tx: Connection, workspace_id: str, project_id: str, caps: Mapping[str, int]) -> Iterator[Any]:
    """Yield an INSERT for each slot, by stored name."""
    stored = {stored_name(tx, workspace_id, name): cap for name, cap in caps.items()}
    for name, cap in sorted(stored.items()):
        key = {"workspace_id": workspace_id, "project_id": project_id, "name": name}
        yield insert_into(tx, slots).values(**key, cap=cap, used=0)


def drop(tx: Connection, workspace_id: str, project_id: str, name: str) -> bool:
    """Remove a limit; return whether there was one."""
    name = stored_name(tx, workspace_id, name)
    where = s.workspace_id == workspace_id, s.project_id == project_id, s.name == name
    return tx.execute(delete(slots).where(*where)).rowcount > 0


def drop_merge_limits(tx: Connection, workspace_id: str, project_id: str, *, keep: Sequence[str]) -> None:
    """Remove the unused limits of conflict tasks, except those of the runs *keep*.

    The caller has locked all slots of the project. A claim creates a missing limit again.
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
    """Set every counter to the number of slots of open attempts. Return the names of the wrong ones.

    A safeguard: without it, a leak would be permanent.
    """
    rows = tx.execute(_LOCKED, {"ws": workspace_id, "project": project_id})
    stored = {row.name: row.used for row in rows}
    if not stored:
        return []
    actual: Counter[str] = Counter()
    for names in tx.execute(
        select(attempts.c.slots).where(
            attempts.c.workspace_id == workspace_id,
            attempts.c.project_id == project_id,
            attempts.c.finished_at.is_(None),
            attempts.c.slots.is_not(None),
        )
    ).scalars():
        actual.update(names)
    wrong = {name: actual[name] for name, used in stored.items() if used != actual[name]}
    for name, used in sorted(wrong.items()):
        where = s.workspace_id == workspace_id, s.project_id == project_id, s.name == name
        tx.execute(update(slots).where(*where).values(used=used))
    return sorted(wrong)
