"""Running attempts with their latest sign of progress (report, output, tool call or heartbeat) and their costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, func, select

from coordination.domain.tasks.events import EventType
from coordination.store.queries.money import costs
from coordination.store.tables.fleet.workers import workers
from coordination.store.tables.jobs.output import output_chunks
from coordination.store.tables.projects.projects import projects
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.tables.tasks.events import event_log
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now, looked_up

a, e, o = attempts.c, event_log.c, output_chunks.c


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A running attempt. ``sign``: its latest sign of progress: report, output, work or heartbeat.

    *work* is a tool call, a model call or output that is not stored yet; *heartbeat* only shows that the worker is
    alive. ``report``: the text of its latest report. ``cost_usd``: of the task so far, of calls with a known price.
    """

    project: str
    run_id: str
    run: str | None
    task_id: str
    key: str
    attempt: int
    worker: str | None
    started_at: datetime
    now: datetime
    sign: str
    sign_at: datetime
    report: str | None
    cost_usd: Decimal
    unpriced_calls: int


def list_running_tasks(tx: Connection, workspace_id: str, *, most: int = 20) -> tuple[list[RunningTask], int]:
    """Return the *most* longest running attempts, and the number of all running ones.

    Details are looked up by task, so that the duration does not grow with the store.
    """
    open_ = (a.workspace_id == workspace_id, a.finished_at.is_(None))
    number = tx.execute(select(func.count()).select_from(attempts).where(*open_)).scalar_one()
    oldest = (
        select(a.task_id, a.number, a.project_id, a.worker_id, a.started_at, a.heartbeat_at, a.progress_at)
        .where(*open_)
        .order_by(a.started_at)
        .limit(most)
        .subquery()
    )
    c = oldest.c
    rows = tx.execute(
        select(
            oldest,
            tasks.c.key,
            tasks.c.run_id,
            runs.c.name.label("run"),
            projects.c.name.label("project"),
            workers.c.name.label("worker"),
            db_now().label("now"),
        )
        .join(tasks, tasks.c.id == looked_up(c.task_id))
        .join(runs, runs.c.id == looked_up(tasks.c.run_id))
        .join(projects, projects.c.id == c.project_id)
        .outerjoin(workers, workers.c.id == c.worker_id)
        .order_by(c.started_at)
    ).mappings()
    return [_running(tx, workspace_id, row) for row in rows.all()], number


def _running(tx: Connection, workspace_id: str, row: Any) -> RunningTask:
    of_task = (e.workspace_id == workspace_id, e.task_id == row["task_id"], e.attempt == row["number"])
    latest = select(e.created_at, e.payload).where(*of_task, e.type == EventType.PROGRESS)
    # The order of the index: by seq alone, the planner may read all events.
    reported = tx.execute(latest.order_by(e.task_id.desc(), e.seq.desc()).limit(1)).first()
    of_attempt = (o.workspace_id == workspace_id, o.task_id == row["task_id"], o.attempt == row["number"])
    printed = tx.execute(select(func.max(o.written_at)).where(*of_attempt)).scalar()
    signs = {"heartbeat": row["heartbeat_at"], "work": row["progress_at"], "output": printed}
    if reported is not None:
        signs["report"] = reported.created_at
    # A heartbeat is used only without other signs.
    progress = {name: at for name, at in signs.items() if at is not None and name != "heartbeat"}
    sign = max(progress, key=lambda name: progress[name]) if progress else "heartbeat"
    cost, _calls, unpriced = costs.total(tx, workspace_id, task_id=row["task_id"])
    return RunningTask(
        **{name: row[name] for name in ("project", "run_id", "run", "task_id", "key", "worker", "started_at", "now")},
        attempt=row["number"],
        sign=sign,
        sign_at=signs[sign],
        report=None if reported is None else _report_text(reported.payload),
        cost_usd=cost,
        unpriced_calls=unpriced,
    )


def _report_text(payload: Any) -> str | None:
    """Return a report as text for people: its text and percentage, else its names and values."""
    if not isinstance(payload, dict):
        return None
    percent = payload.get("percent")
    done = f" ({percent:g} %)" if isinstance(percent, int | float) and not isinstance(percent, bool) else ""
    if isinstance(payload.get("text"), str):
        return f"{payload['text']}{done}"
    values = {name: value for name, value in payload.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{name} {value}" for name, value in values.items()) or None
