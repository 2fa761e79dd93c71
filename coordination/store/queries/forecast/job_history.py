"""Statements on the job history: costs and durations of the latest jobs of each kind.

No statement waits for locks. Samples of kinds that another transaction has locked are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, tuple_, update

from coordination.domain.money.estimates import JobSample, keep_latest, read_samples
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

# Two transactions that insert the first sample of a kind would wait for each other, so only one of them tries.
_FREE = """
SELECT kind FROM unnest(%(kinds)s::text[]) AS kind
WHERE pg_try_advisory_xact_lock(hashtextextended(%(project)s || kind, 720014002))
"""


def samples_of(
    tx: Connection, workspace_id: str, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[JobSample, ...]]:
    """Return the samples for each of *keys* (project id, history_key of a job), oldest first."""
    distinct = [(project_id, clean_text(kind)) for project_id, kind in dict.fromkeys(keys)]
    if not distinct:
        return {}
    if tx.dialect.name == "postgresql":
        projects, kinds = zip(*distinct, strict=True)
        parameters: dict[str, Any] = {"projects": list(projects), "kinds": list(kinds), "workspace": workspace_id}
        return {(row[0], row[1]): read_samples(row[2]) for row in tx.exec_driver_sql(_POSTGRESQL, parameters)}
    parameters = {"wanted": json.dumps(distinct), "workspace": workspace_id}
    return {(row[0], row[1]): read_samples(json.loads(row[2])) for row in tx.exec_driver_sql(_SQLITE, parameters)}


_LOCK = (
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


def learn(tx: Connection, workspace_id: str, project_id: str, new_samples: Mapping[str, Sequence[JobSample]]) -> None:
    """Add samples by history_key. Drops those of kinds to which another transaction adds now."""
    if not new_samples:
        return
    new_samples = {clean_text(kind): samples for kind, samples in new_samples.items()}
    project = {"ws": workspace_id, "project": project_id}
    locked = tx.execute(_LOCK, {**project, "kinds": list(new_samples)}).all()
    changed = [
        {
            **project,
            "known": row.kind,
            "kept": _to_json(keep_latest(read_samples(row.samples), new_samples[row.kind])),
            "more": len(new_samples[row.kind]),
        }
        for row in locked
    ]
    if changed:
        tx.execute(_LEARN, changed)
    if new := new_samples.keys() - {row.kind for row in locked}:
        _insert_new(tx, workspace_id, project_id, {kind: new_samples[kind] for kind in sorted(new)})


def _insert_new(
    tx: Connection, workspace_id: str, project_id: str, new_samples: Mapping[str, Sequence[JobSample]]
) -> None:
    """Insert the first samples of kinds, unless they exist or another transaction inserts them now."""
    free: list[str] = list(new_samples)
    if tx.dialect.name == "postgresql":
        free = [row[0] for row in tx.exec_driver_sql(_FREE, {"kinds": free, "project": project_id})]
    if not free:
        return
    # Includes locked rows and those of another workspace: they are not new.
    existing = set(tx.execute(select(h.kind).where(h.project_id == project_id, h.kind.in_(free))).scalars())
    rows = [
        {
            "workspace_id": workspace_id,
            "project_id": project_id,
            "kind": kind,
            "samples": _to_json(keep_latest((), new_samples[kind])),
            "ended": len(new_samples[kind]),
        }
        for kind in free
        if kind not in existing
    ]
    if rows:
        tx.execute(insert(job_history), rows)


def forget(tx: Connection, workspace_id: str, *, age: timedelta, limit: int) -> int:
    """Delete the history of at most *limit* kinds without an ended job for that long, and return how many."""
    unused = tx.execute(
        select(h.project_id, h.kind).where(*_unused(workspace_id, age)).limit(limit).with_for_update(skip_locked=True)
    ).all()
    if unused:
        chosen = tuple_(h.project_id, h.kind).in_([(row.project_id, row.kind) for row in unused])
        tx.execute(delete(job_history).where(h.workspace_id == workspace_id, chosen))
    return len(unused)


def count_unused(tx: Connection, workspace_id: str, *, age: timedelta) -> int:
    """Count the kinds that ``forget`` would delete."""
    return tx.execute(select(func.count()).select_from(job_history).where(*_unused(workspace_id, age))).scalar_one()


def _unused(workspace_id: str, age: timedelta) -> tuple[ColumnElement[bool], ...]:
    return h.workspace_id == workspace_id, h.updated_at < db_after(-age.total_seconds())


def _to_json(samples: Sequence[JobSample]) -> list[Any]:
    return [sample.to_json() for sample in samples]
