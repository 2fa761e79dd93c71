"""Statements on what jobs of each kind cost and how long they took: a sample of the latest ones, not a record of all.

Nobody waits here for anybody: what another transaction holds is left out, and then a few samples are missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, tuple_, update

from coordination.domain.money.estimates import JobSample, latest, read_samples
from coordination.store.tables.forecast.job_history import job_history
from coordination.store.types import clean_text, db_after, db_now

h = job_history.c

_POSTGRESQL = """
SELECT h.project_id::text, h.kind, h.samples
FROM unnest(%(projects)s::uuid[], %(kinds)s::text[]) AS wanted (project_id, kind)
JOIN job_history h ON h.project_id = ANY(ARRAY[wanted.project_id]) AND h.kind = ANY(ARRAY[wanted.kind])
WHERE h.workspace_id = %(workspace)s::uuid
"""
_SQLITE = """
SELECT h.project_id, h.kind, h.samples
FROM json_each(:wanted) AS wanted
JOIN job_history h ON h.project_id = wanted.value ->> 0 AND h.kind = wanted.value ->> 1
WHERE h.workspace_id = :workspace
"""

# Two transactions that store the first sample of a kind would wait for each other's row: only one of them tries.
_FREE = """
SELECT kind FROM unnest(%(kinds)s::text[]) AS kind
WHERE pg_try_advisory_xact_lock(hashtextextended(%(project)s || kind, 720014002))
"""


def samples_of(
    tx: Connection, workspace_id: str, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[JobSample, ...]]:
    """The samples kept for each of *keys* (a project, and the history_key of a job), the oldest first."""
    wanted = [(project_id, clean_text(kind)) for project_id, kind in dict.fromkeys(keys)]
    if not wanted:
        return {}
    if tx.dialect.name == "postgresql":
        projects, kinds = zip(*wanted, strict=True)
        asked = {"projects": list(projects), "kinds": list(kinds), "workspace": workspace_id}
        return {(row[0], row[1]): read_samples(row[2]) for row in tx.exec_driver_sql(_POSTGRESQL, asked)}
    asked = {"wanted": json.dumps(wanted), "workspace": workspace_id}
    return {(row[0], row[1]): read_samples(json.loads(row[2])) for row in tx.exec_driver_sql(_SQLITE, asked)}


_LOCKED = (
    select(h.kind, h.samples)
    .where(
        h.workspace_id == bindparam("ws"),
        h.project_id == bindparam("project"),
        h.kind.in_(bindparam("kinds", expanding=True)),
    )
    .order_by(h.kind)
    .with_for_update(skip_locked=True)
)
_LEARN = (
    update(job_history)
    .where(h.workspace_id == bindparam("ws"), h.project_id == bindparam("project"), h.kind == bindparam("known"))
    .values(samples=bindparam("kept"), ended=h.ended + bindparam("more"), updated_at=db_now())
)


def learn(tx: Connection, workspace_id: str, project_id: str, learnt: Mapping[str, Sequence[JobSample]]) -> None:
    """Add these samples, by the history_key of their jobs; those of a kind that somebody else adds to now are lost."""
    if not learnt:
        return
    learnt = {clean_text(kind): samples for kind, samples in learnt.items()}
    place = {"ws": workspace_id, "project": project_id}
    found = tx.execute(_LOCKED, {**place, "kinds": list(learnt)}).all()
    changed = [
        {
            **place,
            "known": row.kind,
            "kept": _written(latest(read_samples(row.samples), learnt[row.kind])),
            "more": len(learnt[row.kind]),
        }
        for row in found
    ]
    if changed:
        tx.execute(_LEARN, changed)
    if new := learnt.keys() - {row.kind for row in found}:
        _begin(tx, workspace_id, project_id, {kind: learnt[kind] for kind in sorted(new)})


def _begin(tx: Connection, workspace_id: str, project_id: str, learnt: Mapping[str, Sequence[JobSample]]) -> None:
    """Store the first samples of kinds, as far as there are none and nobody else does so now."""
    free: list[str] = list(learnt)
    if tx.dialect.name == "postgresql":
        free = [row[0] for row in tx.exec_driver_sql(_FREE, {"kinds": free, "project": project_id})]
    if not free:
        return
    # Also those that another workspace's row stands for, and those that are locked: they are not new.
    there = set(tx.execute(select(h.kind).where(h.project_id == project_id, h.kind.in_(free))).scalars())
    rows = [
        {
            "workspace_id": workspace_id,
            "project_id": project_id,
            "kind": kind,
            "samples": _written(latest((), learnt[kind])),
            "ended": len(learnt[kind]),
        }
        for kind in free
        if kind not in there
    ]
    if rows:
        tx.execute(insert(job_history), rows)


def forget(tx: Connection, workspace_id: str, *, age: timedelta, limit: int) -> int:
    """Delete what is known of at most so many kinds of which no job has ended for that long; how many it were."""
    found = tx.execute(
        select(h.project_id, h.kind).where(*_unused(workspace_id, age)).limit(limit).with_for_update(skip_locked=True)
    ).all()
    if found:
        chosen = tuple_(h.project_id, h.kind).in_([(row.project_id, row.kind) for row in found])
        tx.execute(delete(job_history).where(h.workspace_id == workspace_id, chosen))
    return len(found)


def count_unused(tx: Connection, workspace_id: str, *, age: timedelta) -> int:
    """How many kinds ``forget`` would delete in the end."""
    return tx.execute(select(func.count()).select_from(job_history).where(*_unused(workspace_id, age))).scalar_one()


def _unused(workspace_id: str, age: timedelta) -> tuple[ColumnElement[bool], ...]:
    return h.workspace_id == workspace_id, h.updated_at < db_after(-age.total_seconds())


def _written(samples: Sequence[JobSample]) -> list[Any]:
    return [one.to_json() for one in samples]
