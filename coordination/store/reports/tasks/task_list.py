"""The task list of a run: a few columns of every task, read as a stream."""

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
    """A line of the list. ``reasons`` are names, moments are ISO 8601 in UTC."""

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
        """Why it is blocked, or else its error."""
        return ", ".join(self.reasons) or self.error or ""


@dataclass(frozen=True, slots=True)
class ColumnWidths:
    """The length of the longest text of each column, in characters, and the number of tasks."""

    tasks: int = 0
    key: int = 0
    why: int = 0
    agent: int = 0


AGENT = name_of(t.agent_id).label("agent")

# The driver's types: ours would create an object for every value.
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


def measure_columns(tx: Connection, workspace_id: str, run_id: str) -> ColumnWidths:
    """Return the widths for a table of the run's tasks."""
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
        why=max((len(", ".join(_names(reasons))) or error or 0 for reasons, *_, error in groups), default=0),
    )


def stream_tasks(tx: Connection, workspace_id: str, run_id: str) -> Iterator[TaskLine]:
    """Yield the run's tasks in the order of the plan, with a thousand rows in memory at a time."""
    statement = select(*_COLUMNS).where(t.workspace_id == workspace_id, t.run_id == run_id).order_by(t.id)
    names_by_mask: dict[int, tuple[str, ...]] = {}
    with tx.execution_options(yield_per=_AT_ONCE).execute(statement) as rows:
        for row in rows:
            id_, key, title, state, mask, error, priority, attempt, agent, created, updated, finished = row
            reasons = names_by_mask.get(mask)
            if reasons is None:
                reasons = names_by_mask[mask] = _names(mask)
            if type(created) is not str:  # PostgreSQL returns datetimes, SQLite texts
                created, updated, finished = _iso(created), _iso(updated), finished and _iso(finished)
            yield TaskLine(id_, key, title, state, reasons, error, priority, attempt, agent, created, updated, finished)


def newest_run(tx: Connection, workspace_id: str, project_id: str) -> str | None:
    """Return the id of the project's newest run, or None."""
    r = runs.c
    newest = select(r.id).where(r.workspace_id == workspace_id, r.project_id == project_id).order_by(r.id.desc())
    return tx.execute(newest.limit(1)).scalar()


def _names(mask: int) -> tuple[str, ...]:
    return tuple(BlockReason(mask).names())


def _iso(moment: Any) -> str:
    assert isinstance(moment, datetime)  # noqa: S101 - a type, for the reader
    return moment.astimezone(UTC).isoformat()
