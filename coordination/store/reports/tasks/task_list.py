"""The tasks of a run as a list shows them: a few columns of every row, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, func, select, type_coerce

from coordination.domain.tasks.tasks import BlockReason
from coordination.store.queries.access.principals import name_of
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import Str

t = tasks.c
_AT_ONCE = 1000


class TaskLine(NamedTuple):
    """One task. ``reasons`` are words, moments ISO 8601 in UTC."""

    id: str
    key: str
    title: str
    state: str
    reasons: tuple[str, ...]
    error: str | None
    priority: int
    attempt: int
    agent: str | None
    created_at: str
    updated_at: str
    finished_at: str | None

    @property
    def why(self) -> str:
        """What holds it, or else why it did not succeed."""
        return ", ".join(self.reasons) or self.error or ""


@dataclass(frozen=True, slots=True)
class ColumnWidths:
    """How long the longest text of each column is, in characters, and how many tasks there are."""

    tasks: int = 0
    key: int = 0
    why: int = 0
    agent: int = 0


AGENT = name_of(t.agent_id).label("agent")

# The types of a driver, where ours would build an object of every value.
_COLUMNS = (
    t.id,
    t.key,
    t.title,
    t.state,
    type_coerce(t.reasons, Integer),
    t.error,
    t.priority,
    t.attempt,
    AGENT,
    *(type_coerce(column, Str) for column in (t.created_at, t.updated_at, t.finished_at)),
)


def longest(tx: Connection, workspace_id: str, run_id: str) -> ColumnWidths:
    """What a table of the run's tasks needs to know before its first line."""
    groups = tx.execute(
        select(
            type_coerce(t.reasons, Integer),
            func.count(),
            func.max(func.length(t.key)),
            func.max(func.length(AGENT)),
            func.max(func.length(t.error)),
        )
        .where(t.workspace_id == workspace_id, t.run_id == run_id)
        .group_by(t.reasons)
    ).all()
    return ColumnWidths(
        tasks=sum(number for _, number, *_ in groups),
        key=max((key for _, _, key, _, _ in groups), default=0),
        agent=max((agent or 0 for *_, agent, _ in groups), default=0),
        why=max((len(", ".join(_words(reasons))) or error or 0 for reasons, *_, error in groups), default=0),
    )


def each(tx: Connection, workspace_id: str, run_id: str) -> Iterator[TaskLine]:
    """The run's tasks in the order of the plan, a thousand rows in memory at a time."""
    statement = select(*_COLUMNS).where(t.workspace_id == workspace_id, t.run_id == run_id).order_by(t.id)
    known: dict[int, tuple[str, ...]] = {}
    with tx.execution_options(yield_per=_AT_ONCE).execute(statement) as rows:
        for row in rows:
            id_, key, title, state, mask, error, priority, attempt, agent, created, updated, finished = row
            reasons = known.get(mask)
            if reasons is None:
                reasons = known[mask] = _words(mask)
            if type(created) is not str:  # PostgreSQL has moments; SQLite the texts themselves
                created, updated, finished = _iso(created), _iso(updated), finished and _iso(finished)
            yield TaskLine(id_, key, title, state, reasons, error, priority, attempt, agent, created, updated, finished)


def newest_run(tx: Connection, workspace_id: str, project_id: str) -> str | None:
    """The id of the project's newest run."""
    r = runs.c
    newest = select(r.id).where(r.workspace_id == workspace_id, r.project_id == project_id).order_by(r.id.desc())
    return tx.execute(newest.limit(1)).scalar()


def _words(mask: int) -> tuple[str, ...]:
    return tuple(BlockReason(mask).names())


def _iso(moment: Any) -> str:
    assert isinstance(moment, datetime)  # noqa: S101 - a type, for the reader
    return moment.astimezone(UTC).isoformat()
